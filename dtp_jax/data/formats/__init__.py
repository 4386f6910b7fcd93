"""File formats: each finds its files in a folder, counts their examples, and reads them."""
