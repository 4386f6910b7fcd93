"""Several configs over several seeds: one table, one picture."""

from dtp_jax.compare.plan import Entry, parse_configs
from dtp_jax.compare.report import Row, row, write_report
from dtp_jax.compare.runs import Result, Run, run_all

__all__ = ["Entry", "Result", "Row", "Run", "parse_configs", "row", "run_all", "write_report"]
