"""Sends what a tool does to Slurm, or to processes of this machine, through submitit."""
