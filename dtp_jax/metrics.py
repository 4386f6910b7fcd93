"""The door to `dtp_jax.learning.metrics`, where users of the library look for it."""

import sys

from dtp_jax.learning import metrics

sys.modules[__name__] = metrics
