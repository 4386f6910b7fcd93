"""The experiments. `--config=NAME` takes any of them; `default` has every field."""
