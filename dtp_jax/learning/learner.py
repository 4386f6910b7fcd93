"""The learner: a network, a rule and optimizers, and the training step that puts them together."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial, wraps
from typing import Any, ClassVar, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dtp_jax import fields, ops
from dtp_jax.blocks import Activations, Block, Network, Params, forward_all, initial_statistics
from dtp_jax.learning import checks, maps, recovery
from dtp_jax.learning.feedback import Iteration, only_loss
from dtp_jax.learning.symmetric import symmetric
from dtp_jax.parallel.mesh import LAYERS, Mesh, axis_size, each_in_its_group
from dtp_jax.rules.rule import Rule, cross_entropy

Array = jax.Array

BOTH, FEEDBACK_ONLY, FORWARD_ONLY = fields.PARTS, ("feedback",), ("forward",)


@dataclasses.dataclass(frozen=True, repr=False)
class Learner:
    """Everything static about training: checked when it is built, and a static argument of `jit`.

    Feedback options are given as tuples over the trained feedback maps in forward order, or as one value
    for all, and kept as tuples in full length. Without feedback options, as for backprop or for feedback
    that stays random, a rule that could train its maps needs `trains=("forward",)`.

    Raises:
      ValueError: one line with the field, its value and what is allowed.
    """

    network: Network
    rule: Rule
    forward_optimizer: optax.GradientTransformation
    """Of all forward parameters; `optim.per_block` has one for each block."""
    feedback_optimizers: (
        optax.GradientTransformation | tuple[optax.GradientTransformation, ...]
    ) = ()
    """One for each trained feedback map, each with a state of its own."""
    feedback_iterations: int | tuple[int, ...] = ()
    """Steps of each map on every batch."""
    feedback_samples: int = 1
    """Noise samples per image in each of them; the loss is their mean."""
    trains: tuple[str, ...] = BOTH
    """Which parameters a step changes: BOTH, FEEDBACK_ONLY or FORWARD_ONLY."""
    stale_gradients: str = "none"
    """How the original's DRL steps on gradients that it has not renewed; see `fields.STALE_GRADIENTS`."""
    precision: str = "tf32"
    """Of products and convolutions; see `ops.PRECISIONS`."""
    mesh: Mesh | None = None
    """The devices, where there are several; see `dtp_jax.parallel.mesh`."""
    guard: str = "stop"
    """What a step does where numbers go wrong: nothing with "stop"; else see `dtp_jax.learning.recovery`."""
    init_symmetric: bool = False
    """Feedback kernels start as copies of the forward ones, all biases at zero; see `learning.symmetric`."""
    ahead_mb: int = 1024
    """MiB of a device for what later feedback iterations need, where they are prepared ahead; see `ops.Form`."""

    def __post_init__(self) -> None:
        for name, value in checks.learner_options(self).items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> "Learner":
        """A learner with `changes`, other values of its fields; checked like any other.

        Raises:
          ValueError: one line with the field, its value and what is allowed.
        """
        return dataclasses.replace(self, **changes)

    _replace = replace

    def __repr__(self) -> str:
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("feedback_")]
        names = [*names[1:], "trains", "stale_gradients", "precision", "mesh"]
        names += ["guard"] if self.guard != "stop" else []
        names += ["init_symmetric"] if self.init_symmetric else []
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Learner(rule={self.rule.name}, {options})\n{Network(self.network)!r}"

    @cached_property
    def state_shapes(self) -> "TrainState":
        """The shapes of its state; nothing is computed."""
        return jax.eval_shape(lambda: _fresh_state(self, jax.random.key(0)))

    @property
    def trained(self) -> tuple[Block, ...]:
        """The blocks whose feedback maps are trained, in forward order; none without feedback options."""
        training = self.rule.feedback_training
        indices = training.blocks(self.network) if training else ()
        return tuple(self.network[i] for i, _ in zip(indices, self.feedback_iterations))

    @property
    def feedback_flops(self) -> tuple[float, ...]:
        """Floating-point operations that each feedback map costs per example of a batch."""
        training = self.rule.feedback_training
        if training is None:
            return ()
        return tuple(
            training.flops(self.network, i) * iterations * self.feedback_samples
            for i, iterations in zip(training.blocks(self.network), self.feedback_iterations)
        )


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes. Forward and feedback parameters are separate pytrees."""

    step: Array
    """int32 scalar: batches seen."""
    key: Array
    """The run's key; never advanced: randomness is keyed by the step."""
    forward: dict[str, Params]
    """By block name: kernels of shape (k, k, in, out) or (in, out), biases (out,)."""
    feedback: dict[str, Params]
    """By block name, kernels in the layout of the forward ones; biases as the block's input."""
    forward_opt_state: Any
    feedback_opt_state: dict[str, Any]
    """By the name of the trained block."""
    statistics: dict[str, Any] = flax.struct.field(default_factory=dict)
    """Running statistics of batch norms, by block name; empty where there is none."""
    guard: ClassVar[Mapping[str, Any]] = {}
    """Of a GuardedState only. No field here: checkpoints of guard="stop" know nothing of it."""


