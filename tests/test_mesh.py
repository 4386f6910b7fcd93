"""Training over a mesh gives the numbers of one device, and says nothing it need not say."""

import chex
import helpers
import jax
import numpy as np
import pytest

from benchmarks.hlo import collectives
from benchmarks.operations import Program
from dtp_jax import networks, ops, rules
from dtp_jax.blocks import count
from dtp_jax.data import DATASETS
from dtp_jax.data.feeding import feed
from dtp_jax.data.spec import Split, Splits
from dtp_jax.learning import learner, optim
from dtp_jax.parallel import mesh as mesh_
from dtp_jax.run import program

MESHES = {"data": (8, 1), "layers": (1, 8), "both": (2, 4)}
BATCH, STEPS = 16, 2


def vgg(rule, iterations=(2, 3, 2)):
    network = networks.simple_vgg((8, 8, 2), 5, channels=(3, 4, 5))
    count = len(rule.feedback_training.blocks(network)) if rule.feedback_training else 0
    return learner.Learner(
        network,
        rule,
        optim.sgd(0.01, momentum=0.9),
        tuple(optim.sgd(0.01 / (n + 1), momentum=0.9) for n in range(count)),
        iterations[:count],
    )


LEARNERS = {
    "ldrl": lambda: vgg(rules.ldrl(noise=(0.2, 0.1, 0.1), beta=0.5)),
    "two samples": lambda: vgg(rules.ldrl(noise=(0.2, 0.1, 0.1), beta=0.5))._replace(
        feedback_samples=2
    ),
    "drl": lambda: vgg(rules.drl(noise=(0.1,) * 3, beta=0.1)),
    "stale drl": lambda: vgg(rules.drl(noise=(0.1,) * 3, beta=0.1))._replace(
        stale_gradients="zeroed"
    ),
    "analytic": lambda: vgg(rules.analytic(beta=0.5)),
    "backprop": lambda: vgg(rules.backprop()),
    "batch norm": lambda: batch_normed(),
}
QUICK = ("ldrl", "drl")


def batch_normed():
    network = networks.resnet18((8, 8, 2), 5, channels=(3, 4), batch_norm=True)
    return learner.Learner(
        network,
        rules.ldrl(noise=0.1, beta=0.5),
        optim.sgd(0.01, momentum=0.9),
        optim.sgd(1e-3, momentum=0.9),
        (1, 2),
    )


def compiled(made, mesh, images, labels):
    """(program of a step, first state, images, labels) on the mesh, in float64."""
    made = made._replace(mesh=mesh)
    everywhere = mesh_.replicated(mesh)
    init = jax.jit(
        lambda: helpers.double(learner.init(made, jax.random.key(0))), out_shardings=everywhere
    )
    state, images, labels = init(), *mesh_.put(mesh, (images, labels))

    def step(state, images, labels):
        return learner.train_step(made, state, *mesh_.split_batch(mesh, (images, labels)))

    lowered = jax.jit(step, out_shardings=everywhere).lower(state, images, labels)
    return lowered.compile(), state, images, labels


def train(made, mesh, images, labels):
    step, state, images, labels = compiled(made, mesh, images, labels)
    for _ in range(STEPS):
        state, metrics = step(state, images, labels)
    return jax.device_get(
        (state.forward, state.feedback, state.feedback_opt_state, state.statistics, metrics)
    )


@pytest.mark.parametrize(
    "name, meshes",
    [(name, ["both"]) for name in QUICK]
    + [helpers.slow("ldrl", ["data", "layers"])]
    + [helpers.slow(name, ["both"]) for name in LEARNERS if name not in QUICK],
)
def test_the_numbers_are_those_of_one_device(name, meshes):
    made = LEARNERS[name]()
    batch = jax.device_get(helpers.make_batch(made.network, BATCH))
    expected = train(made, None, *batch)
    for mesh in meshes:
        found = train(made, mesh_.make_mesh(*MESHES[mesh]), *batch)
        chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)


