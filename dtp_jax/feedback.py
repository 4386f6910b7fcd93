"""The door to `dtp_jax.learning.feedback`, where users of the library look for it."""

import sys

from dtp_jax.learning import feedback

sys.modules[__name__] = feedback
