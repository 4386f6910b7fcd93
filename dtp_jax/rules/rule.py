"""What a learning rule is: the equations that `dtp_jax.learning.learner.step` puts together.

A rule is one small file with a factory that returns a `Rule`. Block indices follow the chain: block
i maps `activations.h[i]` to `activations.h[i + 1]`. Hyper-parameters of feedback maps are tuples over
the trained maps in forward order, or of length 1: one value stands for all (`of_map`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dtp_jax import fields, ops
from dtp_jax.blocks import Activations, Block, Network, Params, init_forward

Array = jax.Array


def above_the_first(network: Network) -> tuple[int, ...]:
    """Indices of the blocks whose feedback maps lead to the block below: all but the first."""
    return tuple(range(1, len(network)))


def hidden(network: Network) -> tuple[int, ...]:
    """Indices of the blocks that a direct feedback map from the logits can lead to: all but the last."""
    return tuple(range(len(network) - 1))


class Normals(NamedTuple):
    """Noise whose entries are independent and N(0, 1): a `draw_noise` in two parts, of which the first can
    be done for all iterations before they begin."""

    shapes: Callable[[Block], Any]
    """block -> pytree of shapes without the batch, tuples of integers."""

    def __call__(self, key: Array, block: Block, batch: int, dtype: Any) -> Any:
        """One sample for a batch."""
        return self.drawn(self.words(key, block), block, batch, dtype)

    def count(self, block: Block) -> int:
        """Of the arrays."""
        return len(jax.tree.leaves(self.shapes(block), is_leaf=is_shape))

    def words(self, key: Array, block: Block) -> Array:
        """The random bits of all arrays, (arrays, 2)."""
        count = self.count(block)
        keys = jax.random.split(key, count) if count > 1 else key[None]
        return jax.vmap(ops.random_words)(keys)

    def words_after(self, words: Array, block: Block, examples: Array) -> Array:
        """Those of a batch without its first examples: what is drawn of them is what the others have of `words`,
        (..., arrays, 2). An element's index is added to the first word."""
        sizes = [math.prod(s) for s in jax.tree.leaves(self.shapes(block), is_leaf=is_shape)]
        before = examples.astype(jnp.uint32) * jnp.array(sizes, jnp.uint32)
        return words.at[..., 0].add(before)

    def index_terms(self, block: Block, batch: int) -> list[list[Array]]:
        """`ops.index_terms` of all arrays: what `drawn` computes itself unless it is given."""
        shapes = jax.tree.leaves(self.shapes(block), is_leaf=is_shape)
        return [ops.index_terms((batch, *shape)) for shape in shapes]

    def drawn(
        self, words: Array, block: Block, batch: int, dtype: Any, terms: list[Any] | None = None
    ) -> Any:
        """The noise that they make."""
        shapes, made = jax.tree.flatten(self.shapes(block), is_leaf=is_shape)
        terms = terms or [None] * len(shapes)
        arrays = [
            ops.standard_normal(words[n], (batch, *shape), dtype, terms=terms[n])
            for n, shape in enumerate(shapes)
        ]
        return jax.tree.unflatten(made, arrays)


def is_shape(tree: Any) -> bool:
    """Whether this is a tuple of integers."""
    return type(tree) is tuple and all(isinstance(n, int) for n in tree)


def never(network: Network, i: int) -> bool:
    """Whatever the loss is made of may be anything."""
    del network, i
    return False


def of_own_block(network: Network, i: int) -> bool:
    """A mean over examples of what block i and its feedback map make of each: unless a batch norm sees all."""
    return network[i].statistics is None


def of_blocks_above(network: Network, i: int) -> bool:
    """The same, of block i and all above it."""
    return all(block.statistics is None for block in network[i:])


class FeedbackTraining(NamedTuple):
    """How a rule trains the feedback map of one block."""

    draw_noise: Callable[[Array, Block, int, Any], Any]
    """(key, block, batch, dtype) -> noise pytree of one sample: `Normals`, or a function. Noise is an
    argument of the losses, never drawn inside them, so that recorded noise can be replayed."""
    loss: Callable[[Network, dict[str, Params], Params, int, Activations, Any], Array]
    """(network, forward, omega, i, activations, noise) -> scalar: the formula of the paper."""
    prepare: Callable[[Network, dict[str, Params], int, Activations, Array, Any], Any] | None = None
    """(network, forward, i, activations, clean, noise) -> all of an iteration that does not depend on
    omega: arrays that only products read. clean: features(h) of block i, which all iterations share."""
    gradient: Callable[[Network, Params, int, Any], tuple[Array, Params]] | None = None
    """(network, omega, i, prepared) -> (loss, gradient): the same numbers as `loss`, faster. Both or
    neither of `prepare` and `gradient` are given; they may assume that block i has `features`."""
    blocks: Callable[[Network], tuple[int, ...]] = above_the_first
    """Indices of the blocks whose feedback maps are trained."""
    flops: Callable[[Network, int], float] = lambda network, i: 3 * network[i].forward_flops
    """(network, i) -> floating-point operations of an iteration, per example and noise sample: what the
    maps of several devices are balanced by. By default F, one G and the gradient of its kernel."""
    divides: Callable[[Network, int], bool] = never
    """(network, i) -> whether loss and gradient of a batch are the means of those of its equal parts, as for
    `of_own_block`. A CPU then goes through a large batch in slices, and several devices exchange less."""


