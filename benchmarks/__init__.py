"""Measurements of this project, and the PyTorch program it is measured against."""
