"""Weights in and out: safetensors files of a run, and runs that start from weights of elsewhere."""

from dtp_jax.export.runs import export_run, import_weights
from dtp_jax.export.weights import WeightsError, match, read, write

__all__ = ["WeightsError", "export_run", "import_weights", "match", "read", "write"]
