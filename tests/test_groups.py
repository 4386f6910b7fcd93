"""Groups of measures as a run takes them: names, refusals, one compiled program."""

import jax
import numpy as np
import pytest
from test_matrix import build

from dtp_jax import networks
from dtp_jax.learning import diagnostics, learner, optim
from dtp_jax.learning.diagnostics import GROUPS
from dtp_jax.rules import RULES

pytestmark = pytest.mark.usefixtures("single_precision")

MAPS, HIDDEN, ALL = ("conv_1", "fc"), ("conv_0", "conv_1"), ("conv_0", "conv_1", "fc")
PARAMETERS = [f"{block}/{name}" for block in ALL for name in ("kernel", "bias")]
NAMES = {
    "weights": {f"{m}/{b}" for m in ("angle", "distance", "norm_ratio") for b in MAPS},
    "updates": {f"update_{m}/{p}" for m in ("angle", "distance") for p in PARAMETERS},
    "jacobians": {f"jacobian_distance/{b}" for b in MAPS},
    "gauss_newton": {
        f"{m}/{b}" for m in ("gauss_newton_angle", "null_space_share") for b in HIDDEN
    },
    "eigenvalues": {f"eigenvalue_{m}/{b}" for m in ("trace", "positive") for b in MAPS},
}
WITHOUT_MAPS = {
    "drl": "the feedback maps of the rule drl mirror no forward ones",
    "direct_feedback_alignment": "the feedback maps of the rule direct_feedback_alignment mirror no "
    "forward ones",
    "feedback_alignment": "the rule feedback_alignment uses the kernels of feedback maps, not the maps",
    "backprop": "the rule backprop has no feedback maps",
}


def arguments(made, size=8):
    """(state, images, labels, key), as shapes."""
    return jax.eval_shape(
        lambda key: (
            learner.init(made, key),
            jax.random.normal(key, (size, *made.network[0].input_shape)),
            jax.random.randint(key, (size,), 0, made.network[-1].output_shape[0]),
            key,
        ),
        jax.random.key(0),
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_group_of_every_rule_is_refused_or_has_its_names(rule):
    made = build(rule, "simple_vgg")
    for name, group in GROUPS.items():
        why = group.refuses(made)
        if name in ("jacobians", "eigenvalues"):
            assert why == WITHOUT_MAPS.get(rule, "")
        elif name == "weights":
            assert bool(why) == (rule in WITHOUT_MAPS and rule != "feedback_alignment")
        else:
            assert why == ""
        if not why:
            found = jax.eval_shape(lambda *a, m=group.measure: m(made, *a), *arguments(made))
            assert found.keys() == NAMES[name]
            assert all(value.shape == () for value in found.values())


@pytest.mark.parametrize("rule", ["ldrl", "drl"])
def test_all_groups_in_one_program(rule):
    """Finite, within what their units allow, and the state is only read."""
    made = build(rule, "simple_vgg")
    groups = [group for group in GROUPS.values() if not group.refuses(made)]

    @jax.jit
    def run(key):
        state = learner.init(made, key)
        images = jax.random.normal(key, (8, *made.network[0].input_shape))
        labels = jax.random.randint(key, (8,), 0, 5)
        found = [group.measure(made, state, images, labels, key) for group in groups]
        return {name: value for numbers in found for name, value in numbers.items()}

    for name, value in run(jax.random.key(1)).items():
        assert np.isfinite(value), name
        if "angle" in name:
            assert 0 <= value <= 180, name
        if "share" in name or "positive" in name:
            assert 0 <= value <= 1 + 1e-6, name


def test_measures_are_in_float32_whatever_the_training_is():
    """A small step in bfloat16 would be rounding."""
    made, found = build("ldrl", "mlp"), []
    for precision in ("float32", "bfloat16"):
        other = made.replace(precision=precision)

        @jax.jit
        def run(state, images, labels, key, other=other):
            return GROUPS["updates"].measure(other, state, images, labels, key)

        shapes = arguments(made)
        found.append(run.lower(*shapes).as_text())
    assert found[0] == found[1] and "bf16" not in found[0]


def test_batch_norm_leaves_what_needs_no_single_examples():
    made = build("ldrl", "resnet34")
    why = GROUPS["gauss_newton"].refuses(made)
    assert why == "batch norm couples the examples, which then have no Jacobians of their own"
    for name in ("updates", "jacobians", "eigenvalues"):
        assert GROUPS[name].refuses(made) == ""
    found = jax.eval_shape(
        lambda *a: GROUPS["eigenvalues"].measure(made, *a), *arguments(made, size=4)
    )
    positive = [name for name in found if name.startswith("eigenvalue_positive")]
    assert positive == [f"eigenvalue_positive/{made.network[-1].name}"]  # the linear readout
    assert len(found) == len(made.network)


def test_blocks_and_class_counts_that_are_too_dear(monkeypatch):
    made = build("ldrl", "simple_vgg")
    monkeypatch.setattr(diagnostics, "MOST_EIGENVALUES", 4)  # of conv_1's 16, of fc's 5
    found = jax.eval_shape(lambda *a: GROUPS["eigenvalues"].measure(made, *a), *arguments(made))
    assert found.keys() == {f"eigenvalue_trace/{b}" for b in MAPS}
    monkeypatch.setattr(diagnostics, "MOST_CLASSES", 4)
    why = GROUPS["gauss_newton"].refuses(made)
    assert why == "5 classes are more than 4, and each costs a backward pass"


def test_jacobians_of_the_analytic_rule_are_those_of_the_batch():
    """Of a linear network the closed form has the forward weights: its maps are exact transposes."""
    network = networks.mlp((2, 3, 1), 4, hidden=(6, 5), activation="linear")
    made = learner.Learner(network, RULES["analytic"](beta=0.5), optim.sgd(0.01, momentum=0.9))

    @jax.jit
    def run(key):
        images = jax.random.normal(key, (8, 2, 3, 1))
        given = made, learner.init(made, key), images, jax.numpy.arange(8) % 4, key
        return [GROUPS[name].measure(*given) for name in ("jacobians", "eigenvalues")]

    distances, eigenvalues = run(jax.random.key(0))
    assert len(distances) == 2 and max(distances.values()) < 1e-5
    assert eigenvalues["eigenvalue_positive/fc2"] == eigenvalues["eigenvalue_positive/fc3"] == 1
