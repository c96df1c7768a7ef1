"""Results as one HTML file that opens without a network: tables to sort and filter, charts, what made them."""
