"""Wrong use of the library is one line: the field, its value, what is allowed; right use costs nothing.

The lines are those that the config says of the same values, without "config." in front.
"""

import dataclasses
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import config_fields, normal, slow
from jax.sharding import AxisType

import dtp_jax as dtp
from dtp_jax import blocks, ops
from dtp_jax.blocks import block as block_module
from dtp_jax.learning import checks, evaluation
from dtp_jax.learning import learner as learning
from dtp_jax.parallel.mesh import make_mesh
from dtp_jax.rules.ldrl import Noise
from dtp_jax.rules.rule import FeedbackTraining, of_map
from dtp_jax.run.config import validate

pytestmark = pytest.mark.usefixtures("single_precision")

NETWORK = dtp.simple_vgg((8, 8, 1), 10, channels=(3, 4))  # trained maps: conv_1 and fc
NORMED = dtp.resnet18((8, 8, 1), 10, channels=(3, 4), batch_norm=True)
SGD = dtp.optim.sgd(0.01, momentum=0.9)
OTHER_SGD = dtp.optim.sgd(0.02, momentum=0.9)
RULE = dtp.ldrl(noise=(0.1, 0.2), beta=0.7)
BATCH = 4

AN_OPTIMIZER = "an optimizer, such as dtp_jax.optim.sgd(0.1, momentum=0.9)"
A_RULE = "a rule, such as dtp_jax.ldrl(noise=0.1, beta=0.7)"
BLOCKS = "blocks, as dtp_jax.chain(input_shape, factories) returns them"
EACH = "1 value, or 2: one for each of conv_1, fc"
UNSAID = "; or trains=('forward',), which trains no feedback"
FROM_INIT = "as in dtp_jax.init(learner, key)"


def make(**changes):
    """L-DRL with two iterations of each map, one sample."""
    options = dict(feedback_optimizers=SGD, feedback_iterations=2)
    return dtp.Learner(
        **{**dict(network=NETWORK, rule=RULE, forward_optimizer=SGD, **options), **changes}
    )


def batch_of(network=NETWORK, dtype=jnp.float32):
    images = jnp.asarray(normal(0, (BATCH, *network[0].input_shape)), dtype)
    return images, jnp.arange(BATCH, dtype=jnp.int32) % network[-1].output_shape[0]


def shapes_of(learner):
    """A state without numbers: whoever computes with it fails."""
    return jax.eval_shape(partial(dtp.init, learner), jax.random.key(0))


def refused(line, function, *args, **options):
    """The call raises ValueError with exactly this line; "..." stands for anything."""
    with pytest.raises(ValueError) as error:
        function(*args, **options)
    pattern = ".*".join(map(re.escape, line.split("...")))
    assert re.fullmatch(pattern, str(error.value)), str(error.value)


# A learner when it is built.

FIVE = blocks.chain((8, 8, 1), [dtp.conv_block("a", channels=5, window=3)])
SIX = blocks.chain((8, 8, 1), [dtp.conv_block("b", channels=6, window=3)])

