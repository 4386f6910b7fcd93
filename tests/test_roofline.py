"""Counted work against closed forms and XLA's own count; the program from command line to JSON."""

import json
from functools import partial
from itertools import chain, pairwise

import jax
import jax.numpy as jnp
import pytest
from helpers import (
    assert_close,
    config_fields,
    make_batch,
    make_learner,
    make_parameters,
    make_state,
    normal,
)

from benchmarks import roofline, timing
from benchmarks.counting import Part, Work, count_step, total
from benchmarks.roofline import Peaks
from dtp_jax import rules
from dtp_jax.blocks import forward_all
from dtp_jax.learning import learner as learning
from dtp_jax.learning.feedback import literal
from dtp_jax.networks import mlp, resnet18, simple_vgg
from dtp_jax.rules.ldrl import Noise
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import validate

LDRL = rules.ldrl(noise=(0.2, 0.1), beta=0.7)
PLENTY = 2**30


def tiny(rule=LDRL, **options):
    """8x8x3 images, 4x4x4 and 2x2x5 after the blocks, 3 classes; two iterations for each map."""
    return make_learner(simple_vgg((8, 8, 3), 3, channels=(4, 5)), rule, **options)


def counted(learner, batch=2, cache=PLENTY):
    return {(part.phase, part.block): part for part in count_step(learner, batch, cache)}


# For two examples. Operations of F: 2 * 64 * 4 * 3 * 9 = 13824, 2 * 16 * 5 * 4 * 9 = 5760 and 120 an
# example. Bytes of activations: 1536, 512, 160, 24; of pool indices: 128, 40, 0; of forward
# parameters: 448, 740, 252; of feedback ones: 736, 320; each has as many of momentum.
CLOSED_FORMS = {
    ("forward", "conv_0"): (2 * 13824, 1536 + 448 + 512 + 128),
    ("forward", "conv_1"): (2 * 5760, 512 + 740 + 160 + 40),
    ("forward", "fc"): (2 * 120, 160 + 252 + 24),
    ("feedback", "conv_1"): (2 * 2 * 4 * 5760, 512 + 160 + 40 + 740 + 2 * (736 + 736)),
    ("feedback", "fc"): (2 * 2 * 4 * 120, 160 + 24 + 252 + 2 * (320 + 320)),
    ("targets", "fc"): (2 * 120, 2 * 24 + 320 + 2 * 160),
    ("targets", "conv_1"): (2 * 5760, 2 * 160 + 40 + 736 + 2 * 512),
    ("local gradients", "conv_0"): (2 * 13824, 1536 + 128 + 2 * 512),
    ("local gradients", "conv_1"): (2 * 5760, 512 + 40 + 2 * 160),
    ("local gradients", "fc"): (2 * 120, 160 + 2 * 24),
    ("update", "all"): (0, 2 * 2 * (448 + 740 + 252)),
}


def test_tiny_network_by_hand():
    found = counted(tiny())
    assert {name: part.least for name, part in found.items()} == CLOSED_FORMS
    assert found["feedback", "conv_1"].normals == 2 * 2 * (64 + 20)
    assert found["feedback", "fc"].normals == 2 * 2 * (20 + 3)
    whole = total(found.values(), "step")
    assert whole.least == tuple(map(sum, zip(*CLOSED_FORMS.values(), strict=True)))
    assert whole.normals == 2 * 2 * (64 + 20 + 20 + 3)


def test_literal_form_is_seven_products_where_the_difference_form_has_four():
    found = counted(tiny())
    for (phase, _), part in found.items():
        ratio = {"feedback": 7 / 4, "targets": 2}.get(phase, 1)
        assert part.literal.flops == ratio * part.least.flops
    # A residual stage has no difference form.
    stage = make_learner(resnet18((4, 4, 3), 3, channels=(4, 4)), LDRL)
    found = counted(stage)
    assert found["feedback", "layer_1"].least == found["feedback", "layer_1"].literal
    assert found["targets", "layer_1"].least == found["targets", "layer_1"].literal
    products = 7 * stage.network[1].forward_flops
    assert found["feedback", "layer_1"].least.flops == 2 * 2 * products


KEPT = 512 + 160 + 40 + 740 + 2 * (736 + 736)
"""Bytes that an iteration of conv_1 reads and writes; it makes 200 (noisy output and its pool indices)
and 512 (reconstruction) on the way, the last of which the literal form makes three times."""
HELD = KEPT - (736 + 736) + 200 + 512
"""What it touches, each array once."""


@pytest.mark.parametrize(
    ("cache", "least", "written_out"),
    [
        (0, 2 * (KEPT + 2 * (200 + 512)), 2 * (KEPT + 2 * (200 + 3 * 512))),
        (300, 2 * (KEPT + 2 * 512), 2 * (KEPT + 2 * 3 * 512)),
        (600, 2 * KEPT, 2 * KEPT),
        (HELD - 1, 2 * KEPT, 2 * KEPT),
        (HELD, KEPT, 2 * KEPT),
        (PLENTY, KEPT, KEPT),
    ],
)
def test_what_fits_the_cache_does_not_move(cache, least, written_out):
    part = counted(tiny(), cache=cache)["feedback", "conv_1"]
    assert (part.least.bytes, part.literal.bytes) == (least, written_out)


