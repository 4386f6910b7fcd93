"""What a run looks at beside its training: the right numbers, at no cost to the training's."""

import io
import json
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config_fields, degrees_between, make_batch, make_learner
from launching import (
    STEPS_PER_EPOCH,
    TINY,
    arrays,
    assert_same_run,
    checkpoint_steps,
    launch,
    rows,
    summary,
)
from rich.console import Console
from test_loop import killed

import dtp_jax as dtp
from dtp_jax import networks
from dtp_jax.data import DATASETS, Split, Splits, load_splits, locate
from dtp_jax.learning import learner, metrics
from dtp_jax.learning.diagnostics import GROUPS, Group
from dtp_jax.plots.feedback import MOST_COLUMNS, NO_ANGLE, draw_feedback
from dtp_jax.run import diagnostics, loop, program, screen
from dtp_jax.run.build import build_learner
from dtp_jax.run.config import BOOKKEEPING, FIELDS, validate
from dtp_jax.run.results import load_run
from dtp_jax.run.rows import in_network_order, weight_rows
from dtp_jax.run.workdir import Workdir

pytest_plugins = ["run_fixtures"]

PARTS = ("iterations", *(name for name in GROUPS if name != "weights"))
EVERYTHING = ("--config.diagnostics_every=21", *(f"--config.diagnostics_{p}=on" for p in PARTS))
ONLY_LOOKS = tuple(f"--config.diagnostics_{p}=off" for p in PARTS if p != "iterations")
OTHERS = {"diagnostics_every"}
STEPS = 2 * STEPS_PER_EPOCH
LOOKS = range(0, STEPS, 21)
KINDS = ("loss", "angle", "distance")


def figures(workdir):
    return {path.name for path in (workdir / "figures").glob("*")}


def curves(workdir, step):
    with np.load(workdir / "figures" / f"feedback_{step:07d}.npz") as file:
        return dict(file)


def without_diagnostics(workdir):
    """The lines of metrics.jsonl that training itself writes, without the angles in them."""
    found = []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] not in ("config", "diagnostics", "feedback"):
            weights = ("angle/", "distance/", "norm_ratio/", "images_per_second")
            found.append({k: v for k, v in row.items() if not k.startswith(weights)})
    return found


@pytest.fixture(scope="session")
def observed(tmp_path_factory, reference):
    """The reference run with everything on, and its arguments."""
    args = (*reference[1], *EVERYTHING)
    workdir = tmp_path_factory.mktemp("observed") / "run"
    found = launch(f"--workdir={workdir}", *args)
    assert found.code == 0 and not found.err
    return workdir, args, found.out


# Bookkeeping.


def test_on_or_off_every_bit_of_the_training_is_the_same(place, reference, observed):
    args = (*reference[1], "--config.diagnostics=False")
    assert launch("--workdir=off", *args, *EVERYTHING).code == 0
    assert arrays(observed[0]) == arrays(place / "off") == arrays(reference[0])
    assert without_diagnostics(observed[0]) == without_diagnostics(place / "off")
    assert not rows(place / "off", "feedback") + rows(place / "off", "diagnostics")
    assert not any("angle/" in key for row in rows(place / "off") for key in row)
    assert not (place / "off" / "figures").exists()
    assert summary(place / "off")["diagnostics_seconds"] == 0


def test_a_short_run_compiles_nothing_for_it(reference):
    folder, found = reference[0], summary(reference[0])
    assert found["diagnostics_compile_seconds"] == 0
    assert found["memory_bytes"] > 0
    assert not rows(folder, "feedback") + rows(folder, "diagnostics")
    assert not (folder / "figures").exists()
    last = rows(folder, "train")[-1]
    assert last["norm_ratio/fc"] > 0 and last["angle/fc"] > 0


