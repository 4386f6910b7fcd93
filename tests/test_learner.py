"""The training step: its order, its locality, and that jit, vmap and sharding change no number."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    assert_close,
    cross_entropy_in_numpy,
    make_batch,
    make_learner,
    make_state,
    normal,
    sgd_in_numpy,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dtp_jax.blocks import forward_all
from dtp_jax.learning import evaluation, learner
from dtp_jax.networks import mlp
from dtp_jax.rules import analytic, backprop, drl, dtp, ldrl


def make_ldrl(name="vgg", channels=None, **options):
    network = NETWORKS[name](channels=channels) if channels else NETWORKS[name]()
    sigma = (0.2, 0.3, 0.1)[: len(network) - 1]
    return make_learner(network, ldrl(noise=sigma, beta=0.7), **options)


# A chain of one block: it has no feedback map.


@pytest.mark.parametrize("rule", [ldrl(noise=0.1, beta=0.7), dtp(noise=0.1, beta=0.7)])
def test_one_block_learns_by_its_target_alone(rule):
    made = make_learner(mlp((2, 2, 1), 3, hidden=()), rule)
    state, (x, y) = make_state(made), make_batch(made.network, 6)
    after, record = learner.step(made, state, x, y)
    h = record.activations.h[-1]
    target = h + 0.7 * (jax.nn.one_hot(y, 3) - jax.nn.softmax(h))
    assert_close(record.targets[-1], target)
    assert record.observations == {} and after.feedback.keys() == state.feedback.keys()


# State.


def test_init_keeps_forward_and_feedback_apart():
    made = make_ldrl("lenet")
    state = jax.jit(partial(learner.init, made))(jax.random.key(0))
    names = [block.name for block in made.network]
    assert list(state.forward) == names
    assert list(state.feedback) == list(state.feedback_opt_state) == names[1:]
    assert state.step == 0 and state.step.dtype == jnp.int32
    for name in names[1:]:
        # The same shapes and, for convolutions, the same bounds: a shared key would show here.
        theta, omega = state.forward[name]["kernel"], state.feedback[name]["kernel"]
        assert np.mean(theta == omega) < 0.01
    momenta = [
        leaf for leaf in jax.tree.leaves((state.forward_opt_state, state.feedback_opt_state))
    ]
    assert momenta and not any(leaf.any() for leaf in momenta)


def test_init_of_backprop_has_no_feedback():
    made = make_learner(NETWORKS["mlp"](), backprop())
    state = jax.eval_shape(partial(learner.init, made), jax.random.key(0))
    assert state.feedback == {} and state.feedback_opt_state == {}


def test_init_needs_no_computing():
    """eval_shape gives the tree that init gives, which is what restoring a checkpoint needs."""
    made = make_ldrl()
    init = partial(learner.init, made)
    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.jit(init)(jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)


def test_init_is_a_function_of_the_key():
    init = jax.jit(partial(learner.init, make_ldrl()))
    first, again, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
    chex.assert_trees_all_equal(first.forward, again.forward)
    kernels = [np.asarray(state.forward["conv_0"]["kernel"]) for state in (first, other)]
    assert not np.any(kernels[0] == kernels[1])
    data = [tuple(jax.random.key_data(state.key)) for state in (first, other)]
    assert data[0] != data[1]


# The step.


@pytest.fixture(scope="module")
def compiled():
    """(learner, batch, its compiled step on that batch)."""
    made = make_ldrl(samples=2)
    images, labels = make_batch(made.network, 4)
    return made, (images, labels), jax.jit(lambda s: learner.step(made, s, images, labels))


@pytest.fixture(scope="module")
def stepped(compiled):
    """(learner, state before, batch, state after, record) of one L-DRL step."""
    made, batch, step = compiled
    state = make_state(made)
    return made, state, batch, *step(state)


def test_step_trains_feedback_first_and_then_sets_the_targets_with_it(stepped):
    """Targets come from the new feedback, the old forward parameters and the clean pass."""
    made, state, (images, labels), after, record = stepped

    @jax.jit
    def expected_targets(forward, feedback):
        activations = forward_all(made.network, forward, images)
        top = made.rule.output_target(activations.h[-1], labels)
        return activations, made.rule.targets(made.network, forward, feedback, activations, top)

    activations, targets = expected_targets(state.forward, after.feedback)
    assert_close(record.activations, activations)
    assert_close(record.targets, targets)
    _, stale = expected_targets(state.forward, state.feedback)
    assert np.abs(record.targets[0] - stale[0]).max() > 1e-4
    assert after.step == 1
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


def test_forward_step_is_sgd_on_the_local_losses(stepped):
    """sum_n 1/2 mean_b ||F_n(sg(h_{n-1})) - sg(t_n)||^2, written out; torch's SGD in numpy."""
    made, state, (images, _), after, record = stepped

    def local_losses(forward):
        losses, h = {}, images
        for block, t in zip(made.network, record.targets, strict=True):
            h = block.forward(forward[block.name], jax.lax.stop_gradient(h))[0]
            losses[block.name] = 0.5 * jnp.mean(jnp.sum((h - t).reshape(len(t), -1) ** 2, axis=1))
        return losses

    def total(forward):
        losses = local_losses(forward)
        return sum(losses.values()), losses

    (_, losses), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(state.forward)
    assert_close(record.forward_loss, losses)
    assert_close(record.forward_gradient, gradient)
    parameters, _ = sgd_in_numpy(gradient, state.forward, 0.05, 0.9, 1e-4)
    assert_close(after.forward, parameters)