def test_noise_samples_share_all_but_their_own_products():
    one, three = (counted(tiny(samples=s), cache=0)["feedback", "conv_1"] for s in (1, 3))
    assert (three.least.flops, three.normals) == (3 * one.least.flops, 3 * one.normals)
    assert three.least.bytes - one.least.bytes == 2 * 2 * 2 * (200 + 512)
    assert counted(tiny(samples=3), cache=HELD)["feedback", "conv_1"].least.bytes == 2 * KEPT


def test_backprop_by_hand():
    found = counted(tiny(rules.backprop()))
    gradient = {name: p.least for name, p in found.items() if name[0] == "gradient"}
    assert gradient == {
        ("gradient", "conv_0"): (2 * 13824, 1536 + 128 + 2 * 512),
        ("gradient", "conv_1"): (2 * 2 * 5760, 512 + 40 + 2 * 160 + 740 + 512),
        ("gradient", "fc"): (2 * 2 * 120, 160 + 2 * 24 + 252 + 160),
    }
    assert {phase for phase, _ in found} == {"forward", "gradient", "update"}


def test_direct_feedback_by_hand(single_precision):
    """6 -> 7 -> 4 -> 5: noise at a hidden layer goes through everything above it."""
    network = mlp((6,), 5, hidden=(7, 4))
    found = counted(make_learner(network, rules.drl(noise=(0.1, 0.1), beta=0.1)), cache=0)
    q = 4 * (5 * 7 + 7)  # bytes, with a bias
    theta = 4 * (7 * 4 + 4 + 4 * 5 + 5)
    made = 4 * 2 * (4 + 5 + 7)
    part = found["feedback", "fc1"]
    above, direct = 2 * (7 * 4 + 4 * 5), 2 * 5 * 7
    assert part.least.flops == 2 * 2 * (above + 4 * direct)
    clean = 4 * 2 * (7 + 5)  # what noise is added to, and the logits to compare with
    assert part.least.bytes == 2 * (clean + theta + 2 * 2 * q + 2 * made)
    assert part.normals == 2 * 2 * 7
    assert found["targets", "fc1"].least == (2 * q / 2, 4 * 2 * (2 * 5 + 2 * 7) + q)


def test_xla_counts_the_same_products():
    """On layers so wide that element-wise work hardly shows."""
    network, batch = mlp((300,), 300, hidden=(300, 300)), 300
    made = make_learner(network, LDRL, iterations=1)
    theta, omega = make_parameters(network)
    activations = forward_all(network, theta, make_batch(network, batch)[0])
    training = LDRL.feedback_training
    noise = training.draw_noise(jax.random.key(0), network[1], batch, jnp.float64)

    def iteration(training):
        def run(omega, activations, noise):
            clean = network[1].features(activations.h[2], activations.residuals[1])
            prepared = training.prepare(network, theta, 1, activations, clean, noise)
            return training.gradient(network, omega, 1, prepared)

        return run

    def assert_counted(flops, function, *args):
        compiled = jax.jit(function).lower(*args).compile()
        assert compiled.cost_analysis()["flops"] == pytest.approx(flops, rel=0.03)

    part = counted(made, batch)["feedback", "fc2"]
    assert_counted(part.least.flops, iteration(training), omega["fc2"], activations, noise)
    assert_counted(
        part.literal.flops, iteration(literal(training)), omega["fc2"], activations, noise
    )
    plain = roofline.by_backprop(made)
    assert_counted(
        total(count_step(plain, batch, PLENTY), "step").least.flops,
        partial(learning.global_gradient, network, plain.rule),
        theta,
        *make_batch(network, batch),
    )


@pytest.fixture(scope="module")
def published():
    """The paper's CIFAR-10 experiment at batch 32, and backprop's step of its network."""
    found = []
    for name in ("cifar10_dtp", "cifar10_backprop"):
        experiment = validate(config_fields(name, batch_size=32))
        found.append(count_step(build_learner(experiment, 1), 32, 2**25))
    return found


def test_default_network_as_published(published):
    ldrl, backprop = (total(parts, "step") for parts in published)
    feedback = [part for part in published[0] if part.phase == "feedback"]
    assert total(feedback, "feedback").least.flops == pytest.approx(0.489e12, rel=1e-3)
    assert ldrl.least.flops == pytest.approx(0.49e12, rel=0.03)
    assert ldrl.literal.flops / ldrl.least.flops == pytest.approx(7 / 4, rel=0.01)
    assert ldrl.least.flops / backprop.least.flops == pytest.approx(36, abs=0.5)
    assert ldrl.normals == pytest.approx(47e6, rel=0.01)
    # conv_1 has about 40 % of the work.
    assert feedback[0].least.flops / ldrl.least.flops == pytest.approx(0.4, abs=0.02)