@pytest.mark.slow
def test_rows_and_curves_are_in_the_order_of_the_network(place):
    """Also with ten layers and more: a compiled program returns fc10 before fc2."""
    one = ("--config.noise=0.1", "--config.feedback_lr=0.01", "--config.feedback_iterations=2")
    deep = ("--config.network=mlp", "--config.channels=()", f"--config.hidden={'3,' * 10}", *one)
    looks = [f"--config.diagnostics_{part}=on" for part in ("iterations", "updates")]
    args = (*TINY, *deep, "--config.max_steps=2", "--config.log_every=1", *looks)
    found = launch("--workdir=w", *args)
    assert found.code == 0
    maps = [f"fc{n}" for n in range(2, 12)]
    assert [name for name in re.findall(r"fc\d+", found.out) if name in maps][-1] == "fc11"
    first, last = rows(place / "w", "train")
    look, measured = rows(place / "w", "feedback")[0], rows(place / "w", "diagnostics")[0]
    for row, kinds in (
        (first, ("feedback_loss",)),
        (last, ("angle", "distance", "norm_ratio")),
        (look, ("loss_first", "angle_last")),
    ):
        for kind in kinds:
            assert [k.split("/")[1] for k in row if k.startswith(kind + "/")] == maps, kind
    updated = [k.split("/")[1:] for k in measured if k.startswith("update_angle/")]
    assert updated == [[f"fc{n}", part] for n in range(1, 12) for part in ("bias", "kernel")]
    shown = list(curves(place / "w", 0))
    assert [name for name in shown if name.startswith("loss/")] == [f"loss/{m}" for m in maps]


def test_names_without_a_block_keep_their_place():
    network = [type("Block", (), {"name": name}) for name in ("layer_1_0", "fc")]
    found = {
        "loss": 0,
        "angle/fc": 1,
        "angle/layer_1_0": 2,
        "now": {"fc": 3, "layer_1_0": 4},
        "end": 5,
    }
    ordered = in_network_order(found, network)
    assert ordered == found
    assert list(ordered) == ["loss", "angle/layer_1_0", "angle/fc", "now", "end"]
    assert list(ordered["now"]) == ["layer_1_0", "fc"]


@pytest.fixture
def unseen(monkeypatch):
    """Pictures are files without a picture: drawing takes longer than all else."""
    monkeypatch.setattr(diagnostics, "draw_feedback", lambda curves, title: None)
    monkeypatch.setattr(diagnostics.style, "save", lambda figure, file: file.touch())


def test_a_killed_run_has_every_row_and_figure_once(place, monkeypatch, observed, unseen):
    """It dies when the look after a checkpoint is on the disk, and its files have been damaged since."""
    folder, args, _ = observed
    killed(monkeypatch, loop.Run, "_guard", 5, "--workdir=w", *args)
    assert checkpoint_steps(place / "w")[-1] == 21 == rows(place / "w", "feedback")[-1]["step"]
    (place / "w" / "figures" / "feedback_0000021.npz").write_bytes(b"half")
    (place / "w" / "figures" / "feedback_0000777.npz").write_bytes(b"of a longer run")
    (place / "w" / "figures" / "mine.png").write_bytes(b"not the run's")
    assert launch("--workdir=w", *args).code == 0
    assert_same_run(place / "w", folder)
    assert figures(place / "w") - figures(folder) == {"mine.png"}
    for step in LOOKS:
        for name, values in curves(folder, step).items():
            np.testing.assert_array_equal(curves(place / "w", step)[name], values)


@pytest.mark.slow
def test_streamed_images_change_nothing(place, observed, unseen):
    args = ("--config.images_on=host", "--config.max_steps=22")
    assert launch("--workdir=w", *observed[1], *ONLY_LOOKS, *args).code == 0
    for step in (0, 21):
        for name, values in curves(observed[0], step).items():
            np.testing.assert_array_equal(curves(place / "w", step)[name], values)


