"""Array operations that every network is made of.

Images are NHWC, kernels HWIO. All functions are pure, differentiable and free of gathers, so they
give the same numbers on every backend and run fast inside `jax.lax.scan`.
"""

from dtp_jax.ops.asymmetric import Asymmetric, Shifted, StandIn, linear
from dtp_jax.ops.conv import IMPLEMENTATIONS, conv, conv_transpose, pixel_copies
from dtp_jax.ops.noise import index_terms, random_words, standard_normal
from dtp_jax.ops.platform import FORMS, compiled_for, for_each_use, form, in_form, kept
from dtp_jax.ops.pool import adaptive_average_pool, max_pool, max_unpool, pooled_size
from dtp_jax.ops.precision import PRECISIONS, as_operands, product_dtype, products_in
from dtp_jax.ops.units import ACTIVATIONS, activation, uniform_fan_in, xavier_normal

__all__ = [
    "ACTIVATIONS",
    "Asymmetric",
    "FORMS",
    "IMPLEMENTATIONS",
    "PRECISIONS",
    "Shifted",
    "StandIn",
    "activation",
    "adaptive_average_pool",
    "as_operands",
    "compiled_for",
    "conv",
    "conv_transpose",
    "for_each_use",
    "form",
    "in_form",
    "index_terms",
    "kept",
    "linear",
    "max_pool",
    "max_unpool",
    "pixel_copies",
    "pooled_size",
    "product_dtype",
    "products_in",
    "random_words",
    "standard_normal",
    "uniform_fan_in",
    "xavier_normal",
]