LEARNERS = {
    "no feedback options": (
        dict(feedback_optimizers=(), feedback_iterations=()),
        f"feedback_optimizers is (); allowed: {EACH}{UNSAID}",
    ),
    "no iterations": (
        dict(feedback_iterations=()),
        f"feedback_iterations is (); allowed: {EACH}{UNSAID}",
    ),
    "no iterations, nothing trained": (
        dict(feedback_iterations=(), trains=("forward",)),
        f"feedback_iterations is (); allowed: {EACH}{UNSAID}",
    ),
    "too many iterations": (
        dict(feedback_iterations=(2, 3, 4)),
        f"feedback_iterations is (2, 3, 4); allowed: {EACH}",
    ),
    "too many optimizers": (
        dict(feedback_optimizers=(SGD,) * 3),
        f"feedback_optimizers is 3 values; allowed: {EACH}",
    ),
    "no whole iterations": (
        dict(feedback_iterations=(2.0, 3)),
        "feedback_iterations is (2.0, 3); allowed: whole numbers, 1 or more",
    ),
    "iterations 0": (
        dict(feedback_iterations=0),
        "feedback_iterations is 0; allowed: whole numbers, 1 or more",
    ),
    "iterations True": (
        dict(feedback_iterations=True),
        "feedback_iterations is True; allowed: whole numbers, 1 or more",
    ),
    "iterations None": (
        dict(feedback_iterations=None),
        "feedback_iterations is None; allowed: whole numbers, 1 or more",
    ),
    "samples 0": (
        dict(feedback_samples=0),
        "feedback_samples is 0; allowed: a whole number, 1 or more",
    ),
    "samples for each map": (
        dict(feedback_samples=(1, 2)),
        "feedback_samples is (1, 2); allowed: a whole number, 1 or more",
    ),
    "a rate for an optimizer": (
        dict(forward_optimizer=0.1),
        f"forward_optimizer is 0.1; allowed: {AN_OPTIMIZER}",
    ),
    "a factory for an optimizer": (
        dict(forward_optimizer=dtp.optim.sgd),
        f"forward_optimizer is <function sgd at ...>; allowed: {AN_OPTIMIZER}",
    ),
    "a feedback rate": (
        dict(feedback_optimizers=0.1),
        f"feedback_optimizers is 0.1; allowed: {AN_OPTIMIZER}, or a tuple of them",
    ),
    "one feedback optimizer is a rate": (
        dict(feedback_optimizers=(SGD, 0.1)),
        f"feedback_optimizers[1] is 0.1; allowed: {AN_OPTIMIZER}",
    ),
    "unknown part": (
        dict(trains=("forwards",)),
        "trains is ('forwards',); allowed: one or both of feedback, forward",
    ),
    "nothing trained": (
        dict(trains=()),
        "trains is (); allowed: one or both of feedback, forward",
    ),
    "stale gradients": (
        dict(stale_gradients="keep"),
        "stale_gradients is 'keep'; allowed: one of none, kept, zeroed",
    ),
    "precision": (
        dict(precision="float16"),
        "precision is 'float16'; allowed: one of float32, tf32, bfloat16",
    ),
    "too much noise": (
        dict(rule=dtp.ldrl(noise=(0.1, 0.2, 0.3), beta=0.7)),
        f"noise is (0.1, 0.2, 0.3); allowed: {EACH}",
    ),
    "no noise": (
        dict(rule=dtp.rules.tp(noise=(), beta=0.7)),
        f"noise is (); allowed: {EACH}",
    ),
    "noise of DRL": (
        dict(rule=dtp.drl(noise=(0.1,) * 3, beta=0.7)),
        "noise is (0.1, 0.1, 0.1); allowed: 1 value, or 2: one for each of conv_0, conv_1",
    ),
    "a name for a rule": (dict(rule="ldrl"), f"rule is 'ldrl'; allowed: {A_RULE}"),
    "a factory for a rule": (
        dict(rule=dtp.ldrl),
        f"rule is <function ldrl at ...>; allowed: {A_RULE}",
    ),
    "half a fast form": (
        dict(rule=RULE._replace(feedback_training=RULE.feedback_training._replace(gradient=None))),
        "rule.feedback_training.gradient is None; allowed: both or neither of prepare and gradient",
    ),
    "optimizers for no maps": (
        dict(rule=dtp.backprop(), feedback_iterations=()),
        "feedback_optimizers is ... value...; allowed: () for the rule backprop, which trains no "
        "feedback maps",
    ),
    "iterations for no maps": (
        dict(rule=dtp.fw_dtp(beta=0.7), feedback_optimizers=()),
        "feedback_iterations is (2,...); allowed: () for the rule fw_dtp, which trains no feedback maps",
    ),
    "samples for no maps": (
        dict(
            rule=dtp.analytic(beta=0.7),
            feedback_optimizers=(),
            feedback_iterations=(),
            feedback_samples=3,
        ),
        "feedback_samples is 3; allowed: 1 for the rule analytic, which trains no feedback maps",
    ),
    "stale gradients of no maps": (
        dict(
            rule=dtp.backprop(),
            feedback_optimizers=(),
            feedback_iterations=(),
            stale_gradients="kept",
        ),
        "stale_gradients is 'kept'; allowed: 'none' for the rule backprop, which trains no feedback "
        "maps",
    ),
    "only feedback, which there is not": (
        dict(
            rule=dtp.backprop(),
            feedback_optimizers=(),
            feedback_iterations=(),
            trains=("feedback",),
        ),
        "trains is ('feedback',); allowed: with forward, for the rule backprop trains no feedback maps",
    ),
    "no block": (dict(network=()), f"network is (); allowed: one or more {BLOCKS}"),
    "one block": (
        dict(network=NETWORK[0]),
        f"network is a Block; allowed: one or more {BLOCKS}",
    ),
    "a name for a network": (
        dict(network="simple_vgg"),
        f"network is 'simple_vgg'; allowed: one or more {BLOCKS}",
    ),
    "factories for blocks": (
        dict(network=(dtp.dense_block("fc", features=2),)),
        f"network[0] is <function dense_block.<locals>.build at ...>; allowed: one of the {BLOCKS}",
    ),
    "two blocks of one name": (
        dict(network=(*NETWORK[:2], NETWORK[1], NETWORK[2])),
        "network is ('conv_0', 'conv_1', 'conv_1', 'fc'); allowed: blocks with a name of their own "
        "each",
    ),
    "blocks that do not fit": (
        dict(network=(NETWORK[0], NETWORK[2])),
        "network is ('conv_0', 'fc'); allowed: blocks that take what the one before puts out, and fc "
        "takes (2, 2, 4) where conv_0 puts out (4, 4, 3)",
    ),
    "no readout": (
        dict(network=NETWORK[:2]),
        "network[-1].output_shape is (2, 2, 4); allowed: (classes,)",
    ),
    "a mesh of other axes": (
        dict(
            mesh=jax.make_mesh(
                (2,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
            )
        ),
        "mesh is ...; allowed: None, or what dtp_jax.parallel.mesh.make_mesh(data, layers) returns",
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learner(name):
    """Built so, and changed to be so."""
    changes, line = LEARNERS[name]
    refused(line, make, **changes)
    refused(line, make()._replace, **changes)
    refused(line, make().replace, **changes)
    refused(line, partial(dataclasses.replace, make()), **changes)


def test_one_value_stands_for_all():
    """Also as a tuple or a list of length 1; whole numbers and arrays of other libraries are numbers."""
    for optimizer in (SGD, (SGD,), [SGD], (SGD, SGD)):
        for iterations in (2, (2,), [2, 2], np.int32(2), np.array([2, 2])):
            made = make(feedback_optimizers=optimizer, feedback_iterations=iterations)
            assert made.feedback_optimizers == (SGD, SGD)
            assert made.feedback_iterations == (2, 2)
            assert all(type(k) is int for k in made.feedback_iterations)
            assert made == make() and hash(made) == hash(make())
    assert make(feedback_optimizers=(SGD, OTHER_SGD)).feedback_optimizers == (SGD, OTHER_SGD)
    assert [block.name for block in make().trained] == ["conv_1", "fc"]
    assert make(trains="forward") == make(trains=("forward",))
    assert make(trains=("forward", "feedback")) == make() != make(feedback_samples=2)


def test_a_learner_stays_what_it_was():
    """Its order of arguments, a static argument, not to be changed in place; a network is any tuple."""
    made = dtp.Learner(
        NETWORK, RULE, SGD, (SGD, OTHER_SGD), (2, 3), 4, ("feedback",), "kept", "tf32"
    )
    assert made == make(
        feedback_optimizers=(SGD, OTHER_SGD),
        feedback_iterations=(2, 3),
        feedback_samples=4,
        trains=("feedback",),
        stale_gradients="kept",
    )
    assert {made: 1}[made._replace()] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.precision = "float32"
    assert made._replace(network=tuple(NETWORK)) == made == made._replace(network=list(NETWORK))
    with_mesh = made._replace(mesh=make_mesh(2, 1))
    assert with_mesh.mesh.size == 2 and with_mesh.feedback_iterations == (2, 3)
    backprop = dtp.Learner(NETWORK, dtp.backprop(), SGD, precision="bfloat16")
    assert backprop.trained == () and backprop.feedback_flops == ()


def test_a_learner_prints_its_options_and_its_network():
    first, *rest = repr(make()).split("\n")
    assert first == (
        "Learner(rule=ldrl, feedback_iterations=(2, 2), feedback_samples=1, "
        "trains=('feedback', 'forward'), stale_gradients='none', precision='tf32', mesh=None)"
    )
    assert "\n".join(rest) == repr(NETWORK)


@pytest.mark.parametrize("rule", [RULE, dtp.ldrl(noise=(), beta=0.7)])
def test_feedback_that_stays_random_is_said(rule):
    """Targets come from the feedback maps as they were drawn, and a step moves the forward weights alone."""
    made = dtp.Learner(NETWORK, rule, SGD, trains=("forward",))
    assert made.trained == () and made.feedback_flops == ()
    state = dtp.init(made, jax.random.key(0))
    after, metrics = jax.jit(partial(dtp.train_step, made))(state, *batch_of())
    chex.assert_trees_all_equal(after.feedback, state.feedback)
    assert metrics.feedback_loss == {} and sorted(metrics.forward_loss) == [
        "conv_0",
        "conv_1",
        "fc",
    ]
    assert (after.forward["conv_0"]["kernel"] != state.forward["conv_0"]["kernel"]).any()


def test_an_optimizer_of_optax_that_is_no_tuple():
    """optax.MultiSteps is an object with init and update."""
    made = make(forward_optimizer=optax.MultiSteps(SGD, 2), feedback_optimizers=optax.adam(1e-3))
    state = dtp.init(made, jax.random.key(0))
    after, _ = jax.jit(partial(dtp.train_step, made))(state, *batch_of())
    assert after.step == 1 and after.forward_opt_state.mini_step == 1


def test_a_network_without_feedback_maps():
    """One block has nothing below it: one value stands for none, and two are too many."""
    alone = partial(
        make, network=dtp.mlp((8, 8, 1), 10, hidden=()), rule=dtp.ldrl(noise=0.1, beta=0.7)
    )
    for iterations in ((), 2):
        assert alone(feedback_iterations=iterations).feedback_iterations == ()
    line = "feedback_iterations is (2, 2); allowed: (), or 1 value"
    refused(line, alone, feedback_iterations=(2, 2))


# The same programs.


def lowered(learner):
    step = jax.jit(partial(dtp.train_step, learner))
    return step.lower(shapes_of(learner), *batch_of()).as_text()


@pytest.mark.parametrize("name", ["ldrl", "drl", *map(slow, ["dtp", "tp"])])
def test_scalars_and_tuples_are_the_same_program(name):
    factory = dtp.rules.RULES[name]
    one = make(rule=factory(noise=0.1, beta=0.7), feedback_optimizers=SGD, feedback_iterations=3)
    full = make(
        rule=factory(noise=(0.1, 0.1), beta=0.7),
        feedback_optimizers=(SGD, SGD),
        feedback_iterations=(3, 3),
    )
    assert lowered(one) == lowered(full)
    other = full._replace(rule=factory(noise=(0.1, 0.2), beta=0.7))
    assert lowered(other) != lowered(full)


def test_scalars_and_tuples_give_the_same_numbers():
    one = make(rule=dtp.ldrl(noise=0.3, beta=0.7))
    full = make(rule=dtp.ldrl(noise=(0.3, 0.3), beta=0.7), feedback_iterations=(2, 2))
    found, expected = (
        jax.jit(partial(dtp.train_step, made))(dtp.init(made, jax.random.key(3)), *batch_of())
        for made in (one, full)
    )
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("normed", [False, True])
def test_checks_add_nothing_to_the_program(normed, monkeypatch):
    network = NORMED if normed else NETWORK
    made = make(network=network, rule=dtp.ldrl(noise=0.1, beta=0.7))
    state, (images, labels) = shapes_of(made), batch_of()

    def programs():
        evaluate = jax.jit(partial(evaluation.evaluate_batch, network))
        weights = jnp.ones(BATCH)
        return lowered(made), evaluate.lower(
            state.forward, images, labels, weights, state.statistics
        ).as_text()

    checked = programs()
    names = [name for name in vars(checks) if name.startswith("check_")]
    assert {"check_batch", "check_state", "check_images", "check_tree"} <= set(names)
    for module in (checks, block_module, evaluation):
        for name in names:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *args, **options: None)
    assert programs() == checked


# Hyper-parameters of rules.

RULES = [
    (dict(beta=-1), "beta is -1; allowed: a finite number above 0"),
    (dict(beta=0), "beta is 0; allowed: a finite number above 0"),
    (dict(beta="0.7"), "beta is '0.7'; allowed: a finite number above 0"),
    (dict(beta=(0.7,)), "beta is (0.7,); allowed: a finite number above 0"),
    (dict(beta=float("nan")), "beta is nan; allowed: a finite number above 0"),
    (dict(beta=True), "beta is True; allowed: a finite number above 0"),
    (dict(noise=-0.1), "noise is -0.1; allowed: finite numbers above 0"),
    (dict(noise=(0.1, 0.0)), "noise is (0.1, 0.0); allowed: finite numbers above 0"),
    (dict(noise="0.1"), "noise is '0.1'; allowed: finite numbers above 0"),
    (dict(noise={"fc": 0.1}), "noise is {'fc': 0.1}; allowed: finite numbers above 0"),
    (dict(noise=np.array([0.5, -0.5])), "noise is [0.5, -0.5]; allowed: finite numbers above 0"),
    (dict(noise=jnp.array([0.5, -0.5])), "noise is [0.5, -0.5]; allowed: finite numbers above 0"),
]


@pytest.mark.parametrize(("options", "line"), RULES)
@pytest.mark.parametrize("name", ["ldrl", "dtp", "tp", "drl"])
def test_rule(name, options, line):
    refused(line, dtp.rules.RULES[name], **{"noise": 0.1, "beta": 0.7, **options})


@pytest.mark.parametrize(
    "name", ["fw_dtp", "feedback_alignment", "direct_feedback_alignment", "analytic"]
)
def test_rule_without_noise(name):
    refused("beta is -1; allowed: a finite number above 0", dtp.rules.RULES[name], beta=-1)
    refused("beta is 0; allowed: a finite number above 0", dtp.rules.backprop_targets, beta=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", -1), ("noise", (0.1, 0.0)), ("feedback_activation", "gelu"), ("rule", "drl")],
)
def test_the_config_says_the_same(field, value):
    """Word for word, with "config." in front."""
    good = dict(noise=0.1, beta=0.7)
    if field == "rule":
        return
    with pytest.raises(ValueError) as of_library:
        dtp.drl(**{**good, field: value})
    with pytest.raises(ValueError) as of_config:
        validate(config_fields(rule="drl", **{field: value}))
    assert str(of_config.value) == f"config.{of_library.value}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("feedback_iterations", (2, 3, 4)),
        ("feedback_iterations", 0),
        ("feedback_samples", 0),
        ("stale_gradients", "keep"),
        ("precision", "float16"),
        ("noise", (0.1, 0.2, 0.3)),
    ],
)
def test_the_config_says_of_a_learner_the_same(field, value):
    """digits_dtp has the maps of NETWORK."""
    rule = {"rule": dtp.ldrl(noise=value, beta=0.7)} if field == "noise" else {field: value}
    with pytest.raises(ValueError) as of_library:
        make(**rule)
    with pytest.raises(ValueError) as of_config:
        validate(config_fields(**{field: value}))
    assert str(of_config.value) == f"config.{of_library.value}"