def anything(network: Network) -> None:
    """Every network will do."""
    del network


class Rule(NamedTuple):
    """A learning rule. Build it with a factory such as `ldrl(noise=..., beta=...)`."""

    name: str
    init_feedback: Callable[[Network, Array], dict[str, Params]]
    """(network, key) -> feedback parameters by block name."""
    feedback_training: FeedbackTraining | None
    """None where nothing is trained."""
    output_target: Callable[[Array, Array], Array]
    """(logits, labels) -> target of the logits."""
    targets: Callable[
        [Network, dict[str, Params], dict[str, Params], Activations, Array], tuple[Array, ...]
    ]
    """(network, forward, feedback, activations, output target) -> one target per block."""
    local_loss: Callable[[Block, Array, Array], Array]
    """(block, h, t) -> scalar, whose gradient with respect to that block's parameters trains them."""
    global_loss: Callable[[Array, Array], Array] | None = None
    """(logits, labels) -> scalar. Where given, its one ordinary gradient trains the network, and the
    targets are not computed."""
    init_forward: Callable[[Network, Array], dict[str, Params]] = init_forward
    """(network, key) -> forward parameters by block name: PyTorch's defaults unless given."""
    targets_first: bool = False
    """True: the targets come from the feedback maps as they were before this batch trained them."""
    solve_feedback: (
        Callable[[Network, dict[str, Params], Params, int, Activations], Params] | None
    ) = None
    """(network, forward, omega, i, activations) -> omega of block i in closed form, for rules that do
    not train it by iterations."""
    per_map: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    """(name, values) of the hyper-parameters of feedback maps; see `per_map`. A learner compares their
    number with that of its maps."""
    beta: float | None = None
    """Step size of the output target; None where the rule has none, or JAX does not know it yet."""
    check: Callable[[Network], None] = anything
    """(network) -> None. Raises ValueError, one line, where the rule cannot train this network."""


def check_kernels(rule: str, network: Network, replaces: Callable[[Block], bool]) -> None:
    """Raises ValueError, one line, for a block whose kernels the rule cannot replace: it would be trained by
    another rule than its name says, or end in the middle of a trace.

    Args:
      rule: its name. replaces: whether a block, when it is traced, multiplies by what it is given in place of
        its kernels. Whatever it raises is no.
    """
    for block in network[1:]:
        problem = None
        try:
            with ops.compiled_for("gpu"):  # no device need be there; its form is traced soonest
                if replaces(block):
                    continue
        except Exception as error:  # a block may be anybody's
            problem = error
        raise ValueError(
            f"network: block {block.name} has no kernel that the rule {rule} can replace; allowed: a parameter "
            "'kernel' in init and init_feedback, of one shape, by which forward multiplies with @, "
            "dtp_jax.ops.linear or dtp_jax.ops.conv"
        ) from problem


def shapes_of(block: Block) -> tuple[Params, Params, Array]:
    """(theta, omega, x) of a block, as shapes: what it is traced with."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    theta, omega = (jax.eval_shape(init, key) for init in (block.init, block.init_feedback))
    return theta, omega, jax.ShapeDtypeStruct((2, *block.input_shape), jnp.float32)


def read_by(f: Callable[..., Any], params: Params, *args: Any) -> Params:
    """For each parameter, whether f(params, *args) reads it."""
    jaxpr = jax.make_jaxpr(f)(params, *args).jaxpr
    read = {id(v) for v in [*jaxpr.outvars, *(v for e in jaxpr.eqns for v in e.invars)]}
    leaves, made = jax.tree.flatten(params)
    return jax.tree.unflatten(made, [id(v) in read for v in jaxpr.invars[: len(leaves)]])


def per_map(**values: tuple[Any, ...]) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    """What `Rule.per_map` holds of these: hashable, with None for what JAX does not know yet."""
    return tuple((name, tuple(map(known, entries))) for name, entries in values.items())


def known(value: Any) -> Any:
    """The value, or None where JAX does not know it yet, as under `vmap` over a hyper-parameter."""
    return None if fields.is_traced(value) else value


def of_map(values: tuple[Any, ...], n: int) -> Any:
    """The value of the n-th trained map, where there is one for each map or one for all."""
    return values[0] if len(values) == 1 else values[n]


def batch_dot(a: Array, b: Array) -> Array:
    """mean_b <a, b>_b: summed over features, averaged over the batch (the leading axis)."""
    return jnp.sum(a * b) / a.shape[0]


def half_square_loss(block: Block, h: Array, t: Array) -> Array:
    """1/2 mean_b ||h - t||^2_b, the local loss of target propagation."""
    del block
    return 0.5 * batch_dot(h - t, h - t)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Cross-entropy of each example, (batch,), from logits (batch, classes) and integer labels."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def gradient_step_target(logits: Array, labels: Array, *, beta: float) -> Array:
    """h_L - beta d(sum_b CE_b)/dh_L = h_L + beta (onehot - softmax(h_L))."""
    onehot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return logits + beta * (onehot - jax.nn.softmax(logits))
