"""One run, from its config to its summary: the command line, the loop, the folder, the screen."""