def test_floor_is_the_longer_of_both():
    peaks = Peaks(flops=100.0, bytes=10.0, normals=1.0)

    def floor(*work):
        return peaks.floor(Part("phase", "block", Work(*work), Work(1e9, 1e9)))

    assert floor(200, 10) == (2, "arithmetic")
    assert floor(200, 30) == (3, "memory")


@pytest.mark.parametrize("name", ["ldrl", "drl", "analytic", "backprop"])
def test_every_part_is_timed_once(name):
    options = {"beta": 0.5} if name != "backprop" else {}
    if name in ("ldrl", "drl"):
        options["noise"] = (0.1, 0.1)
    made = tiny(rules.RULES[name](**options))
    parts = count_step(made, 2, PLENTY)
    groups = roofline.groups_of(made, parts)
    assert sorted(chain(*groups.values())) == sorted(parts)
    timed = set(roofline.learners_of_maps(made))
    assert set(groups) == {"forward", roofline.REST} | timed


def test_maps_trained_alone_are_those_of_the_step():
    made = tiny()
    state, (images, _) = make_state(made), make_batch(made.network, 2)
    activations = forward_all(made.network, state.forward, images)
    noise = {
        made.network[i].name: Noise(*(jnp.asarray(normal(i, (2, 1, *h.shape))) for h in pair))
        for i, pair in enumerate(pairwise(activations.h))
        if i > 0
    }
    whole = learning.train_feedback(made, state, activations, noise=noise)
    alone = roofline.learners_of_maps(made)
    assert list(alone) == ["feedback conv_1", "feedback fc"]
    for name, one in alone.items():
        block = name.split()[1]
        found = learning.train_feedback(one, state, activations, noise=noise)
        assert list(found[2]) == [block]
        for got, wanted in zip(found, whole, strict=True):
            assert_close(got[block], wanted[block])


def test_rest_is_the_difference_within_each_repeat(monkeypatch):
    """Medians of both would give 5 - 2."""
    times = {roofline.FORWARD: [1, 2, 9], roofline.WITHOUT_FEEDBACK: [5, 3, 10]}
    calls = {name: iter([0, 0, *taken]).__next__ for name, taken in times.items()}
    monkeypatch.setattr(timing, "seconds", lambda call: call())
    assert roofline.measure(calls, 3)[roofline.REST] == 1


def run(*args):
    with jax.enable_x64(False):
        return roofline.main(["--config=configs/digits_dtp.py", *args])


TINY = ("--config.channels=4,8", "--config.feedback_iterations=2", "--config.batch_size=8")


def test_from_command_line_to_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "PEAK_SIZE", 256)
    monkeypatch.setattr(roofline, "COPIED", 2**16)
    monkeypatch.setattr(roofline, "DRAWN", 2**10)
    file = tmp_path / "roofline.json"
    assert run(*TINY, "--repeats=2", f"--json={file}", "--cache-mib=1") == 0
    result = json.loads(file.read_text())
    assert {"command", "date", "hardware", "commit"} < set(result)
    assert (result["batch"], result["cache_bytes"]) == (8, 2**20)
    timed = [row for row in result["rows"] if row["seconds"] is not None]
    names = [(row["phase"], row["block"]) for row in timed]
    assert names == [
        ("forward", "all"),
        ("feedback", "conv_1"),
        ("feedback", "fc"),
        (roofline.REST, "all"),
    ]
    whole, peaks = result["step"], result["peaks"]
    assert sum(row["flops"] for row in timed) == whole["flops"]
    assert sum(row["bytes"] for row in timed) == whole["bytes"]
    assert sum(row["seconds"] for row in timed) == pytest.approx(result["sum_of_phases_seconds"])
    assert result["backprop"]["seconds"] > 0
    for row in (*timed, whole, result["backprop"]):
        longest = max(row["flops"] / peaks["flops"], row["bytes"] / peaks["bytes"])
        assert row["floor_seconds"] == longest
        assert row["gap"] == pytest.approx(row["seconds"] / longest)
    assert result["normals"]["count"] == whole["normals"] == 2 * 8 * (64 + 32 + 32 + 10)
    printed = capsys.readouterr().out
    for expected in ("ldrl, simple_vgg, batch 8", "local gradients", "in arithmetic", "normals"):
        assert expected in printed
    assert f"{whole['flops'] / result['backprop']['flops']:.1f} in arithmetic" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.batch_size=0"], "config.batch_size is 0; allowed: "),
        (["--config.batchsize=1"], "config.batchsize: no such field"),
        (["--repeats=0"], "--repeats: is '0'; allowed: a whole number, 1 or more"),
        (["--cache-mib=nan"], "--cache-mib is nan; allowed: a finite number, 0 or more"),
    ],
)
def test_errors_in_one_line(args, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