@pytest.mark.slow
def test_a_mesh_changes_nothing(place, observed, unseen):
    """And what it sees is what one device sees."""
    mesh = ("--config.data_parallel=2", "--config.layer_parallel=2", "--config.max_steps=23")
    args = (*TINY, "--config.epochs=2", *mesh)
    some = ("--config.diagnostics_gauss_newton=off", "--config.diagnostics_eigenvalues=off")
    found = launch("--workdir=on", *args, *EVERYTHING, *some)
    assert found.code == 0 and not found.err
    assert launch("--workdir=off", *args, "--config.diagnostics=False").code == 0
    assert arrays(place / "on") == arrays(place / "off")
    assert [row["step"] for row in rows(place / "on", "feedback")] == [0, 21]
    assert [row["step"] for row in rows(place / "on", "diagnostics")] == [23]
    for step in (0, 21):
        for name, values in curves(place / "on", step).items():
            np.testing.assert_allclose(values, curves(observed[0], step)[name], 1e-3, 1e-4)


# Looks into the feedback training.


def test_a_look_sees_the_training_of_the_batch_to_come(observed):
    """Its losses have the mean that the step itself reports."""
    folder = observed[0]
    train = {row["step"]: row for row in rows(folder, "train")}
    looks = rows(folder, "feedback")
    assert [row["step"] for row in looks] == list(LOOKS)
    for row in looks:
        step, seen = row["step"], curves(folder, row["step"])
        assert row["epoch"] == train[step + 1]["epoch"]
        assert seen.keys() == {f"{kind}/{name}" for kind in KINDS for name in ("conv_1", "fc")}
        for name in ("conv_1", "fc"):
            expected = train[step + 1][f"feedback_loss/{name}"]
            np.testing.assert_allclose(seen[f"loss/{name}"].mean(), expected, rtol=1e-5, atol=1e-7)
        for name, values in seen.items():
            kind, block = name.split("/")
            assert values.shape == (2,)
            ends = [row[f"{kind}_{end}/{block}"] for end in ("first", "last")]
            np.testing.assert_array_equal(values, np.float32(ends))


def test_all_looks_have_arrays_and_some_a_picture(observed):
    expected = {f"feedback_{step:07d}.{ending}" for step in LOOKS for ending in ("npz", "png")}
    assert figures(observed[0]) == expected
    drawn = [step for step in range(0, 9_001, 1000) if diagnostics.is_drawn(step, 1000, 9_500)]
    assert drawn == [0, 1000, 2000, 4000, 8000, 9000]  # the first ones, ever fewer, and the last


def test_curves_are_the_angles_of_the_maps_as_they_train():
    """By numpy, from the maps that an observer of the step itself has kept."""
    network = networks.simple_vgg((8, 8, 3), 10, channels=(3, 4))
    made = make_learner(network, dtp.ldrl(noise=0.1, beta=0.5), iterations=(2, 3))
    made = made.replace(guard="halve")
    state = dtp.init(made, jax.random.key(1))
    data = DATASETS["cifar10"]._replace(image_shape=(8, 8, 3))
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    given = (state, images, np.arange(6, dtype=np.int32), np.array([4, 1, 2, 5], np.int32))
    seen = program.look(made, data, augmented=True)(*given)
    batch = program._batches(made, data, True)(*given)

    @jax.jit
    def kept(state, x, y):
        observe = lambda i, iteration: (iteration.loss, iteration.omega)  # noqa: E731
        return learner.step(made, state, x, y, observe=observe)[1].observations

    found = kept(state, *batch)
    assert seen.keys() == found.keys() == {"conv_1", "fc"}
    for name, (losses, omega) in found.items():
        theta = np.asarray(state.forward[name]["kernel"])
        np.testing.assert_allclose(seen[name]["loss"], losses, rtol=1e-4, atol=1e-6)
        for k, kernel in enumerate(np.asarray(omega["kernel"])):
            distance = np.linalg.norm(theta - kernel) / np.linalg.norm(theta)
            np.testing.assert_allclose(seen[name]["distance"][k], distance, rtol=1e-4)
            angle = degrees_between(theta, kernel)
            np.testing.assert_allclose(seen[name]["angle"][k], angle, atol=0.02)
        assert len(set(np.asarray(seen[name]["angle"]))) == len(losses)