class GuardedState(TrainState):
    """The state of a learner whose guard is not "stop"."""

    guard: dict[str, Any] = flax.struct.field(default_factory=dict)
    """What the guard has done so far; see `recovery.fresh`."""


class Metrics(flax.struct.PyTreeNode):
    """What a training step reports, float32."""

    loss: Array
    """Mean cross-entropy of the batch, before the update."""
    accuracy: Array
    """Of the batch, before the update: 0 to 1."""
    feedback_loss: dict[str, Array]
    """By trained feedback block: mean over the iterations of this batch."""
    forward_loss: dict[str, Array]
    """By block: local loss before the update; empty for rules with one global loss."""
    guard: dict[str, Any] = flax.struct.field(default_factory=dict)
    """Empty with "stop". Else `skipped`: whether the batch was left out; `halved`: by feedback block,
    whether its rate was halved; `now`: `TrainState.guard` after the step."""


class Record(NamedTuple):
    """Everything that one training step computes on its way, for diagnostics and replays."""

    activations: Activations
    observations: dict[str, Any]
    """By trained feedback block: what `observe` returned, stacked over iterations."""
    targets: tuple[Array, ...]
    """One for each block, of its output's shape; () for rules with one global loss."""
    forward_loss: dict[str, Array]
    """By block name: local loss before the update, a scalar."""
    forward_gradient: dict[str, Params] | None
    """None where only the feedback maps are trained."""


def init(learner: Learner, key: Array) -> TrainState:
    """A fresh state. `key`: a typed key (`jax.random.key(seed)`).

    Raises:
      ValueError: one line; it is none.
    """
    checks.check_kind("learner", learner, Learner, fields.A_LEARNER)
    checks.check_key(key)
    return _fresh_state(learner, key)


def _fresh_state(learner: Learner, key: Array) -> TrainState:
    forward_key, feedback_key, run_key = jax.random.split(key, 3)
    forward = learner.rule.init_forward(learner.network, forward_key)
    feedback = learner.rule.init_feedback(learner.network, feedback_key)
    if learner.init_symmetric:
        forward, feedback = symmetric(forward, feedback)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        run_key,
        forward,
        feedback,
        *init_optimizers(learner, forward, feedback),
        initial_statistics(learner.network),
    )
    if learner.guard == "stop":
        return state
    counters = recovery.fresh(learner.guard, [block.name for block in learner.trained])
    return GuardedState(**vars(state), guard=counters)


def init_optimizers(
    learner: Learner, forward: dict[str, Params], feedback: dict[str, Params]
) -> tuple[Any, dict[str, Any]]:
    """(forward, feedback) optimizer states for these parameters; feedback ones by block name."""
    return learner.forward_optimizer.init(forward), {
        block.name: optimizer.init(feedback[block.name])
        for block, optimizer in zip(learner.trained, learner.feedback_optimizers)
    }


def in_its_precision(f: Callable[..., Any]) -> Callable[..., Any]:
    """f(learner, ...), with products and convolutions in the learner's precision."""

    @wraps(f)
    def precise(learner: Learner, *args: Any, **options: Any) -> Any:
        checks.check_kind("learner", learner, Learner, fields.A_LEARNER)
        with ops.products_in(learner.precision):
            return f(learner, *args, **options)

    return precise


