"""Task tables, method files and configurations as people write them."""
