"""Results beside the publications, row by row: what is run, how, and the page that shows it."""
