"""Replays of recorded cases: is every number that of the original PyTorch program?

`python -m dtp_jax.parity FILE.npz ...`; see `__main__.py`.
"""

from dtp_jax.parity.case import Case, ParityError, open_case
from dtp_jax.parity.compare import Row, compare
from dtp_jax.parity.replay import replay

__all__ = ["Case", "ParityError", "Row", "compare", "open_case", "replay"]
