"""Results as one HTML file that opens without a network: sortable and filterable tables, charts, and their origin."""
