"""What runs have come to: one page to send to a colleague, or a text in the terminal."""