@in_its_precision
def step(
    learner: Learner,
    state: TrainState,
    images: Array,
    labels: Array,
    *,
    noise: dict[str, Any] | None = None,
    observe: Callable[[int, Iteration], Any] = only_loss,
) -> tuple[TrainState, Record]:
    """One training step on a batch, in the order of the paper.

    Args:
      images: float, (batch, *input shape), normalised. labels: integers, (batch,).
      noise: recorded noise by block name, arrays (iterations, samples, batch, ...), instead of draws
        keyed by `state.step`.
      observe: see `train_feedback_map`.

    Returns:
      The next state, and everything computed along the way.

    Raises:
      ValueError: one line, when it is traced: an array of a wrong type or shape, the state of another learner.
    """
    network, rule = learner.network, learner.rule
    checks.check_batch(network, images, labels)
    checks.check_state(state, learner.state_shapes, TrainState)
    # 1. One clean forward pass.
    activations = forward_all(network, state.forward, images)
    # 2. Feedback training: theta does not change, every block on its own.
    before = state
    feedback, feedback_opt_state, observations, good_maps = _train_feedback_guarded(
        learner, state, activations, noise, observe
    )
    state = state.replace(
        step=state.step + 1, feedback=feedback, feedback_opt_state=feedback_opt_state
    )
    judge = partial(_judge, learner, before, activations.h[-1], labels, good_maps)
    if "forward" not in learner.trains:
        return judge(state, {}), Record(activations, observations, (), {}, None)
    # 3. and 4. The target of the logits, and from it one target per block.
    # 5. Local losses: no gradient crosses a block boundary.
    if rule.global_loss is None:
        with jax.named_scope("targets.all"):
            top = rule.output_target(activations.h[-1], labels)
            used = before.feedback if rule.targets_first else feedback
            targets = rule.targets(network, state.forward, used, activations, top)
        checks.check_targets(rule, targets, activations)
        forward_loss, gradient = local_gradients(network, rule, state.forward, activations, targets)
    else:
        targets, forward_loss = (), {}
        gradient = global_gradient(network, rule, state.forward, images, labels)
    # 6. The forward step.
    with jax.named_scope("update.all"):
        updates, forward_opt_state = learner.forward_optimizer.update(
            gradient, state.forward_opt_state, state.forward
        )
        moved = optax.apply_updates(state.forward, updates)
    state = state.replace(
        forward=moved,
        forward_opt_state=forward_opt_state,
        statistics=running_statistics(network, state.forward, state.statistics, activations),
    )
    record = Record(activations, observations, targets, forward_loss, gradient)
    return judge(state, forward_loss), record


STATISTICS_MOMENTUM = 0.1
"""Weight of a batch in the running statistics of batch norm, as in torch."""


def running_statistics(
    network: Network,
    forward: dict[str, Params],
    statistics: dict[str, Any],
    activations: Activations,
) -> dict[str, Any]:
    """The running statistics after this clean pass; see `blocks/norm.py`."""

    def moved(old: Array, new: Array) -> Array:
        return (old + STATISTICS_MOMENTUM * (new - old)).astype(old.dtype)

    return {
        block.name: jax.tree.map(
            moved, statistics[block.name], block.statistics(forward[block.name], x)
        )
        for block, x in zip(network, activations.h)
        if block.statistics is not None
    }


def train_step(
    learner: Learner, state: TrainState, images: Array, labels: Array
) -> tuple[TrainState, Metrics]:
    """`step`, reduced to what training logs; it refuses what `step` refuses."""
    before, (state, record) = state, step(learner, state, images, labels)
    logits = record.activations.h[-1]
    metrics = Metrics(
        loss=cross_entropy(logits, labels).mean(),
        accuracy=(logits.argmax(-1) == labels).mean(dtype=jnp.float32),
        feedback_loss={name: losses.mean() for name, losses in record.observations.items()},
        forward_loss=record.forward_loss,
        guard=recovery.report(before.guard, state.guard),
    )
    return state, metrics


@in_its_precision
def train_feedback(
    learner: Learner,
    state: TrainState,
    activations: Activations,
    *,
    noise: dict[str, Any] | None = None,
    observe: Callable[[int, Iteration], Any] = only_loss,
):
    """Trains every feedback map on one batch; see `step` for the arguments.

    Returns:
      (feedback parameters, optimizer states, observations), each a dict by block name.

    Raises:
      ValueError: one line; see `step`.
    """
    checks.check_activations(learner.network, activations)
    checks.check_state(state, learner.state_shapes, TrainState)
    return _train_feedback(learner, state, activations, noise, observe)


