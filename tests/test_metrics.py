"""Diagnostics against their definitions."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NETWORKS, degrees_between, double, make_batch, make_parameters, normal, slow

import dtp_jax as dtp
from dtp_jax.blocks import forward_all
from dtp_jax.learning import learner, metrics, optim
from dtp_jax.rules import RULES, backprop_targets, ldrl


def test_distance_is_relative_to_the_first_argument():
    a, b = jnp.array([[3.0, 0.0], [0.0, 4.0]]), jnp.zeros((2, 2))
    assert float(metrics.distance(a, b)) == 1
    assert float(metrics.distance(a, 3 * a)) == 2
    np.testing.assert_allclose(metrics.distance(3 * a, a), 2 / 3)
    x, y = normal(0, (2, 3, 4)), normal(1, (2, 3, 4))
    expected = np.linalg.norm((x - y).ravel()) / np.linalg.norm(x.ravel())
    np.testing.assert_allclose(
        metrics.distance(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("a", "b", "degrees"),
    [((1, 0), (0, 2), 90), ((1, 0), (-3, 0), 180), ((1, 1), (0, 1), 45), ((2, 0), (1, 3**0.5), 60)],
)
def test_angle_of_known_vectors(a, b, degrees):
    """Up to the 1e-8 in the denominator, which bends 180 degrees by 0.008 / sqrt(|a| |b|)."""
    found = metrics.angle(jnp.array(a, float), jnp.array(b, float))
    np.testing.assert_allclose(found, degrees, atol=0.0081)


def test_angle_has_the_small_number_in_its_denominator():
    """arccos(<a, b> / (|a| |b| + 1e-8)): a tensor of norm n is 0.0081 / n degrees from itself."""
    for n in (1.0, 0.05):
        a = jnp.array([0.6 * n, 0.8 * n])
        expected = np.degrees(np.arccos(n * n / (n * n + 1e-8)))
        np.testing.assert_allclose(metrics.angle(a, a), expected, rtol=1e-6)
        np.testing.assert_allclose(expected, 0.0081 / n, rtol=0.01)
    x, y = normal(0, (3, 4)), normal(1, (3, 4))
    found = metrics.alignment(jnp.asarray(x), jnp.asarray(y))
    assert isinstance(found, metrics.Alignment)
    np.testing.assert_allclose(found.distance, metrics.distance(x, y), rtol=1e-12)
    np.testing.assert_allclose(found.angle, metrics.angle(x, y), rtol=1e-12)
    np.testing.assert_allclose(found.angle, degrees_between(x, y), rtol=1e-7)


def test_angle_is_clipped_where_rounding_passes_one():
    """float32: <a, a> may come out above |a|^2."""
    for seed in range(20):
        a = jnp.asarray(1e3 * normal(seed, 999), jnp.float32)
        assert 0 <= float(metrics.angle(a, a)) < 0.05
        assert 179.95 < float(metrics.angle(a, -a)) <= 180


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_alignment_of_symmetric_weights(name):
    """Feedback kernels that are the transposed maps: distance 0, angle 0. Biases do not count."""
    forward, feedback = make_parameters(NETWORKS[name]())
    same = {block: {**feedback[block], "kernel": forward[block]["kernel"]} for block in feedback}
    found = metrics.weight_alignment(forward, same)
    assert list(found) == list(feedback)
    for name in found:
        assert found[name].distance == 0 and found[name].angle < 0.05


def test_weight_alignment_of_given_weights():
    forward, feedback = make_parameters(NETWORKS["vgg"]())
    found = metrics.weight_alignment(forward, feedback)
    for block, (distance, angle) in found.items():
        f, g = np.asarray(forward[block]["kernel"]), np.asarray(feedback[block]["kernel"])
        np.testing.assert_allclose(
            distance, np.sqrt(((f - g) ** 2).sum() / (f**2).sum()), rtol=1e-12
        )
        np.testing.assert_allclose(angle, degrees_between(f, g), atol=1e-6)


def test_gradient_matching_of_backprop_with_itself():
    """Its local gradients are beta times those of the cross-entropy: nothing is off."""
    network = NETWORKS["lenet"]()
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 4)
    found = jax.jit(
        lambda f: metrics.gradient_matching(
            network, backprop_targets(beta=0.25), f, feedback, images, labels, beta=0.25
        )
    )(forward)
    assert jax.tree.structure(found, is_leaf=is_alignment) == jax.tree.structure(forward)
    for one in jax.tree.leaves(found, is_leaf=is_alignment):
        assert one.distance < 1e-10 and one.angle < 0.5


def is_alignment(node):
    return isinstance(node, metrics.Alignment)


def test_gradient_matching_against_its_definition():
    """Local gradients / beta first, the gradients of the mean cross-entropy second."""
    network, beta = NETWORKS["mlp"](), 0.01
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 4)
    rule = ldrl(noise=(0.1, 0.1), beta=beta)

    def local(forward, targets):  # no gradient crosses a block boundary
        total, h = 0.0, images
        for block, t in zip(network, targets, strict=True):
            h = block.forward(forward[block.name], jax.lax.stop_gradient(h))[0]
            total += 0.5 * jnp.mean(jnp.sum((h - t) ** 2, axis=1))
        return total

    def cross_entropy(forward):
        logits = forward_all(network, forward, images).h[-1]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

    @jax.jit
    def run(forward):
        found = metrics.gradient_matching(
            network, rule, forward, feedback, images, labels, beta=beta
        )
        activations = forward_all(network, forward, images)
        top = rule.output_target(activations.h[-1], labels)
        targets = rule.targets(network, forward, feedback, activations, top)
        return found, jax.grad(local)(forward, targets), jax.grad(cross_entropy)(forward)

    found, rules, backprops = run(forward)
    for path, g in jax.tree.leaves_with_path(rules):
        g, r = np.asarray(g) / beta, np.asarray(backprops[path[0].key][path[1].key])
        expected = [np.linalg.norm(g - r) / np.linalg.norm(g), degrees_between(g, r)]
        np.testing.assert_allclose(found[path[0].key][path[1].key], expected, rtol=0, atol=1e-6)
    kernels = [found[block]["kernel"] for block in ("fc1", "fc2")]
    assert all(angle > 5 for _, angle in kernels)  # random feedback: not the same thing twice


def test_direction_angle_does_not_know_of_norms():
    """Where the published one is bent by its 1e-8, and where arccos loses half of its digits."""
    a, b = jnp.asarray(normal(0, (3, 4))), jnp.asarray(normal(1, (3, 4)))
    np.testing.assert_allclose(metrics.direction_angle(a, b), degrees_between(a, b), rtol=1e-6)
    for scale in (1e-12, 1e12):
        found = metrics.direction_angle(scale * a, b)
        np.testing.assert_allclose(found, metrics.direction_angle(a, b), rtol=1e-12)
    tiny = jnp.asarray([1.0, 1e-9])
    np.testing.assert_allclose(
        metrics.direction_angle(jnp.array([1.0, 0.0]), tiny), np.degrees(1e-9), rtol=1e-6
    )
    assert metrics.direction_angle(a, -a) == 180
    assert np.isnan(metrics.direction_angle(a, 0 * a))
    assert metrics.angle(1e-4 * a / jnp.linalg.norm(a), a / jnp.linalg.norm(a)) > 0.5


def test_norm_ratio():
    """||omega|| / ||theta||, by the names of the angles."""
    forward, feedback = make_parameters(NETWORKS["vgg"]())
    found = metrics.norm_ratio(forward, feedback)
    assert list(found) == list(metrics.weight_alignment(forward, feedback))
    for block, ratio in found.items():
        f, g = forward[block]["kernel"].ravel(), feedback[block]["kernel"].ravel()
        np.testing.assert_allclose(ratio, np.linalg.norm(g) / np.linalg.norm(f), rtol=1e-12)
    doubled = {name: {"kernel": -2 * forward[name]["kernel"]} for name in feedback}
    assert set(map(float, metrics.norm_ratio(forward, doubled).values())) == {2.0}


def made(name, beta):
    """A rule of the table, with the options that it has."""
    takes = inspect.signature(RULES[name]).parameters
    options = {"beta": beta, "noise": 0.1}
    return RULES[name](**{key: value for key, value in options.items() if key in takes})


def updates_of(name, beta, seed=0, size=4):
    """(network, found, the gradient of a training step of the rule at the small beta, backprop's)."""
    network, rule = NETWORKS["vgg"](), made(name, metrics.SMALL_BETA)
    images, labels = make_batch(network, size, seed)
    # Feedback in closed form belongs to a step; feedback that is trained would move.
    trains = learner.BOTH if rule.solve_feedback is not None else learner.FORWARD_ONLY
    of = learner.Learner(network, rule, optim.sgd(0.1, momentum=0.9), trains=trains)

    def cross_entropy(forward):
        logits = forward_all(network, forward, images).h[-1]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(size), labels])

    @jax.jit
    def run(state):
        found = metrics.update_alignment(
            network, made(name, beta), state.forward, state.feedback, images, labels
        )
        _, record = learner.step(of, state, images, labels)
        return found, record.forward_gradient, jax.grad(cross_entropy)(state.forward)

    return network, *run(double(learner.init(of, jax.random.key(seed))))