def test_a_stage_has_one_angle_and_direct_maps_have_none():
    resnet = networks.resnet18((8, 8, 3), 10, channels=(3, 4), batch_norm=True)
    for network, rule, kinds in (
        (resnet, dtp.ldrl(noise=0.1, beta=0.5), {"loss", "angle", "distance"}),
        # One of its matrices happens to have the shape of a kernel.
        (networks.mlp((10,), 10, hidden=(10,)), dtp.drl(noise=0.1, beta=0.5), {"loss"}),
    ):
        made = make_learner(network, rule)
        images, labels = make_batch(network, 2)
        shape = network[0].input_shape
        data = DATASETS["cifar10"]._replace(image_shape=shape, mean=(0.0,), std=(1.0,))
        given = (dtp.init(made, jax.random.key(0)), images, labels, np.arange(2))
        seen = jax.eval_shape(program.look(made, data, augmented=False), *given)
        assert len(seen) == len(made.trained)
        for found in seen.values():
            assert found.keys() == kinds and all(a.shape == (2,) for a in found.values())


def test_a_rule_that_mirrors_some_blocks_has_their_angles():
    """Of three blocks the last one alone, with a parameter more; direct maps of equal shapes have none."""
    network = networks.mlp((10,), 10, hidden=(10, 10))
    own = dtp.ldrl(noise=0.1, beta=0.5)

    def init_feedback(network, key):
        maps = own.init_feedback(network, key)
        return {"fc3": {**maps["fc3"], "gain": jnp.ones(())}}

    partly = own._replace(init_feedback=init_feedback)
    for rule, names in (
        (own, {"fc2", "fc3"}),
        (partly, {"fc3"}),
        (dtp.drl(noise=0.1, beta=0.5), set()),
    ):
        shapes = jax.eval_shape(partial(rule.init_feedback, network), jax.random.key(0))
        learner_ = SimpleNamespace(
            rule=rule, network=network, state_shapes=SimpleNamespace(feedback=shapes)
        )
        state = SimpleNamespace(
            forward=rule.init_forward(network, jax.random.key(1)),
            feedback=rule.init_feedback(network, jax.random.key(0)),
        )
        found = weight_rows(learner_, state)
        assert {name.partition("/")[2] for name in found} == names


def test_passes_that_train_no_feedback_are_not_looked_into(place, unseen):
    args = ("--config.alternate=True", "--config.epochs=1", "--config.guard=skip")
    looks = ("--config.diagnostics_iterations=on", "--config.diagnostics_every=20")
    assert launch("--workdir=w", *TINY, *args, *looks).code == 0
    assert [row["step"] for row in rows(place / "w", "feedback")] == [0, 20]
    assert summary(place / "w")["steps"] == STEPS


# Groups of measures.


def test_groups_measure_the_state_after_an_epoch_on_the_first_images_held_out(observed):
    folder = observed[0]
    found = rows(folder, "diagnostics")
    assert [(row["step"], row["epoch"]) for row in found] == [(STEPS_PER_EPOCH, 1), (STEPS, 2)]
    with jax.enable_x64(False):
        run = load_run(folder)
        experiment = run.experiment
        held_out = load_splits(locate("digits"), experiment.config["val_split"], 0).val
        x = dtp.data.prepare_images(jnp.asarray(held_out.images[:32]), experiment.data, jnp.float32)
        own = (experiment.network, experiment.rule)
        expected = jax.jit(lambda *given: metrics.update_alignment(*own, *given))(
            run.state.forward, run.state.feedback, x, held_out.labels[:32]
        )
    for block, parameters in expected.items():
        for name, value in parameters.items():
            key = f"{block}/{name}"
            # Of small angles float32 has few digits.
            assert found[-1][f"update_angle/{key}"] == pytest.approx(float(value.angle), abs=0.2)
            wanted = float(value.distance)
            assert found[-1][f"update_distance/{key}"] == pytest.approx(wanted, abs=2e-3)
    assert found[0] != found[1]


@pytest.mark.parametrize("held_out", [True, False])
def test_the_fixed_batch(held_out):
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    part = Split(images, np.arange(10, dtype=np.int32))
    held = Split(images + 100, part.labels) if held_out else None
    found = diagnostics.fixed_batch(Splits(part, held, part, np.array([7, 3, 5, 1])), 3)
    expected = [100, 101, 102] if held_out else [7, 3, 5]
    assert found.images.ravel().tolist() == expected
    assert found.labels.tolist() == [value % 100 for value in expected]