def test_a_target_moves_its_own_block_alone(stepped):
    made, state, _, _, record = stepped

    @jax.jit
    def gradients(targets):
        return learner.local_gradients(
            made.network, made.rule, state.forward, record.activations, targets
        )

    losses, before = gradients(record.targets)
    for j, changed in enumerate(made.network):
        targets = list(record.targets)
        targets[j] = targets[j] + jnp.asarray(normal(j, targets[j].shape))
        other_losses, after = gradients(tuple(targets))
        for block in made.network:
            same = [
                np.array_equal(a, b)
                for a, b in zip(
                    jax.tree.leaves(before[block.name]),
                    jax.tree.leaves(after[block.name]),
                    strict=True,
                )
            ]
            assert not any(same) if block is changed else all(same)
            assert (losses[block.name] == other_losses[block.name]) == (block is not changed)


def test_feedback_maps_are_trained_apart_from_each_other(stepped):
    """Other parameters or rates of one map change nothing in the others, nor does theta move."""
    made, state, (images, labels), after, _ = stepped
    optimizers = (make_ldrl(feedback_lr=0.07).feedback_optimizers[0], made.feedback_optimizers[1])
    other = made._replace(feedback_optimizers=optimizers, feedback_iterations=(3, 2))
    feedback = {**state.feedback, "conv_1": jax.tree.map(lambda w: w + 1, state.feedback["conv_1"])}
    found, _ = jax.jit(lambda s: learner.step(other, s, images, labels))(
        state.replace(feedback=feedback)
    )
    assert_close(found.feedback["fc"], after.feedback["fc"])
    assert np.all(found.feedback["conv_1"]["kernel"] != after.feedback["conv_1"]["kernel"])


def test_train_step_reports_the_batch_before_the_update(stepped):
    made, state, (images, labels), after, record = stepped
    found, metrics = jax.jit(partial(learner.train_step, made))(state, images, labels)
    assert_close((found.forward, found.feedback), (after.forward, after.feedback))
    logits = np.asarray(record.activations.h[-1])
    np.testing.assert_allclose(
        metrics.loss, cross_entropy_in_numpy(logits, labels).mean(), rtol=1e-10
    )
    np.testing.assert_allclose(
        metrics.accuracy, np.mean(logits.argmax(1) == np.asarray(labels)), rtol=1e-6
    )
    assert_close(metrics.forward_loss, record.forward_loss)
    expected = {name: losses.mean() for name, losses in record.observations.items()}
    assert all(len(losses) == 2 for losses in record.observations.values())  # one per iteration
    assert_close(metrics.feedback_loss, expected)


def test_noise_is_a_function_of_key_and_step(compiled, stepped):
    """The same state gives the same step; another step, or another run, draws anew."""
    (_, _, step), (_, state, _, _, record) = compiled, stepped
    chex.assert_trees_all_equal(step(state)[0].feedback, step(state)[0].feedback)
    for other in (state.replace(step=jnp.int32(1)), state.replace(key=jax.random.key(9))):
        _, found = step(other)
        for name, losses in record.observations.items():
            assert np.all(np.abs(found.observations[name] - losses) > 1e-6)


def test_momentum_lives_on_across_batches(compiled, stepped):
    """A second batch starts from the first one's buffers, forward and feedback."""
    (made, _, step), (_, _, _, after, _) = compiled, stepped
    fresh = after.replace(
        **dict(
            zip(
                ("forward_opt_state", "feedback_opt_state"),
                learner.init_optimizers(made, after.forward, after.feedback),
                strict=True,
            )
        )
    )
    with_momentum, without = step(after)[0], step(fresh)[0]
    for kind in ("forward", "feedback"):
        moved, expected = (
            getattr(state, kind)["fc"]["kernel"] for state in (without, with_momentum)
        )
        assert np.all(moved != expected)