def test_layer_parallel_iterations_do_not_communicate():
    made = LEARNERS["ldrl"]()
    batch = jax.device_get(helpers.make_batch(made.network, BATCH))
    step, *_ = compiled(made, mesh_.make_mesh(1, 4), *batch)
    inside, outside = collectives(step.as_text())
    assert not inside and set(outside) == {"all-reduce"}


@pytest.mark.parametrize("platform", ["cpu", *map(helpers.slow, ["gpu", "tpu"])])
@pytest.mark.parametrize("shape", [helpers.slow((8, 1)), (4, 2)])
def test_data_parallel_iterations_only_sum_gradients(platform, shape):
    """A kernel's gradient and a loss per iteration, and the forward gradients: no byte more, in every form."""
    iterations = (7, 5, 8)
    made = vgg(rules.ldrl(noise=(0.2, 0.1, 0.1), beta=0.5), iterations)
    batch = jax.device_get(helpers.make_batch(made.network, BATCH))
    with ops.compiled_for(platform):
        step, state, *_ = compiled(made, mesh_.make_mesh(*shape), *batch)
    sent = [o for o in Program(step.as_text()).operations if o.collective]
    assert {o.collective for o in sent} == {"all-reduce"}
    float64, maps = 8, [count(state.feedback[block.name]) + 1 for block in made.trained]
    inside = [k * n for k, n in zip(iterations, maps)]
    if shape[1] == 2:  # only its own maps, then those and the momenta of all
        groups = mesh_.assign(made.feedback_flops, 2)
        inside = [max(sum(inside[n] for n in group) for group in groups)]
        inside += [2 * count(state.feedback), sum(iterations)]
    logged = 3 * len(made.network) + 3
    expected = float64 * (sum(inside) + count(state.forward) + logged)
    assert sum(o.times * o.written for o in sent) <= expected


@pytest.mark.parametrize(
    "costs, groups, expected",
    [
        ((5.0, 4.0, 3.0, 3.0), 2, ((0, 3), (1, 2))),
        ((1.0, 1.0), 3, ((0,), (1,), ())),
        ((3.0, 2.0), 1, ((0, 1),)),
    ],
)
def test_assign(costs, groups, expected):
    assert mesh_.assign(costs, groups) == expected


def test_speedup_is_bounded_by_the_dearest_block():
    """40 % of the default network's feedback training is its second block's, conv_1's."""
    made = learner.Learner(
        networks.simple_vgg((32, 32, 3), 10),
        rules.ldrl(noise=(0.1,) * 5, beta=0.7),
        optim.sgd(0.1, momentum=0.0),
        (optim.sgd(0.1, momentum=0.0),) * 5,
        (20, 30, 35, 55, 20),
    )
    costs = made.feedback_flops
    unit = 2 * 9 * 32**2 / 4
    by_hand = [
        4 * k * unit * n for k, n in zip((20, 30, 35, 55), (128**2, 64 * 128, 64 * 64, 32 * 64))
    ]
    np.testing.assert_allclose(costs[:4], by_hand)
    assert mesh_.speedup_bound(costs, 5) == pytest.approx(sum(costs) / costs[0])
    assert 2.4 < mesh_.speedup_bound(costs, 5) < 2.7


def test_mesh_errors():
    there = jax.device_count()
    assert mesh_.make_mesh(1, 1) is None
    with pytest.raises(ValueError, match="config.data_parallel is 3.*config.layer_parallel is 4"):
        mesh_.make_mesh(3, 4)
    assert mesh_.make_mesh(2, 3).size == 6 <= there


