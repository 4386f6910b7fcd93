"""The figures of the paper: one command for each, from training to picture."""