# Transformations.


def test_two_train_steps_are_one_program():
    made = make_ldrl("mlp")
    state = jax.jit(partial(learner.init, made))(jax.random.key(0))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, images, labels):
        return learner.train_step(made, state, images, labels)

    with jax.enable_x64(False):
        for seed in range(2):
            images, labels = make_batch(made.network, 4, seed)
            state, _ = step(state, images.astype(jnp.float32), labels.astype(jnp.int32))
    assert state.step == 2


@pytest.mark.parametrize("rule", ["ldrl", "backprop"])
def test_vmapped_seeds_are_separate_runs(rule):
    """Three seeds, two steps."""
    one_conv = NETWORKS["vgg"](channels=(3,))
    made = make_ldrl(channels=(3,)) if rule == "ldrl" else make_learner(one_conv, backprop())
    images, labels = make_batch(made.network, 4)

    def step(state):
        return learner.train_step(made, state, images, labels)

    states = [make_state(made, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    alone, together = jax.jit(step), jax.jit(jax.vmap(step))
    together, metrics = together(together(stacked)[0])
    for seed, state in enumerate(states):
        state, expected = alone(alone(state)[0])
        found = (together.forward, together.feedback, metrics)
        assert_close(
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], found),
            (state.forward, state.feedback, expected),
            1e-9,
        )


def test_sharded_batch_is_the_single_device_step():
    """Eight devices with one image each: the same numbers, and the state stays where it is."""
    made = make_ldrl(channels=(3,), samples=2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    replicated = NamedSharding(mesh, PartitionSpec())
    by_image = NamedSharding(mesh, PartitionSpec("data"))
    images, labels = make_batch(made.network, 8)
    state, step = make_state(made), jax.jit(partial(learner.train_step, made))
    single = step(*step(state, images, labels)[:1], images, labels)
    spread = [jax.device_put(a, by_image) for a in (images, labels)]
    sharded = jax.device_put(state, replicated)
    for _ in range(2):
        sharded, metrics = step(sharded, *spread)
    assert len(spread[0].sharding.device_set) == 8
    assert_close(
        (sharded.forward, sharded.feedback, metrics),
        (single[0].forward, single[0].feedback, single[1]),
    )
    for leaf in jax.tree.leaves(sharded):
        assert leaf.sharding.is_equivalent_to(replicated, leaf.ndim)


# What a step does where numbers go wrong.

RULES = {
    "ldrl": lambda: ldrl(noise=0.1, beta=0.7),
    "dtp": lambda: dtp(noise=0.1, beta=0.7),
    "drl": lambda: drl(noise=0.1, beta=0.7),
    "analytic": lambda: analytic(beta=0.7),
    "backprop": backprop,
}


def lowered(made):
    """The text of a step's program; nothing is compiled."""
    batch = jax.eval_shape(partial(make_batch, made.network, 4))
    step = jax.jit(partial(learner.train_step, made))
    return step.lower(made.state_shapes, *batch).as_text()


@pytest.mark.parametrize("name", RULES)
def test_a_learner_that_stops_adds_nothing_to_the_step(name):
    made = make_learner(mlp((2, 3, 1), 5, hidden=(7, 4)), RULES[name]())
    stop, skip = lowered(made), lowered(made.replace(guard="skip"))
    assert "is_finite" in skip and "is_finite" not in stop
    assert made.state_shapes.guard == {} and "guard" not in repr(made)
    both = stop, lowered(made.replace(guard="stop"))
    assert both[0] == both[1]


@pytest.mark.parametrize("trains", [("feedback", "forward"), ("feedback",), ("forward",)])
@pytest.mark.parametrize("guard", ["skip", "halve"])
@pytest.mark.parametrize("name", ["ldrl", "stale drl", "analytic"])
def test_a_guarded_step_keeps_the_shape_of_its_state(name, guard, trains):
    """Traced only: a loop of steps takes no other state than it gives."""
    made = make_learner(mlp((2, 3, 1), 5, hidden=(7, 4)), RULES[name.split()[-1]]())
    if guard == "halve" and name == "analytic":
        return
    made = made.replace(guard=guard, trains=trains)
    if name == "stale drl":
        made = made.replace(stale_gradients="zeroed")
    batch = jax.eval_shape(partial(make_batch, made.network, 4))
    state, metrics = jax.eval_shape(partial(learner.train_step, made), made.state_shapes, *batch)
    assert jax.tree.structure(state) == jax.tree.structure(made.state_shapes)
    assert state.guard == made.state_shapes.guard == metrics.guard["now"]
    assert f"guard='{guard}'" in repr(made)


def test_a_bad_image_is_no_fault_of_the_maps():
    """What is no number in the forward pass is skipped; no rate is halved, and nothing has changed."""
    made = make_learner(mlp((2, 3, 1), 5, hidden=(7, 4)), ldrl(noise=0.1, beta=0.7))
    made = made.replace(guard="halve")
    state = jax.jit(partial(learner.init, made))(jax.random.key(0))
    images, labels = make_batch(made.network, 4)
    bad = images.at[0, 0, 0, 0].set(jnp.nan)
    after, metrics = jax.jit(partial(learner.train_step, made))(state, bad, labels)
    assert after.step == 1 and after.guard["skipped"] == after.guard["in_a_row"] == 1
    assert metrics.guard["skipped"] and np.isnan(metrics.loss)
    assert not any(after.guard["halved"].values())
    assert all(factor == 1 for factor in after.guard["factor"].values())
    for name in ("forward", "feedback", "forward_opt_state", "feedback_opt_state"):
        chex.assert_trees_all_equal(getattr(after, name), getattr(state, name))


@pytest.mark.parametrize("rule", ["backprop", "analytic"])
def test_there_must_be_a_rate_to_halve(rule):
    made = make_learner(mlp((2, 3, 1), 5, hidden=(7, 4)), RULES[rule]())
    said = "guard is 'halve'; allowed: stop or skip, for no feedback map is trained"
    with pytest.raises(ValueError, match=f"^{said}$"):
        made.replace(guard="halve")
    with pytest.raises(ValueError, match="^guard is 'on'; allowed: one of stop, skip, halve$"):
        made.replace(guard="on")


def test_a_guarded_learner_needs_its_own_state():
    made = make_learner(mlp((2, 3, 1), 5, hidden=(7, 4)), backprop())
    batch = jax.eval_shape(partial(make_batch, made.network, 4))
    skip = made.replace(guard="skip")
    with pytest.raises(ValueError, match=r"^state.guard\['in_a_row'\] is missing; allowed: shape"):
        jax.eval_shape(partial(learner.train_step, skip), made.state_shapes, *batch)
    with pytest.raises(
        ValueError, match=r"^state.guard\['in_a_row'\] is .*; allowed: nothing there"
    ):
        jax.eval_shape(partial(learner.train_step, made), skip.state_shapes, *batch)


# Evaluation of a batch.


def identity_network(classes):
    """Logits are the images: (network, forward parameters)."""
    network = mlp((classes,), classes, hidden=())
    return network, {"fc1": {"kernel": jnp.eye(classes), "bias": jnp.zeros(classes)}}


def evaluate(logits, labels, weights):
    network, forward = identity_network(logits.shape[1])
    return jax.jit(partial(evaluation.evaluate_batch, network))(
        forward, jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights)
    )