def decided(flags, total_steps, **changes):
    """(Diagnostics, warnings) of such a run; nothing is compiled."""
    fields = config_fields(**changes) | {f"diagnostics_{k}": v for k, v in flags.items()}
    experiment, warned = validate(fields), []
    return (
        diagnostics.Diagnostics(
            experiment,
            build_learner(experiment, 10),
            None,
            total_steps,
            Workdir("nowhere"),
            warned.append,
        ),
        warned,
    )


@pytest.mark.parametrize(
    "flag, total_steps, is_on",
    [("auto", 4_999, False), ("auto", 5_000, True), ("on", 1, True), ("off", 10_000, False)],
)
def test_long_runs_measure_and_short_ones_do_not_unless_asked(flag, total_steps, is_on):
    made, warned = decided(dict.fromkeys(PARTS, flag), total_steps)
    assert made.to_compile(0, {("feedback",): None}) == is_on and not warned
    assert bool(made.every) == ("updates" in made._groups) == is_on
    off, _ = decided(dict.fromkeys(PARTS, flag), total_steps, diagnostics=False)
    assert not off.to_compile(0, {("feedback",): None}) and not off.every


def test_no_looks_with_every_0():
    flags = dict.fromkeys(PARTS, "off") | {"iterations": "on"}
    made, _ = decided(flags, 10_000, diagnostics_every=0)
    assert not made.to_compile(0, {("feedback",): None})
    assert made.steps_to_look(0) == 10_000


def test_every_group_has_its_flag():
    flags = {f"diagnostics_{part}" for part in PARTS}
    assert {name for name in FIELDS if name.startswith("diagnostics_")} == {*flags, *OTHERS}
    assert {"diagnostics", *flags, *OTHERS} <= set(BOOKKEEPING)


def test_who_asks_for_what_a_rule_does_not_have_is_told_why():
    made, warned = decided({"iterations": "on"}, 10, rule="backprop")
    assert warned == [
        "config.diagnostics_iterations measures nothing: the rule backprop trains no feedback maps"
    ]
    assert not made.every and not decided({}, 10_000, rule="backprop")[1]


def test_a_group_that_cannot_be_asked_is_left_out(monkeypatch):
    def refuses(learner_):
        raise KeyError("beta")

    monkeypatch.setitem(GROUPS, "updates", GROUPS["updates"]._replace(refuses=refuses))
    made, warned = decided({"updates": "auto"}, 10_000)
    assert "updates" not in made._groups
    assert warned == ["config.diagnostics_updates measures nothing: 'beta'"]


def raising(*_):
    raise RuntimeError("no such thing\nand more of it")


def odd(*_):
    return {"update_angle/fc/kernel": jnp.nan, "update_distance/fc/kernel": jnp.inf}


@pytest.mark.parametrize(
    "measure, said",
    [
        (
            raising,
            "compiling config.diagnostics_updates failed, and the run goes on without: no such",
        ),
        (odd, "config.diagnostics_updates has update_angle/fc/kernel and 1 more not finite: null"),
    ],
)
def test_a_measure_that_fails_is_one_line(place, monkeypatch, reference, measure, said):
    monkeypatch.setitem(GROUPS, "updates", Group(measure, lambda _: ""))
    flags = ("--config.diagnostics_updates=on",)
    found = launch("--workdir=w", *reference[1], *flags)
    assert found.code == 0 and said in found.err and len(found.err.splitlines()) == 1
    assert arrays(place / "w") == arrays(reference[0])
    nulls = [row["update_angle/fc/kernel"] for row in rows(place / "w", "diagnostics")]
    assert nulls == ([None, None] if measure is odd else [])


