"""The door to `dtp_jax.learning.optim`, where users of the library look for it."""

import sys

from dtp_jax.learning import optim

sys.modules[__name__] = optim