def scale(name, block, size=4):
    """What the rule's local loss makes of backprop's gradient."""
    if name == "backprop":
        return 1.0
    if name != "drl":
        return metrics.SMALL_BETA
    elements = np.prod(block.output_shape) if len(block.output_shape) == 3 else 1
    return 2 * metrics.SMALL_BETA / (size * elements)


@pytest.mark.parametrize(
    "name", [n if n in ("ldrl", "drl", "backprop") else slow(n) for n in RULES]
)
def test_updates_of_every_rule_against_a_training_step(name):
    """Its gradient at the small beta beside backprop's; the measured rule has another beta."""
    network, found, gradients, references = updates_of(name, beta=0.7)
    for block in network:
        for key, g in gradients[block.name].items():
            g, r = np.asarray(g), np.asarray(references[block.name][key])
            s = scale(name, block)
            cosine = (g * r).sum() / np.linalg.norm(g) / np.linalg.norm(r)
            expected = (
                np.linalg.norm(g - s * r) / np.linalg.norm(g),
                np.degrees(np.arccos(np.clip(cosine, -1, 1))),
            )
            if name == "backprop":
                assert found[block.name][key] == (0, 0)
            else:  # DRL's steps are divided by the batch and the elements: fewer digits are left
                np.testing.assert_allclose(
                    found[block.name][key], expected, rtol=1e-5, atol=1e-4, err_msg=key
                )
    angles = [found[block.name]["kernel"].angle for block in network]
    assert angles[-1] < 1e-3  # the last block is trained by the output error itself
    transported = name in ("analytic", "backprop")  # others have feedback that is random
    assert max(angles) < 2 if transported else max(angles) > 45


