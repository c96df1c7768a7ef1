"""Networks that encode texts, and views of texts."""