def test_looks_and_figures_that_fail_are_one_line_each(place, monkeypatch, reference):
    """The program of a look, as where memory is short; the disk or the drawing of its figure."""
    flags = ("--config.diagnostics_iterations=on", "--config.diagnostics_every=7")
    monkeypatch.setattr(diagnostics, "draw_feedback", raising)
    found = launch("--workdir=drawing", *reference[1], *flags)
    assert found.code == 0 and len(found.err.splitlines()) == 1 and "figures failed" in found.err
    assert len(rows(place / "drawing", "feedback")) == 12
    monkeypatch.setattr(diagnostics.Diagnostics, "_on_host", raising)
    found = launch("--workdir=looking", *reference[1], *flags, "--config.max_steps=10")
    assert found.code == 0 and len(found.err.splitlines()) == 1
    assert "config.diagnostics_iterations failed, and the run goes on without: no such" in found.err
    assert not rows(place / "looking", "feedback")


def test_flags_have_three_values(place):
    found = launch("--workdir=w", *TINY, "--config.diagnostics_updates=yes")
    assert found.code == 2 and not (place / "w").exists()
    assert "config.diagnostics_updates is 'yes'; allowed: one of auto, on, off" in found.err


# What users see of it.


def test_costs_are_apart(observed):
    found = summary(observed[0])
    assert 0 < found["diagnostics_seconds"] < found["wall_seconds"]
    assert 0 < found["diagnostics_compile_seconds"] < found["wall_seconds"]
    trained = 32 * found["steps"] / found["images_per_second"]
    parts = trained + found["diagnostics_seconds"] + found["diagnostics_compile_seconds"]
    assert parts < found["wall_seconds"]


def test_the_screen_says_it(observed):
    assert observed[2].count("compiling the diagnostics") == 1
    angles = [v for k, v in rows(observed[0], "diagnostics")[-1].items() if "update_angle/" in k]
    last = re.findall(r"^epoch 2/2 .*", observed[2], re.MULTILINE)[0]
    assert f"updates {np.mean(angles):2.0f}°" in last


@pytest.mark.parametrize("width, is_shown", [(100, True), (80, False)])
def test_update_angles_are_shown_where_there_is_room(width, is_shown):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, legacy_windows=False)
    with screen.Screen(console).training(90, 351) as bar:
        bar.end_epoch(3, program.Evaluation(1.0, 0.5, 0.9), ("conv_1", 33.0), 12.4)
    assert "conv_1 33°" in out.getvalue() and ("updates 12°" in out.getvalue()) == is_shown


def test_tensorboard_has_the_rows(observed):
    content = b"".join(f.read_bytes() for f in (observed[0] / "tensorboard").iterdir())
    for tag in (b"diagnostics/update_angle/fc/kernel", b"feedback/angle_last/conv_1"):
        assert tag in content


def made_up(maps, kinds=KINDS, iterations=5):
    return {f"{kind}/{name}": np.arange(iterations) + 1.0 for kind in kinds for name in maps}


@pytest.mark.parametrize("count", [1, 5, 16])
def test_the_picture_has_a_column_for_every_map(tmp_path, count):
    maps = [f"map_{n}" for n in range(count)]
    figure = draw_feedback(made_up(maps), "a title")
    axes = figure.get_axes()
    assert len(axes) == 3 * count and all(len(axis.lines) == 1 for axis in axes)
    assert [text.get_text() for axis in axes for text in axis.texts] == maps
    columns = {round(axis.get_subplotspec().colspan.start) for axis in axes}
    assert len(columns) == min(count, MOST_COLUMNS)
    labels = [axis.get_ylabel() for axis in axes if axis.get_ylabel()]
    assert labels == ["loss", "angle, °", "distance"] * -(-count // MOST_COLUMNS)
    assert all(axis.get_title("left") == "1 → 5" for axis in axes)


def test_the_picture_of_direct_maps_says_why_it_has_no_angle():
    figure = draw_feedback(made_up(["a", "b"], ["loss"]), "a title")
    assert len(figure.get_axes()) == 2 and NO_ANGLE in figure.get_suptitle()


def test_the_picture_takes_odd_names_and_numbers(tmp_path):
    found = {"loss/$x_{": np.array([np.nan]), "angle/$x_{": np.array([np.inf])}
    draw_feedback(found, "$y_{").savefig(tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 1000