@pytest.mark.parametrize("name", ["ldrl", "drl"])
def test_updates_in_float32_are_those_in_float64(name):
    """As runs have them. Gradients of 1e-6 keep their directions."""
    network = NETWORKS["vgg"]()
    forward, feedback = make_parameters(network)
    images, labels = make_batch(network, 16)
    rule = made(name, 0.016)
    if name == "drl":
        feedback = rule.init_feedback(network, jax.random.key(1))
    run = jax.jit(lambda *of: metrics.update_alignment(network, rule, *of))
    wide = run(forward, feedback, images, labels)
    narrow = run(
        *jax.tree.map(lambda x: x.astype(jnp.float32), (forward, feedback, images)), labels
    )
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)  # degrees, and a relative distance


def test_updates_refuse_a_rule_that_says_neither_where_nor_what():
    network = NETWORKS["mlp"]()
    forward, _ = make_parameters(network)
    with pytest.raises(ValueError, match=r"^rule is 'ldrl'; allowed: a rule with targets or a"):
        metrics.update_alignment(
            network, made("ldrl", 0.1)._replace(targets=None), forward, {}, *make_batch(network, 2)
        )


def test_a_rule_that_solves_its_maps_is_compared_with_them_solved():
    """Whatever is in the state before."""
    network = dtp.mlp((6,), 3, hidden=(5, 5))
    rule = dtp.analytic(beta=0.005)
    sgd = dtp.optim.sgd(0.1, momentum=0.0)
    state = dtp.init(dtp.Learner(network, rule, sgd), jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 6))
    given = (network, rule, state.forward, state.feedback, images, jnp.arange(8) % 3)
    found = dtp.metrics.gradient_matching(*given, beta=0.005)
    solved = dtp.metrics.update_alignment(*given, beta=0.005)
    for name, kernels in found.items():
        angle = kernels["kernel"].angle
        assert angle == pytest.approx(solved[name]["kernel"].angle, abs=0.5) and angle < 20, name
