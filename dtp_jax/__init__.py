"""Difference target propagation with learned backprop targets (L-DRL), in JAX.

The public names are in `__init__.pyi`. Each is imported when it is first used, so that a program can
say what it does before JAX is there.
"""

import lazy_loader

from dtp_jax.version import __version__

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
