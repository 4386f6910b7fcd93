"""Every rule on every network: one program, finite numbers, locality, and shardings that stay."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from dtp_jax import networks, rules
from dtp_jax.learning import learner, optim

pytestmark = pytest.mark.usefixtures("single_precision")

TINY = {
    "simple_vgg": {"channels": (3, 4)},
    "lenet": {"channels": (3, 4), "hidden": (6,)},
    "meulemans": {"channels": (3, 4), "hidden": (6,)},
    "mlp": {"hidden": (7, 6)},
    "resnet18": {"channels": (3, 3, 4)},
    "resnet34": {"channels": (3, 4), "batch_norm": True},
}
BATCH = 4


def build(rule_name, network_name):
    network = networks.NETWORKS[network_name]((8, 8, 2), 5, **TINY[network_name])
    options = {"beta": 0.5, "noise": (0.1,) * (len(network) - 1)}
    rule = rules.RULES[rule_name]
    takes = rule.__kwdefaults__ or {}
    names = rule.__code__.co_varnames[: rule.__code__.co_kwonlyargcount]
    made = rule(**{name: options[name] for name in names if name not in takes})
    count = len(made.feedback_training.blocks(network)) if made.feedback_training else 0
    return learner.Learner(
        network,
        made,
        optim.sgd(0.01, momentum=0.9),
        (optim.sgd(1e-3, momentum=0.9),) * count,
        (2,) * count,
    )


def is_quick(rule_name, network_name):
    """Every rule, and with L-DRL networks of every kind of block."""
    if network_name in ("mlp", "simple_vgg"):
        return True
    return rule_name == "ldrl" and network_name in ("lenet", "resnet34")


@pytest.mark.parametrize(
    "rule_name, network_name",
    [
        (rule, network) if is_quick(rule, network) else slow(rule, network)
        for rule in rules.RULES
        for network in networks.NETWORKS
    ],
)
def test_step(rule_name, network_name):
    made = build(rule_name, network_name)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    state = jax.device_put(learner.init(made, jax.random.key(0)), NamedSharding(mesh, P()))
    images, labels = jax.device_put(
        (jax.random.normal(jax.random.key(1), (BATCH, 8, 8, 2)), jnp.arange(BATCH) % 5),
        NamedSharding(mesh, P("data")),
    )
    chex.clear_trace_counter()
    step = jax.jit(
        chex.assert_max_traces(lambda s, x, y: step_and_gradients(made, s, x, y), n=1),
        out_shardings=(NamedSharding(mesh, P()), None, None),
    )
    first, record, gradients = step(state, images, labels)
    second, _, _ = step(first, images, labels)

    chex.assert_trees_all_equal_shapes_and_dtypes(state, second)
    chex.assert_tree_all_finite((second.forward, second.feedback, record))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(second.forward))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.forward, second.forward)
    assert all(any(jax.tree.leaves(moved[block.name])) for block in made.network)
    if made.rule.global_loss is None:
        check_locality(made.network, record, *gradients)


def step_and_gradients(made, state, images, labels):
    """A step, and the local gradients for its targets and for those with one of them changed."""
    after, record = learner.step(made, state, images, labels)
    if made.rule.global_loss is not None:
        return after, record, ()
    targets = record.targets
    changed = tuple(t + (i == len(targets) // 2) for i, t in enumerate(targets))
    gradients = tuple(
        learner.local_gradients(made.network, made.rule, state.forward, record.activations, t)[1]
        for t in (targets, changed)
    )
    return after, record, gradients


def check_locality(network, record, before, after):
    """The changed target changed the gradient of its own block alone; targets have their shapes."""
    assert [t.shape for t in record.targets] == [a.shape for a in record.activations.h[1:]]
    for i, block in enumerate(network):
        same = jax.tree.map(np.array_equal, before[block.name], after[block.name])
        assert all(jax.tree.leaves(same)) == (i != len(network) // 2), block.name