def _train_feedback(
    learner: Learner,
    state: TrainState,
    activations: Activations,
    noise: dict[str, Any] | None,
    observe: Callable[[int, Iteration], Any],
):
    feedback, opt_state, seen = dict(state.feedback), dict(state.feedback_opt_state), {}
    if "feedback" not in learner.trains:
        return feedback, opt_state, seen
    network, rule = learner.network, learner.rule
    feedback = solved_feedback(network, rule, state.forward, feedback, activations)
    if not learner.trained:
        return feedback, opt_state, seen
    # The maps do not see each other: in which order, or where, they are trained changes nothing.
    is_recorded = noise is not None
    source = noise if is_recorded else maps.random_bits_of(learner, state)
    jobs = [
        partial(maps.train_map, learner, n, observe, is_recorded)
        for n in range(len(learner.trained))
    ]
    given = (state, activations, source)
    if axis_size(learner.mesh, LAYERS) > 1:
        found = each_in_its_group(learner.mesh, jobs, learner.feedback_flops, given)
    else:
        found = [job(given) for job in jobs]
    for block, trained in zip(learner.trained, found):
        feedback[block.name], opt_state[block.name], seen[block.name] = trained
    return feedback, opt_state, seen


def solved_feedback(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    feedback: dict[str, Params],
    activations: Activations,
) -> dict[str, Params]:
    """The feedback parameters of this batch where the rule has them in closed form; else as they are."""
    if rule.solve_feedback is None:
        return feedback
    return feedback | {
        block.name: rule.solve_feedback(network, forward, feedback[block.name], i, activations)
        for i, block in enumerate(network)
        if i > 0
    }


def _train_feedback_guarded(
    learner: Learner,
    state: TrainState,
    activations: Activations,
    noise: dict[str, Any] | None,
    observe: Callable[[int, Iteration], Any],
):
    """`_train_feedback`, and by block whether it went well; with "halve" the others are as before it."""
    if learner.guard == "stop":
        return *_train_feedback(learner, state, activations, noise, observe), {}
    feedback, opt_state, seen = _train_feedback(
        learner, state, activations, noise, recovery.with_loss(observe)
    )
    good_maps = {}
    for name, (losses, _) in seen.items():
        after = feedback[name], opt_state[name]
        before = state.feedback[name], state.feedback_opt_state[name]
        good_maps[name] = recovery.is_good_map(losses, after, before, state.forward)
        if learner.guard == "halve":
            feedback[name], opt_state[name] = recovery.select(good_maps[name], after, before)
    return feedback, opt_state, {name: own for name, (_, own) in seen.items()}, good_maps


def _judge(
    learner: Learner,
    before: TrainState,
    logits: Array,
    labels: Array,
    good_maps: dict[str, Array],
    after: TrainState,
    local_losses: dict[str, Array],
) -> TrainState:
    """The state after a batch as the learner's guard leaves it."""
    if learner.guard == "stop":
        return after
    loss = cross_entropy(logits, labels).mean()
    return recovery.judged(learner.guard, before, after, loss, local_losses, good_maps)


def local_gradients(
    network: Network,
    rule: Rule,
    forward: dict[str, Params],
    activations: Activations,
    targets: tuple[Array, ...],
) -> tuple[dict[str, Array], dict[str, Params]]:
    """Local losses by block name, and the gradient of each for its own block's parameters alone."""
    losses, gradients = {}, {}
    for block, x, t in zip(network, activations.h, targets):

        def loss(theta, block=block, x=x, t=t):
            return rule.local_loss(block, block.forward(theta, x)[0], t)

        with jax.named_scope(f"gradients.{block.name}"):
            found = jax.value_and_grad(loss)(forward[block.name])
        losses[block.name], gradients[block.name] = found
    return losses, gradients


def global_gradient(
    network: Network, rule: Rule, forward: dict[str, Params], images: Array, labels: Array
) -> dict[str, Params]:
    """One ordinary gradient of the rule's global loss."""

    def loss(forward):
        return rule.global_loss(forward_all(network, forward, images).h[-1], labels)

    return jax.grad(loss)(forward)