def test_rules_say_what_they_have_for_each_map():
    """What is known of the values is hashable; a rule made from another one keeps it."""
    assert RULE.per_map == (("noise", (0.1, 0.2)),) and RULE.beta == 0.7
    assert dtp.rules.tp(noise=[1], beta=1).per_map == (("noise", (1.0,)),)
    assert dtp.rules.tp(noise=np.float32(0.5), beta=1).per_map == (("noise", (0.5,)),)
    assert dtp.drl(noise=0.5, beta=1)._replace(name="mine").per_map == (("noise", (0.5,)),)
    assert dtp.fw_dtp(beta=0.5).per_map == () and dtp.analytic(beta=0.5).beta == 0.5
    assert [of_map((5,), n) for n in range(3)] == [5, 5, 5] and of_map((5, 6), 1) == 6
    hash((RULE, dtp.backprop()))


def loss_of_step(rule):
    """The feedback losses of a step, and the forward kernels after it."""
    made = make(rule=rule)
    after, metrics = dtp.train_step(made, dtp.init(made, jax.random.key(0)), *batch_of())
    return metrics.feedback_loss, after.forward


@pytest.mark.parametrize("kind", [slow("scalar"), "tuple", slow("array"), slow("beta")])
def test_hyper_parameters_that_are_traced_pass(kind):
    """vmap over sigma or beta: each as if it had been built with that number."""
    make_rule = {
        "scalar": lambda s: dtp.ldrl(noise=s, beta=0.7),
        "tuple": lambda s: dtp.ldrl(noise=(s, 0.2), beta=0.7),
        "array": lambda s: dtp.ldrl(noise=jnp.stack([s, s]), beta=0.7),
        "beta": lambda s: dtp.ldrl(noise=0.1, beta=s),
    }[kind]
    values = [0.3, 0.5]
    found = jax.jit(jax.vmap(lambda s: loss_of_step(make_rule(s))))(jnp.array(values))
    first, second = (jax.tree.map(lambda a, n=n: a[n], found) for n in range(2))
    expected = jax.jit(lambda: loss_of_step(make_rule(values[1])))()
    chex.assert_trees_all_close(second, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(first, expected, rtol=1e-4, atol=1e-6)

    def too_many(sigmas):
        return make(rule=dtp.ldrl(noise=sigmas, beta=0.7)).feedback_samples

    refused(f"noise is (None, None, None); allowed: {EACH}", jax.vmap(too_many), jnp.ones((2, 3)))


# Arrays, when a step is traced.

IMAGES, LABELS = batch_of()
FLOATING = "floating-point (batch, 8, 8, 1)"
PREPARE = ", e.g. dtp_jax.data.prepare_images(images, spec, jnp.float32)"
WRONG_IMAGES = [
    (IMAGES.astype(jnp.uint8), f"images is uint8[4, 8, 8, 1]; allowed: {FLOATING}{PREPARE}"),
    (np.zeros((4, 8, 8, 1), bool), f"images is bool[4, 8, 8, 1]; allowed: {FLOATING}{PREPARE}"),
    (IMAGES[0], f"images is float32[8, 8, 1]; allowed: {FLOATING}"),
    (IMAGES[..., 0], f"images is float32[4, 8, 8]; allowed: {FLOATING}"),
    (IMAGES.reshape(4, 64), f"images is float32[4, 64]; allowed: {FLOATING}"),
    (IMAGES.reshape(4, 4, 16, 1), f"images is float32[4, 4, 16, 1]; allowed: {FLOATING}"),
    (IMAGES[:0], f"images is float32[0, 8, 8, 1]; allowed: {FLOATING}"),
    ([[1.0]], f"images is [[1.0]]; allowed: {FLOATING}{PREPARE}"),
    (None, f"images is None; allowed: {FLOATING}{PREPARE}"),
]
INTEGERS = "integers (4,), the class of each image"
WRONG_LABELS = [
    (LABELS.astype(jnp.float32), f"labels is float32[4]; allowed: {INTEGERS}"),
    (LABELS > 1, f"labels is bool[4]; allowed: {INTEGERS}"),
    (
        jax.nn.one_hot(LABELS, 10, dtype=jnp.float32),
        f"labels is float32[4, 10]; allowed: {INTEGERS}",
    ),
    (LABELS[:, None], f"labels is int32[4, 1]; allowed: {INTEGERS}"),
    (LABELS[:3], f"labels is int32[3]; allowed: {INTEGERS}"),
    (LABELS[0], f"labels is int32[]; allowed: {INTEGERS}"),
    (7, f"labels is 7; allowed: {INTEGERS}"),
]


def calls(images, labels):
    """Everything that takes a batch, by name; nothing of it is computed."""
    made = make()
    state = shapes_of(made)

    def traced(function, *args):
        # What has no shape is closed over, as a user would.
        return lambda: jax.eval_shape(lambda state: function(made, state, *args), state)

    def evaluate():
        weights = jnp.ones(len(labels) if np.ndim(labels) else 1)
        jax.eval_shape(
            lambda f: evaluation.evaluate_batch(NETWORK, f, images, labels, weights), state.forward
        )

    return {
        "step": traced(dtp.step, images, labels),
        "train_step": traced(dtp.train_step, images, labels),
        "jit": lambda: jax.jit(partial(dtp.train_step, made)).lower(state, images, labels),
        "evaluate_batch": evaluate,
        "gradient_matching": lambda: jax.eval_shape(
            lambda f, g: dtp.metrics.gradient_matching(
                NETWORK, RULE, f, g, images, labels, beta=0.7
            ),
            state.forward,
            state.feedback,
        ),
    }


@pytest.mark.parametrize(
    "call", ["step", "train_step", "jit", "evaluate_batch", "gradient_matching"]
)
def test_batch(call):
    for images, line in WRONG_IMAGES:
        if call != "jit" or hasattr(images, "dtype"):
            refused(line, calls(images, LABELS)[call])
    for labels, line in WRONG_LABELS:
        if call == "jit" and not hasattr(labels, "dtype"):
            continue
        refused(line, calls(IMAGES, labels)[call])


def test_images_alone():
    made = make()
    state = dtp.init(made, jax.random.key(0))
    for images, line in WRONG_IMAGES:
        refused(line, dtp.forward_all, NETWORK, state.forward, images)
        refused(line, evaluation.infer, NETWORK, state.forward, images, {})
    # Dense blocks flatten what they are given: of the right size it would pass.
    mlp = dtp.mlp((8, 8, 1), 10, hidden=(3,))
    forward = blocks.init_forward(mlp, jax.random.key(0))
    refused(
        f"images is float32[4, 64]; allowed: {FLOATING}",
        dtp.forward_all,
        mlp,
        forward,
        IMAGES.reshape(4, 64),
    )
    line = "forward is ['conv_0', 'conv_1', 'fc']; allowed: parameters of fc1, fc2"
    refused(line, dtp.forward_all, mlp, state.forward, IMAGES)
    refused(f"network is (); allowed: one or more {BLOCKS}", dtp.forward_all, (), {}, IMAGES)
    vectors = dtp.mlp((64,), 10, hidden=(3,))
    line = "images is float32[4, 8, 8, 1]; allowed: floating-point (batch, 64)"
    refused(line, dtp.forward_all, vectors, forward, IMAGES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_floating_point_type_passes(dtype):
    with jax.enable_x64(dtype == "float64"):
        images, labels = batch_of(dtype=dtype)
        assert images.dtype == dtype
        blocks.check_images(NETWORK, images)
        for kind in ("int8", "uint8", "int32", "int64" if dtype == "float64" else "int16"):
            checks.check_batch(NETWORK, images, labels.astype(kind))
        checks.check_batch(NETWORK, np.asarray(images), np.asarray(labels))


def test_checks_see_one_run_of_several():
    """Under vmap an array has the shape of one of them; the axis of runs is no part of it."""
    made = make()
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.eval_shape(jax.vmap(partial(dtp.init, made)), keys)
    images, labels = (jnp.stack([a] * 3) for a in (IMAGES, LABELS))
    step = jax.vmap(partial(dtp.train_step, made))
    after, _ = jax.eval_shape(step, states, images, labels)
    assert after.step.shape == (3,)
    line = f"images is float32[8, 8, 1]; allowed: {FLOATING}"
    refused(line, jax.eval_shape, step, states, IMAGES[:3], labels)
    refused("key is key<fry>[3]; allowed: a typed key, jax.random.key(seed)", dtp.init, made, keys)


@pytest.mark.parametrize(
    ("key", "words"),
    [(0, "0"), (jnp.array([0, 1], jnp.uint32), "uint32[2]"), (None, "None")],
)
def test_key(key, words):
    line = f"key is {words}; allowed: a typed key, jax.random.key(seed)"
    refused(line, dtp.init, make(), key)


def test_things_in_the_wrong_place():
    made = make()
    state = shapes_of(made)
    refused(
        "learner is a Network; allowed: a dtp_jax.Learner", dtp.init, NETWORK, jax.random.key(0)
    )
    refused(
        "learner is a TrainState; allowed: a dtp_jax.Learner", dtp.step, state, made, *batch_of()
    )
    a_state = "a TrainState, from dtp_jax.init(learner, key) or a step before"
    # What train_step returns is a state and its metrics.
    refused(
        f"state is 2 values; allowed: {a_state}", dtp.train_step, made, (state, ()), *batch_of()
    )
    refused(f"state is None; allowed: {a_state}", dtp.train_step, made, None, *batch_of())


KERNEL = "['conv_1']['kernel']"
STATES = {
    "no map": (
        lambda s: s.replace(feedback={"fc": s.feedback["fc"]}),
        f"state.feedback['conv_1']['bias'] is missing; allowed: shape (3,), {FROM_INIT}",
    ),
    "a map of another size": (
        lambda s: s.replace(feedback=shapes_of(wider()).feedback),
        f"state.feedback['conv_1']['kernel'] is float32[3, 3, 3, 6]; allowed: shape (3, 3, 3, 4), "
        f"{FROM_INIT}",
    ),
    "no optimizer": (
        lambda s: s.replace(feedback_opt_state={}),
        f"state.feedback_opt_state['conv_1'][0].trace['bias'] is missing; allowed: shape (3,), "
        f"{FROM_INIT}",
    ),
    "another optimizer": (
        lambda s: s.replace(
            forward_opt_state=shapes_of(make(forward_optimizer=optax.adam(1e-3))).forward_opt_state
        ),
        f"state.forward_opt_state[0].trace['conv_0']['bias'] is missing; allowed: shape (3,), "
        f"{FROM_INIT}",
    ),
    "the weights of another network": (
        lambda s: s.replace(forward=shapes_of(wider()).forward),
        f"state.forward['conv_1']['bias'] is float32[6]; allowed: shape (4,), {FROM_INIT}",
    ),
    "a block too many": (
        lambda s: s.replace(forward={**s.forward, "fc9": s.forward["fc"]}),
        f"state.forward['fc9']['bias'] is float32[10]; allowed: nothing there, {FROM_INIT}",
    ),
    "an old key": (
        lambda s: s.replace(key=jnp.zeros(2, jnp.uint32)),
        f"state.key is uint32[2]; allowed: shape (), {FROM_INIT}",
    ),
    "several runs": (
        lambda s: s.replace(step=jnp.zeros(3, jnp.int32)),
        f"state.step is int32[3]; allowed: shape (), {FROM_INIT}",
    ),
}


def wider():
    """A learner whose second block has two channels more."""
    return make(network=dtp.simple_vgg((8, 8, 1), 10, channels=(3, 6)))


@pytest.mark.parametrize("name", STATES)
def test_state_of_another_learner(name):
    change, line = STATES[name]
    made = make()
    state = change(shapes_of(made))
    refused(line, jax.eval_shape, partial(dtp.train_step, made), state, *batch_of())
    activations = jax.eval_shape(
        partial(dtp.forward_all, NETWORK), shapes_of(made).forward, batch_of()[0]
    )
    refused(line, jax.eval_shape, partial(learning.train_feedback, made), state, activations)


def test_a_state_may_have_maps_that_nobody_trains():
    """A run goes on with another rule, or trains one map of several."""
    state = shapes_of(make())
    made = dtp.Learner(NETWORK, dtp.backprop(), SGD)
    after, _ = jax.eval_shape(partial(dtp.train_step, made), state, *batch_of())
    assert sorted(after.feedback) == ["conv_1", "fc"]


def test_state_without_statistics():
    made = make(network=NORMED, rule=dtp.ldrl(noise=0.1, beta=0.7))
    state = shapes_of(made)
    missing = "statistics['layer_0']['bn']['mean'] is missing; allowed: shape (3,), "
    refused(
        f"state.{missing}{FROM_INIT}",
        jax.eval_shape,
        partial(dtp.train_step, made),
        state.replace(statistics={}),
        *batch_of(),
    )
    evaluate = partial(evaluation.evaluate_batch, NORMED)
    args = (state.forward, *batch_of(), jnp.ones(BATCH))
    refused(f"{missing}as in TrainState.statistics", jax.eval_shape, evaluate, *args)
    found = jax.eval_shape(evaluate, *args, state.statistics)
    assert found["loss"].shape == ()


def test_evaluation():
    state = shapes_of(make())
    args = (state.forward, *batch_of())
    evaluate = partial(jax.eval_shape, partial(evaluation.evaluate_batch, NETWORK))
    allowed = "(4,), 1 for an example and 0 for padding"
    for weights, words in ((jnp.ones((BATCH, 1)), "float32[4, 1]"), (jnp.ones(3), "float32[3]")):
        refused(f"weights is {words}; allowed: {allowed}", evaluate, *args, weights)
    other = shapes_of(wider()).forward
    line = "forward['conv_1']['bias'] is float32[6]; allowed: shape (4,), as in TrainState.forward"
    refused(line, evaluate, other, *batch_of(), jnp.ones(BATCH))


def test_feedback_training_on_its_own():
    made = make(feedback_samples=3)
    state, (images, _) = dtp.init(made, jax.random.key(0)), batch_of()
    activations = dtp.forward_all(NETWORK, state.forward, images)
    train = partial(learning.train_feedback, made, state)
    refused(
        "activations is float32[4, 8, 8, 1]; allowed: 4 activations, as of "
        "dtp_jax.forward_all(network, forward, images)",
        train,
        images,
    )
    short = activations._replace(h=activations.h[:-1])
    refused("activations is a Activations; allowed: 4 activations, as of ...", train, short)
    halved = activations._replace(h=(*activations.h[:2], activations.h[2][:2], activations.h[3]))
    line = "activations.h[2] is float32[2, 2, 2, 4]; allowed: (batch, 2, 2, 4)"
    refused(line, train, halved)


def recorded(iterations=(2, 2), samples=3):
    """Noise of both maps of NETWORK."""
    sizes = zip(("conv_1", "fc"), iterations, NETWORK[1:], strict=True)
    return {
        name: Noise(
            jnp.zeros((k, samples, BATCH, *block.input_shape)),
            jnp.zeros((k, samples, BATCH, *block.output_shape)),
        )
        for name, k, block in sizes
    }


def test_recorded_noise():
    made = make(feedback_samples=3)
    state, batch = shapes_of(made), batch_of()

    def step(noise):
        return jax.eval_shape(lambda s: dtp.step(made, s, *batch, noise=noise), state)

    assert step(recorded())[0].step.shape == ()
    expected = "(iterations, samples, batch, ...)"
    refused(
        "noise is ['fc']; allowed: noise of every trained feedback map, by block name",
        step,
        {"fc": recorded()["fc"]},
    )
    refused(
        f"noise['fc'].e is float32[5, 3, 4, 2, 2, 4]; allowed: shape (2, 3, 4, 2, 2, 4), {expected}",
        step,
        recorded(iterations=(2, 5)),
    )
    refused(
        f"noise['conv_1'].e is float32[2, 1, 4, 4, 4, 3]; allowed: shape (2, 3, 4, 4, 4, 3), "
        f"{expected}",
        step,
        recorded(samples=1),
    )


# Diagnostics.


def test_gradient_matching():
    state, (images, labels) = shapes_of(make()), batch_of()

    def match(rule, beta=0.7, feedback=None):
        feedback = state.feedback if feedback is None else feedback
        return jax.eval_shape(
            lambda f, g: dtp.metrics.gradient_matching(
                NETWORK, rule, f, g, images, labels, beta=beta
            ),
            state.forward,
            feedback,
        )

    assert isinstance(match(RULE)["fc"]["kernel"], dtp.Alignment)
    refused("rule is 'backprop'; allowed: a rule with targets", match, dtp.backprop())
    no_targets = RULE._replace(targets=None, name="mine")
    refused("rule is 'mine'; allowed: a rule with targets", match, no_targets)
    refused(f"rule is 'ldrl'; allowed: {A_RULE}", match, "ldrl")
    refused("beta is 0.005; allowed: 0.7, with which the rule was built", match, RULE, 0.005)
    refused("beta is 0; allowed: a finite number above 0", match, RULE, 0)
    refused(
        "feedback['conv_1']['bias'] is missing; allowed: shape (3,), as in TrainState.feedback",
        match,
        RULE,
        feedback={},
    )


def test_alignment_needs_one_shape():
    """Which would be broadcast."""
    for function in (dtp.metrics.distance, dtp.metrics.angle, dtp.metrics.alignment):
        line = "b is float32[4]; allowed: the shape of a, (3, 4)"
        refused(line, function, jnp.ones((3, 4)), jnp.ones(4))
    state = dtp.init(make(), jax.random.key(0))
    refused(
        "feedback is ['conv_0', 'conv_1', 'fc']; allowed: maps of conv_1, fc",
        dtp.metrics.weight_alignment,
        state.feedback,
        state.forward,
    )


# Blocks, networks, operations, optimizers.

COUNTING = "a whole number, 1 or more"
ACTIVATION = "activation is 'gelu'; allowed: one of elu, relu, tanh, linear"
conv = partial(dtp.conv_block, "conv", channels=2, window=3)
dense = partial(dtp.dense_block, "fc", features=2)
basic = partial(blocks.basic_block, "basic", channels=2)
stage = partial(blocks.residual_stage, "stage", channels=2, strides=(1,))
FACTORIES = [
    (conv, dict(activation="gelu"), ACTIVATION),
    (dense, dict(activation="gelu"), ACTIVATION),
    (basic, dict(activation="gelu"), ACTIVATION),
    (stage, dict(activation="gelu"), ACTIVATION),
    (conv, dict(activation=jnp.tanh), "activation is <...>; allowed: one of elu, ..."),
    (conv, dict(channels=0), f"channels is 0; allowed: {COUNTING}"),
    (conv, dict(channels=3.5), f"channels is 3.5; allowed: {COUNTING}"),
    (conv, dict(channels=(3,)), f"channels is (3,); allowed: {COUNTING}"),
    (conv, dict(window=0), f"window is 0; allowed: {COUNTING}"),
    (conv, dict(stride=0), f"stride is 0; allowed: {COUNTING}"),
    (conv, dict(padding=-1), "padding is -1; allowed: a whole number, 0 or more"),
    (conv, dict(bias="no"), "bias is 'no'; allowed: True or False"),
    (conv, dict(batch_norm=1), "batch_norm is 1; allowed: True or False"),
    (conv, dict(pool=(2, 2)), "pool is (2, 2); allowed: None or MaxPool(window, stride, padding)"),
    (conv, dict(pool=blocks.MaxPool(2, 0)), f"pool.stride is 0; allowed: {COUNTING}"),
    (conv, dict(pool=blocks.MaxPool(0, 2)), f"pool.window is 0; allowed: {COUNTING}"),
    (conv, dict(pool=blocks.MaxPool(2, 2, 2)), "pool.padding is 2; allowed: 0 to 1"),
    (conv, dict(pool=blocks.MaxPool(17, 17)), "pool.window is 17; allowed: 1 to 16"),
    (
        lambda **options: conv(**options)((2, 2, 1)),
        dict(window=3, pool=blocks.MaxPool(2, 1, 1)),
        "network: block conv reduces 2x2 images to 0x0; allowed: fewer pooling blocks or larger images",
    ),
    (dense, dict(features=0), f"features is 0; allowed: {COUNTING}"),
    (dense, dict(pool=1), "pool is 1; allowed: None or AdaptiveAveragePool(size)"),
    (dense, dict(pool=blocks.AdaptiveAveragePool(0)), f"pool.size is 0; allowed: {COUNTING}"),
    (basic, dict(channels=0), f"channels is 0; allowed: {COUNTING}"),
    (basic, dict(stride=1.5), f"stride is 1.5; allowed: {COUNTING}"),
    (stage, dict(strides=(1, 0)), "strides is (1, 0); allowed: whole numbers, 1 or more"),
    (dtp.conv_block, dict(name="", channels=2, window=3), "name is ''; allowed: text, ..."),
    (dtp.dense_block, dict(name=3, features=2), "name is 3; allowed: text, one character or more"),
]


@pytest.mark.parametrize(("factory", "options", "line"), FACTORIES)
def test_block(factory, options, line):
    refused(line, factory, **options)


WIDTHS = "() or whole numbers, 1 or more"
VGG, MLP = partial(dtp.simple_vgg, (8, 8, 1), 10), partial(dtp.mlp, (8, 8, 1), 10)
LENET, RESNET = partial(dtp.lenet, (8, 8, 1), 10), partial(dtp.resnet18, (8, 8, 1), 10)
NETWORKS = [
    (VGG, dict(activation="gelu"), ACTIVATION),
    (MLP, dict(activation="gelu"), ACTIVATION),
    (LENET, dict(activation="gelu"), ACTIVATION),
    (VGG, dict(channels=(0,)), f"channels is (0,); allowed: {WIDTHS}"),
    (VGG, dict(channels=(3.5,)), f"channels is (3.5,); allowed: {WIDTHS}"),
    (VGG, dict(channels=0), f"channels is 0; allowed: {WIDTHS}"),
    (VGG, dict(bias=0), "bias is 0; allowed: True or False"),
    (LENET, dict(channels=(2, -1)), f"channels is (2, -1); allowed: {WIDTHS}"),
    (LENET, dict(hidden=("6",)), f"hidden is ('6',); allowed: {WIDTHS}"),
    (MLP, dict(hidden=(4, 0)), f"hidden is (4, 0); allowed: {WIDTHS}"),
    (RESNET, dict(channels=(2, 0)), f"channels is (2, 0); allowed: {WIDTHS}"),
    (
        RESNET,
        dict(channels=(2,)),
        "channels is (2,); allowed: 2 to 5 of them, of the stem and one to 4 stages",
    ),
    (RESNET, dict(split_stages="yes"), "split_stages is 'yes'; allowed: True or False"),
    *[
        (factory, dict(input_shape=(8, 8, 1), classes=0), f"classes is 0; allowed: {COUNTING}")
        for factory in dtp.networks.NETWORKS.values()
    ],
    (
        dtp.mlp,
        dict(input_shape=(8, 0), classes=2),
        "input_shape is (8, 0); allowed: whole numbers, 1 or more",
    ),
    (
        partial(dtp.chain, (4,)),
        dict(factories=[]),
        f"network is (); allowed: one or more {BLOCKS}",
    ),
    (
        partial(dtp.chain, (4,)),
        dict(factories=[dense()((4,))]),
        "factories[0] is a Block; allowed: what conv_block, dense_block, ... return",
    ),
    (
        partial(dtp.chain, (4,)),
        dict(factories=[dense(), dense()]),
        "network is ('fc', 'fc'); allowed: blocks with a name of their own each",
    ),
]


@pytest.mark.parametrize(("factory", "options", "line"), NETWORKS)
def test_network(factory, options, line):
    refused(line, factory, **options)


def test_one_width_stands_for_itself():
    """As one value does everywhere else."""
    assert [b.output_shape for b in dtp.mlp((8,), 3, hidden=5)] == [(5,), (3,)]
    assert dtp.chain(4, [dense()])[0].input_shape == (4,)


def test_operations():
    line = "precision is 'half'; allowed: one of float32, tf32, bfloat16"
    refused(line, ops.products_in("half").__enter__)
    refused(ACTIVATION, ops.activation, "gelu")
    line = "feedback_activation is 'gelu'; allowed: one of elu, relu, tanh, linear"
    refused(line, dtp.drl, noise=0.1, beta=0.7, feedback_activation="gelu")


def test_an_activation_that_a_user_adds_is_one(monkeypatch):
    monkeypatch.setitem(ops.ACTIVATIONS, "sine", jnp.sin)
    assert dtp.mlp((8,), 3, hidden=5, activation="sine")[0].description == "linear, sine"
    line = "activation is 'gelu'; allowed: one of elu, relu, tanh, linear, sine"
    refused(line, dtp.mlp, (8,), 3, activation="gelu")


sgd = partial(dtp.optim.sgd, 0.1, momentum=0.9)
cosine = partial(dtp.optim.cosine_per_epoch, 0.1, steps_per_epoch=5, t_max=3)
steps = partial(dtp.optim.step_per_epoch, 0.1, steps_per_epoch=5, step_epochs=3)
OPTIMIZERS = [
    (
        partial(dtp.optim.sgd, -0.1, momentum=0.9),
        {},
        "learning_rate is -0.1; allowed: a finite number above 0",
    ),
    (
        partial(dtp.optim.adam, "0.1"),
        {},
        "learning_rate is '0.1'; allowed: a finite number above 0",
    ),
    (sgd, dict(momentum=1.0), "momentum is 1.0; allowed: a number from 0 to below 1"),
    (sgd, dict(weight_decay=-1), "weight_decay is -1; allowed: a finite number, 0 or more"),
    (partial(dtp.optim.adam, 0.1), dict(eps=0), "eps is 0; allowed: a finite number above 0"),
    (cosine, dict(steps_per_epoch=0), f"steps_per_epoch is 0; allowed: {COUNTING}"),
    (cosine, dict(t_max=0), f"t_max is 0; allowed: {COUNTING}"),
    (steps, dict(step_epochs=0), f"step_epochs is 0; allowed: {COUNTING}"),
    (steps, dict(gamma=0), "gamma is 0; allowed: a finite number above 0"),
    (cosine, dict(eta_min=-1e-5), "eta_min is -1e-05; allowed: a finite number, 0 or more"),
]


@pytest.mark.parametrize(("factory", "options", "line"), OPTIMIZERS)
def test_optimizer(factory, options, line):
    refused(line, factory, **options)


def test_an_optimizer_for_each_block():
    line = f"optimizers['fc'] is 0.1; allowed: {AN_OPTIMIZER}"
    refused(line, dtp.optim.per_block, {"conv_0": SGD, "fc": 0.1})
    made = make(forward_optimizer=dtp.optim.per_block({"conv_0": SGD, "fc": OTHER_SGD}))
    line = "optimizers is ['conv_0', 'fc']; allowed: one for each of conv_0, conv_1, fc"
    refused(line, dtp.init, made, jax.random.key(0))


def test_a_learning_rate_may_be_traced():
    def one_step(rate):
        optimizer = dtp.optim.sgd(rate, momentum=0.0)
        return optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0]

    found = jax.vmap(one_step)(jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(found, [[-0.5, -0.5], [-2.0, -2.0]])


@pytest.mark.parametrize(
    "optimizer", [partial(dtp.optim.sgd, 1.0, momentum=0.0), partial(dtp.optim.adam, 1.0)]
)
def test_a_weight_decay_may_be_traced(optimizer):
    def one_step(decay):
        made, weights = optimizer(weight_decay=decay), jnp.array([1.0, -2.0])
        return made.update(jnp.ones(2), made.init(weights), weights)[0]

    found = jax.vmap(one_step)(jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(found, [one_step(0.0), one_step(0.5)])


def test_a_rule_of_ones_own_needs_to_say_nothing():
    """Without per_map and beta, as a rule of before."""
    rule = RULE._replace(
        name="mine",
        feedback_training=FeedbackTraining(
            RULE.feedback_training.draw_noise, RULE.feedback_training.loss
        ),
        per_map=(),
        beta=None,
    )
    after, _ = jax.eval_shape(
        partial(dtp.train_step, make(rule=rule)), shapes_of(make(rule=rule)), *batch_of()
    )
    assert after.step.shape == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda targets: targets[1:],
        lambda targets: (*targets[:-1], targets[-1][:1]),  # one example's, for all of them
        lambda targets: (jnp.float32(0), *targets[1:]),
    ],
    ids=["one too few", "of another shape", "a number"],
)
def test_targets_of_a_rule_that_do_not_fit(spoil):
    """They would be broadcast, or a block stay untrained, in silence."""
    rule = RULE._replace(targets=lambda *given: tuple(spoil(RULE.targets(*given))))
    made = make(rule=rule)
    with pytest.raises(ValueError, match=r"^targets of the rule ldrl is .*; allowed: float32\[4, "):
        jax.eval_shape(partial(dtp.train_step, made), shapes_of(made), *batch_of())


def test_a_gradient_of_a_rule_that_does_not_fit():
    training = RULE.feedback_training

    def gradient(network, omega, i, prepared):
        loss, found = training.gradient(network, omega, i, prepared)
        return loss, jax.tree.map(lambda leaf: leaf.mean(), found)

    made = make(rule=RULE._replace(feedback_training=training._replace(gradient=gradient)))
    line = r"^gradient of the feedback map conv_1 is {'bias': 'float32\[\]', .*; allowed: {'bias': "
    with pytest.raises(ValueError, match=line):
        jax.eval_shape(partial(dtp.train_step, made), shapes_of(made), *batch_of())


@pytest.mark.parametrize(
    ("there", "lacks"),
    [
        ("features", "decode"),
        ("decode", "features"),
        ("statistics", "infer"),
        ("infer", "statistics"),
    ],
)
def test_half_of_a_pair_of_functions(there, lacks):
    """A block would be evaluated with the statistics of the batch, or fail in the midst of a trace."""
    network = NORMED if there in ("statistics", "infer") else NETWORK
    half = (network[0], network[1]._replace(**{lacks: None}), *network[2:])
    line = f"network: block {network[1].name} has {there} and no {lacks}; allowed: both or neither"
    refused(line, blocks.check_network, half)
