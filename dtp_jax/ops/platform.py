"""For which platform a program is compiled, and what is computed in another way there.

The numbers are the same everywhere but for rounding; tests hold the forms together on one device.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from dtp_jax import fields

Array = jax.Array


class Form(NamedTuple):
    """Where the fast way of one platform is the slow one of another. docs/performance.md has the numbers."""

    own_convolutions: bool
    """Convolutions are matrix products of `ops/conv.py`, not XLA's own."""
    batch_slices: bool
    """A large batch is gone through in slices that fit the caches."""
    noise_carried: bool
    """An iteration's noise is drawn in the one before. XLA:CPU would compute each normal again in every
    operation that reads it; drawn before, it also fills the gaps that products leave on a core."""
    ahead: float
    """If what an iteration needs that does not depend on omega has at most so many bytes, it is computed for
    several iterations at once: few large kernels, and only the rest one after the other."""
    turn: int
    """Of so many iterations: one turn of the compiled loop, in which they are written one by one."""
    paired_gradients: bool
    """Both gradients of a kernel are one product over a batch of pairs. Elsewhere the pairs are copies."""
    sample_axis: bool
    """A single noise sample keeps its axis of length one, which a TPU would lay out."""
    computed_per_use: bool
    """Cheap arrays are computed inside each operation that reads them, where a TPU hides it behind products;
    else once, and kept in memory."""
    wide_indices: bool
    """Pool indices are compared as float32: bytes are laid out in other tiles, and made to fit by copies."""
    kernels_out_first: bool
    """In the loop, kernels lie with output channels first, as cuDNN wants them."""
    flat_images: bool
    """The images of a data set lie on the device as rows of pixels. With axes of their own a TPU pads 3 channels to
    a tile of 128 before it takes a batch: ImageNet 32x32 would need 18 GB."""


FORMS = {
    "cpu": Form(
        own_convolutions=True,
        batch_slices=True,
        noise_carried=True,
        ahead=0,
        turn=1,
        paired_gradients=True,
        sample_axis=True,
        computed_per_use=False,
        wide_indices=False,
        kernels_out_first=False,
        flat_images=False,
    ),
    "gpu": Form(
        own_convolutions=False,
        batch_slices=False,
        noise_carried=False,
        ahead=math.inf,
        turn=5,
        paired_gradients=False,
        sample_axis=False,
        computed_per_use=False,
        wide_indices=False,
        kernels_out_first=True,
        flat_images=False,
    ),
    "tpu": Form(
        own_convolutions=False,
        batch_slices=False,
        noise_carried=False,
        ahead=2**21,
        turn=5,
        paired_gradients=False,
        sample_axis=False,
        computed_per_use=True,
        wide_indices=True,
        kernels_out_first=False,
        flat_images=True,
    ),
}
"""By platform, as JAX names them; another one has the form of a GPU."""
_current: ContextVar[Form | None] = ContextVar("form", default=None)


@contextlib.contextmanager
def compiled_for(platform: str | None) -> Iterator[None]:
    """A context; programs traced in it have the form of this platform. None: that of JAX's default backend.

    Raises:
      ValueError: one line; it is none of FORMS.
    """
    if platform is not None and platform not in FORMS:
        raise fields.error("platform", platform, ", ".join(FORMS))
    with in_form(None if platform is None else FORMS[platform]):
        yield


@contextlib.contextmanager
def in_form(form: Form | None) -> Iterator[None]:
    """A context; programs traced in it have this form."""
    token = _current.set(form)
    try:
        yield
    finally:
        _current.reset(token)


def form() -> Form:
    """The form of the platform that is compiled for."""
    return _current.get() or FORMS.get(jax.default_backend(), FORMS["gpu"])


def for_each_use(f: Callable[..., Any], *args: Any, uses: int) -> tuple[Any, ...]:
    """f(*args) `uses` times, for as many operations that read it.

    With `computed_per_use` these are different computations, each of which XLA can put into the operation
    that reads it. Else they are one and the same.
    """
    if not form().computed_per_use:
        return (f(*args),) * uses
    copies = [args]
    for _ in range(uses - 1):
        copies.append(jax.lax.optimization_barrier(copies[-1]))
    return tuple(f(*copy) for copy in copies)


def kept(tree: Any) -> Any:
    """The same tree, computed where it stands: XLA:TPU would compute it again in each turn of a loop that reads it."""
    return jax.lax.optimization_barrier(tree) if form().computed_per_use else tree