@pytest.mark.parametrize("ties", [False, True])
def test_evaluation_against_numpy(ties):
    """Padding weighs nothing. Among equal logits the first class ranks first, as argmax has it."""
    logits = normal(0, (200, 9))
    logits = np.round(logits) if ties else logits
    labels = np.random.default_rng(1).integers(0, 9, 200)
    weights = np.where(np.arange(200) < 190, 1.0, 0.0)
    found = evaluate(logits, labels, weights)
    order = np.argsort(-logits, axis=1, kind="stable")[:190]
    top = order == labels[:190, None]
    np.testing.assert_array_equal(top[:, 0], logits[:190].argmax(1) == labels[:190])
    assert found["correct"] == top[:, 0].sum() and found["correct_top5"] == top[:, :5].sum()
    assert found["examples"] == 190
    np.testing.assert_allclose(
        found["loss"], cross_entropy_in_numpy(logits, labels)[:190].sum(), rtol=1e-6
    )
    assert 0 < found["correct"] < found["correct_top5"] < 190


def test_evaluation_with_five_classes_or_fewer():
    found = evaluate(normal(0, (20, 4)), np.arange(20) % 4, np.ones(20))
    assert found["correct_top5"] == 20 and found["correct"] < 20


def test_logits_that_are_not_numbers_are_no_right_answers():
    logits = np.full((3, 9), np.nan)
    found = evaluate(logits, np.array([0, 4, 8]), np.ones(3))
    assert found["correct"] == 0 and found["correct_top5"] == 0


def test_metrics_ties_and_accuracy():
    """train_step's accuracy takes the first of equal logits."""
    network, forward = identity_network(3)
    made = make_learner(network, backprop())
    state = make_state(made).replace(forward=forward)
    images = jnp.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    for labels, expected in (([0, 1], 1.0), ([1, 2], 0.0)):
        _, metrics = learner.train_step(made, state, images, jnp.array(labels))
        assert metrics.accuracy == expected
