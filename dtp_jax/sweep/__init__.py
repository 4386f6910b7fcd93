"""A search for the values of a config that validate best. What a config file needs is in `dtp_jax.sweep.space`."""
