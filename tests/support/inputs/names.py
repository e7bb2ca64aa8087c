"""Names and paths as people give them."""