@pytest.mark.usefixtures("single_precision")
def test_streamed_and_resident_batches_on_a_mesh():
    random = np.random.default_rng(0)
    spec = DATASETS["digits"]
    split = Split(
        random.integers(0, 256, (40, *spec.image_shape), dtype=np.uint8),
        random.integers(0, 10, 40).astype(np.int32),
    )
    splits = Splits(split, None, split, np.arange(40, dtype=np.int32))
    mesh = mesh_.make_mesh(4, 2)
    options = {"batch_size": 8, "eval_batch_size": 12, "most_steps": 3, "seed": 1, "mesh": mesh}
    host, device = (feed(spec, splits, place=p, **options) for p in ("host", "device"))
    streamed, resident = (one.train.read(1, 2, 3) for one in (host, device))
    assert not streamed.images.sharding.is_fully_replicated
    for a, b in zip(host.train.like[:2], streamed[:2]):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
    np.testing.assert_array_equal(
        np.asarray(streamed.images)[streamed.batches], np.asarray(resident.images)[resident.batches]
    )
    host.train.close()
    network = networks.mlp(spec.image_shape, 10, hidden=(5,))
    forward = learner.init(
        learner.Learner(network, rules.backprop(), optim.sgd(0.1, momentum=0.0)), jax.random.key(0)
    ).forward
    evaluate = program.evaluator(network, spec, mesh)
    alone = program.evaluator(network, spec)
    expected = alone(
        forward, feed(spec, splits, place="device", **options | {"mesh": None}).evaluation["test"]
    )
    for one in (host, device):
        found = evaluate(mesh_.put(mesh, jax.device_get(forward)), one.evaluation["test"])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def of_run(tree, number):
    return jax.tree.map(lambda a: a[number], tree)


@pytest.mark.parametrize("devices", [*map(helpers.slow, [None, 1, 4]), 2])
def test_seeds_at_once_are_the_seeds_alone(devices):
    """By a vmap, by XLA's own division, and two or one on each device, of which none asks another."""
    spec = DATASETS["digits"]
    network = networks.simple_vgg(spec.image_shape, 10, channels=(3, 4))
    made = learner.Learner(
        network,
        rules.ldrl(noise=(0.1, 0.1), beta=0.5),
        optim.sgd(0.01, momentum=0.9),
        (optim.sgd(0.01, momentum=0.9),) * 2,
        (2, 2),
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, *spec.image_shape), dtype=np.uint8)
    labels = random.integers(0, 10, 40).astype(np.int32)
    batches = random.integers(0, 40, (4, 3, 8)).astype(np.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    states = jax.vmap(lambda key: learner.init(made, key))(keys)
    alone = program.train_chunk(made, spec, augmented=True)
    expected = [
        alone(helpers.copied(of_run(states, s)), images, labels, batches[s], 3) for s in range(4)
    ]
    among = None
    if devices == 1:
        states, batches = jax.device_put((states, batches), mesh_.divided(mesh_.make_mesh(4, 1)))
    elif devices is not None:
        among = jax.sharding.Mesh(np.array(jax.devices()[:devices]), (mesh_.SEEDS,))
    together = program.train_chunk(made, spec, augmented=True, seeds=True, among=among)
    if among is not None:
        compiled = together.lower(states, images, labels, batches, np.int32(3)).compile()
        assert not any(collectives(compiled.as_text()))
    state, metrics = together(helpers.copied(states), images, labels, batches, 3)
    for s in range(4):
        found = of_run((state.forward, state.feedback, metrics), s)
        one = (expected[s][0].forward, expected[s][0].feedback, expected[s][1])
        chex.assert_trees_all_close(found, one, rtol=1e-4, atol=1e-5)


def test_an_own_copy_is_on_one_device_of_this_process():
    """So that a program of it can wait for no other one; keys included."""
    mesh = mesh_.make_mesh(2, 1)
    tree = {"a": np.arange(6.0), "key": jax.random.key(3)}
    there = jax.device_put(tree, mesh_.replicated(mesh))
    own = mesh_.on_own_device(there)
    for name, array in own.items():
        assert len(there[name].sharding.device_set) == 2
        assert array.sharding.device_set == {mesh.devices.flat[0]}
    np.testing.assert_array_equal(own["a"], tree["a"])
    assert jax.random.bits(own["key"]) == jax.random.bits(tree["key"])


def test_jobs_of_no_cost_are_divided():
    """A user's blocks need not say what they cost."""
    assert mesh_.assign((0, 0, 0), 3) == ((0,), (1,), (2,))
    assert mesh_.speedup_bound((0, 0, 0), 3) == 3 and mesh_.speedup_bound((0, 0, 0), 2) == 1.5
