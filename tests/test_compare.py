"""Comparisons: what --configs may name, what a table says of summaries, and runs that fail."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time

import jax
import pytest
from launching import TINY, summary, tree
from PIL import Image
from rich.console import Console

from dtp_jax.compare import __main__, command, parse_configs, runs
from dtp_jax.compare.pictures import draw_pictures
from dtp_jax.compare.plan import Entry
from dtp_jax.compare.reading import read
from dtp_jax.compare.report import Row, Spread, show, write_report
from dtp_jax.compare.runs import Result
from dtp_jax.report import reading
from dtp_jax.report.folders import Group
from dtp_jax.report.series import LEARNING, measured
from dtp_jax.run import cli, several
from dtp_jax.run.loading import load_config
from dtp_jax.run.screen import BriefScreen, Screen
from dtp_jax.run.several import Outcome

pytest_plugins = ["run_fixtures"]


def compare(*args):
    """The command line in this process -> (exit code, stdout after its first line, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), jax.enable_x64(False):
        code = __main__.main(list(args), "dtp compare")
    first, rest = out.getvalue().split("\n", 1)
    assert first == "starting JAX"
    return code, rest, err.getvalue()


def test_names_of_configs(place):
    (place / "own.py").write_text(
        "from dtp_jax.configs import digits_dtp\n\ndef get_config(rule='ldrl'):\n"
        "    config = digits_dtp.get_config()\n    config.rule = rule\n    return config\n"
    )
    entries = parse_configs(
        "digits_dtp,own.py:backprop, digits_dtp[beta=0.5][noise=0.3,0.2],./own.py",
        ["--config.epochs=2", "--config.beta=0.25"],
    )
    assert [entry.label for entry in entries] == [
        "digits_dtp",
        "own-backprop",
        "digits_dtp-beta=0.5-noise=0.3,0.2",
        "own",
    ]
    found = [[e.config[n] for n in ("rule", "beta", "noise", "epochs")] for e in entries]
    assert [entry.given for entry in entries][:2] == ["digits_dtp", "own.py:backprop"]
    assert entries[2].arguments(["--config.epochs=2"]) == [
        "dtp train",
        "--config=digits_dtp",
        "--config.epochs=2",
        "--config.beta=0.5",
        "--config.noise=0.3,0.2",
    ]
    assert found == [
        ["ldrl", 0.25, (0.2, 0.08), 2],
        ["backprop", 0.25, (0.2, 0.08), 2],
        ["ldrl", 0.5, (0.3, 0.2), 2],
        ["ldrl", 0.25, (0.2, 0.08), 2],
    ]


def test_lists_of_values_are_combined():
    entries = parse_configs("digits_dtp[beta=0.1|0.3][noise=0.3,0.2| 0.4],digits_backprop", [])
    assert [entry.label for entry in entries] == [
        "digits_dtp-beta=0.1-noise=0.3,0.2",
        "digits_dtp-beta=0.1-noise=0.4",
        "digits_dtp-beta=0.3-noise=0.3,0.2",
        "digits_dtp-beta=0.3-noise=0.4",
        "digits_backprop",
    ]
    found = [(entry.config["beta"], entry.config["noise"]) for entry in entries[:4]]
    assert found == [(b, n) for b in (0.1, 0.3) for n in ((0.3, 0.2), (0.4, 0.4))]


@pytest.mark.parametrize(
    "configs, said",
    [
        ("digits_dtp,nix", "--config is 'nix', which does not exist"),
        ("digits_dtp,digits_dtp", "'digits_dtp' twice"),
        ("digits_dtp[beta]", "'digits_dtp[beta]'; allowed"),
        ("digits_dtp,,digits_backprop", "holds ''"),
        ("digits_dtp[beta=-1]", "config.beta is -1"),
        ("digits_dtp[beta=0.1|]", "config.beta is ''"),
        ("digits_dtp[beta=0.1|0.1]", "'digits_dtp-beta=0.1' twice"),
        ("digits_dtp[batch=1]", "config.batch: no such field"),
    ],
)
def test_all_configs_are_checked_before_anything_runs(configs, said, place):
    code, out, err = compare(f"--configs={configs}")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and said in err, err
    assert list(place.iterdir()) == []


def test_one_config_diverges(place):
    """The others finish; said in the table; a second call trains nothing again."""
    args = ["--configs=digits_dtp[forward_lr=1e9],digits_backprop", "--seeds=2", "--workdir=c"]
    args += [*TINY, "--config.epochs=1", "--training-curves"]
    code, out, err = compare(*args)
    assert code == cli.EXIT_DIVERGED
    lines = out.splitlines()
    head = "[1/4] digits_dtp-forward_lr=1e9, seed 0"
    assert lines[:5] == [
        f"{head}: starting",
        f"{head}  reading digits",
        f"{head}  preparing the run",
        f"{head}  compiling the training step",
        f"{head}: diverged",
    ]
    found = [summary(place / "c/digits_backprop" / f"seed_{seed}") for seed in range(2)]
    (last,) = (line for line in lines if re.match(r"\[4/4\] digits_backprop, seed 1: \d", line))
    assert last.startswith(
        f"[4/4] digits_backprop, seed 1: {100 * found[1]['test_accuracy']:.2f} % test"
    )
    assert [line[:5] for line in lines if line.endswith(": starting")] == [
        f"[{number}/4]" for number in (1, 2, 3, 4)
    ]
    assert err.count("error: step") == 2

    accuracies = [100 * one["test_accuracy"] for one in found]
    mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
    text = (place / "c/comparison.md").read_text()
    assert (
        "\n`dtp compare '--configs=digits_dtp[forward_lr=1e9],digits_backprop' --seeds=2 " in text
    )
    table = [line for line in text.splitlines() if line.startswith("| digits")]
    assert "| diverged | - |" in table[0] and f"| {mean:.2f} ± {spread:.2f} |" in table[1]
    with (place / "c/comparison.csv").open(newline="") as file:
        diverged, fine = csv.DictReader(file)
    assert (diverged["seeds"], diverged["failures"]) == ("0", "diverged")
    assert diverged["test_accuracy_mean"] == diverged["wall_seconds_std"] == ""
    assert float(fine["test_accuracy_mean"]) == pytest.approx(mean)
    assert float(fine["val_accuracy_std"]) == pytest.approx(
        statistics.stdev(100 * one["val_accuracy"] for one in found)
    )
    assert (fine["rule"], fine["network"], fine["seeds"]) == ("backprop", "simple_vgg", "2")
    for name in ("comparison", "comparison_time"):
        assert f"({name}.png)\n" in text
        with Image.open(place / f"c/{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 400
    assert "Thin: training accuracy" in text and "`--config.diagnostics_updates=on`" in text
    assert lines[-1] == "c: comparison.md, comparison.csv, comparison.png, comparison_time.png"

    before = tree(place / "c/digits_backprop")
    code, out, _ = compare(*args)
    assert code == cli.EXIT_DIVERGED and out.count("(finished before)") == 2
    assert out.count(": starting\n") == 2  # a finished run does not start
    assert tree(place / "c/digits_backprop") == before


def test_the_line_of_a_run_fits():
    found = {"test_accuracy": 0.97781, "val_accuracy": 0.9, "wall_seconds": 671.2}
    found["images_per_second"] = 26158.4
    text = several.in_words(0, found, again=False)
    assert text == "97.78 % test, 90.00 % val, 11:11, 26158 images/s"
    assert len(f"[4/4] digits_backprop, seed 1: {text}") <= 80
    assert several.in_words(0, {**found, "val_accuracy": None}, again=True) == (
        "97.78 % test, 11:11, 26158 images/s (finished before)"
    )


def test_an_interruption_ends_the_comparison(place, monkeypatch):
    codes = iter([3, 130])
    monkeypatch.setattr(runs.cli, "train", lambda *args: next(codes))
    code, out, _ = compare("--configs=digits_dtp,digits_backprop", "--seeds=3")
    out = "".join(line + "\n" for line in out.splitlines() if not line.endswith(": starting"))
    assert code == 130 and out.splitlines() == [
        "[1/6] digits_dtp, seed 0: failed (exit code 3)",
        "[2/6] digits_dtp, seed 1: interrupted; the same command goes on from here",
    ]


def test_a_crash_costs_one_run(place, monkeypatch):
    def crash(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(runs.cli, "train", crash)
    code, out, err = compare("--configs=digits_dtp,digits_backprop", "--seeds=1")
    assert code == 1 and out.count("failed (exit code 1)\n") == 2
    assert err.count("RuntimeError: out of memory") == 2


def write_run(folder, rows):
    """A workdir with these rows in its metrics.jsonl."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_pictures_show_is_read_as_it_is(tmp_path):
    """Means over the steps of an epoch, the last of the other numbers; tests and nulls are left out.

    Pre-training (epoch 0) has no accuracy, but angles, and takes time.
    """
    rows = [
        {"split": "train", "epoch": 0, "accuracy": 0.9, "angle/fc": 80.0},
        {"split": "epoch", "step": 30, "epoch": 0, "images_per_second": 60.0},
        {"split": "train", "epoch": 1, "accuracy": 0.25, "angle/fc": 30.0},
        {"split": "train", "epoch": 1, "accuracy": 0.75, "angle/fc": 20.0},
        {"split": "epoch", "step": 60, "epoch": 1, "images_per_second": 120.0},
        {"split": "val", "epoch": 1, "accuracy": 0.5},
        {
            "split": "diagnostics",
            "epoch": 1,
            "update_angle/fc/kernel": 9.0,
            "update_angle/fc/bias": 1,
        },
        {"split": "train", "epoch": 2, "accuracy": 1.0},
        {"split": "epoch", "step": 90, "epoch": 2, "images_per_second": None},
        {
            "split": "diagnostics",
            "epoch": 2,
            "update_angle/fc/kernel": 8.0,
            "jacobian_distance/fc": 1,
        },
        {"split": "train", "epoch": 3, "accuracy": None, "angle/fc": None},
        {"split": "diagnostics", "epoch": 3, "update_angle/fc/kernel": None},
        {"split": "test", "epoch": 3, "accuracy": 0.1},
    ]
    curve, angles, updates = read(write_run(tmp_path / "run", rows), batch_size=4)
    assert curve == ({1: 50.0, 2: 100.0}, {1: 50.0}, {0: 2 / 60, 1: 3 / 60})
    assert angles == {"fc": {0: 80.0, 1: 20.0}} and updates == {"fc": 8.0}
    assert read(tmp_path / "none", 4) == (({}, {}, {}), {}, {})


def test_a_report_reads_of_a_run_what_a_comparison_reads(tmp_path):
    """Of an epoch of two passes, the second of which trains feedback maps alone."""
    rows = [{"split": "train", "step": 0, "epoch": 0, "accuracy": 0.0, "angle/fc": 90.0}]
    for epoch in (1, 2):
        row = {"split": "train", "step": epoch, "epoch": epoch, "feedback_loss/fc": 1.0}
        rows.append(row | {"loss": 1.0, "accuracy": 0.75, "forward_loss/fc": 1.0, "angle/fc": 60.0})
        rows.append(row | {"loss": 1.0, "accuracy": 0.25, "angle/fc": 40.0})
        for angle in (12.0, 8.0):
            rows.append({"split": "diagnostics", "epoch": epoch, "update_angle/fc/kernel": angle})
    folder = write_run(tmp_path / "run", rows)
    curve, angles, updates = read(folder, batch_size=4)
    group = Group("run", [reading.read(folder)])
    (angle,), (update,) = (measured([group], kind) for kind in ("angle", "update_angle"))
    training = next(one for one in LEARNING if one.name == "train-accuracy")
    assert training.of(group.runs[0]) == curve.train == {1: 75.0, 2: 75.0}
    assert angles == {"fc": {0: 90.0, 1: 40.0, 2: 40.0}}
    assert angle.of(group.runs[0]) == angles["fc"]
    assert [updates] == [{"fc": value} for value in update.last(group)] == [{"fc": 8.0}]


def a_result(folder, label, rows_of_seeds, *, codes=(0,), network="lenet"):
    config = {"dataset": "digits", "network": network, "batch_size": 10}
    found = []
    for seed, rows in enumerate(rows_of_seeds):
        code = codes[seed % len(codes)]
        workdir = write_run(folder / label / f"seed_{seed}", rows)
        found.append(runs.Run(workdir, code, None if code else {"test_accuracy": 0.5}))
    return runs.Result(Entry(label, label, (), config), found)


def rows_of(epochs, accuracy, angles=(), update=None):
    rows = []
    for epoch in range(1, epochs + 1):
        rows.append({"split": "train", "epoch": epoch, "accuracy": accuracy - 0.1})
        rows[-1] |= {f"angle/{name}": 90.0 / epoch for name in angles}
        rows.append({"split": "epoch", "step": 9 * epoch, "epoch": epoch, "images_per_second": 9.0})
        rows.append({"split": "val", "epoch": epoch, "accuracy": accuracy})
        if update is not None:
            rows.append({"split": "diagnostics", "epoch": epoch, "update_angle/fc/kernel": update})
    return rows


def test_pictures_of_runs_of_all_kinds(tmp_path):
    """Other kernels, no kernels, a run that ended early, a config all of whose runs diverged at once."""
    results = [
        a_result(
            tmp_path,
            "net-ldrl",
            [rows_of(3, 0.8, ["conv", "fc"], 5), rows_of(3, 0.9, ["conv", "fc"])],
        ),
        a_result(tmp_path, "net-other", [rows_of(2, 0.7, ["layer/conv1"])], network="resnet18"),
        a_result(tmp_path, "net-backprop", [rows_of(3, 0.9), []], codes=(0, 4)),
        a_result(tmp_path, "net-early", [rows_of(1, 0.5, ["fc"])], codes=(4,)),
        a_result(
            tmp_path, "net-none", [[{"split": "train", "epoch": 1, "loss": None}]], codes=(4,)
        ),
    ]
    no_val = [row for row in rows_of(3, 0.9) if row["split"] != "val"]
    results.append(a_result(tmp_path, "net-whole", [no_val]))
    (tmp_path / "comparison_updates.png").write_text("of before")
    curves, time, alignment, updates = draw_pictures(results, tmp_path, training=False)
    assert [p.file for p in (curves, time, alignment, updates)] == [
        "comparison.png",
        "comparison_time.png",
        "comparison_alignment.png",
        "comparison_updates.png",
    ]
    for picture in (curves, time, alignment, updates):
        with Image.open(tmp_path / picture.file) as image:
            assert image.format == "PNG" and min(image.size) > 400
    assert "augmented images" not in curves.caption
    assert curves.caption.endswith("for want of validation images: whole.")
    assert alignment.caption.endswith("diagnostics=False): backprop, whole.")
    assert updates.caption.endswith("Not measured: other, backprop, early, whole.")


def test_a_picture_that_would_be_empty_is_not_there(tmp_path):
    results = [a_result(tmp_path, "backprop", [rows_of(2, 0.9)])]
    (tmp_path / "comparison_alignment.png").write_text("of before")
    curves, time, updates = draw_pictures(results, tmp_path, training=True)
    assert "augmented images" in curves.caption and time.file == "comparison_time.png"
    assert not updates.file and "`--config.diagnostics_updates=on`" in updates.caption
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "comparison.png",
        "comparison_time.png",
    ]
    assert (
        draw_pictures([a_result(tmp_path, "none", [[]], codes=(4,))], tmp_path, training=False)
        == []
    )
    assert not list(tmp_path.glob("*.png"))


def test_a_brief_screen_only_warns(capsys):
    screen = BriefScreen(Console(file=io.StringIO()))
    screen.note("something")
    screen.start(None, "file", [], "source", "workdir")
    screen.summary({}, "workdir")
    with screen.task("reading"), screen.training(2, 3) as bar:
        bar.end_epoch(1, None)
    screen.warn("careful")
    assert screen.console.file.getvalue() == ""
    assert capsys.readouterr().err == "warning: careful\n"


def test_a_brief_screen_with_a_head(monkeypatch):
    """On a pipe, the lines of a run from its start on: of what goes on, not of what was."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    screen = BriefScreen(Console(file=io.StringIO()), "[2/6] digits_dtp, seed 1")
    with screen.task("looking for the data"):
        pass
    screen.start(None, "file", [], "source", "workdir", None, extended="something")
    screen.note("something")
    with screen.task("compiling"), screen.training(15, 39) as bar:
        clock[0] += 10
        bar.update(3, 13, rate=1e3, loss=2, accuracy=0.5, left=61, feedback_loss={"fc": 0.25})
        bar.end_epoch(3, None)
    screen.summary({}, "workdir")
    assert screen.console.file.getvalue().splitlines() == [
        "[2/6] digits_dtp, seed 1: starting",
        "[2/6] digits_dtp, seed 1  compiling",
        "[2/6] digits_dtp, seed 1  epoch  3/15  step 13/39  1000 images/s  1:01 left  "
        "loss 2.000  accuracy 0.500  feedback loss fc 0.25",
    ]


def shown(width: int | None, *rows: Row) -> list[list[str]]:
    """The cells of the table of so many columns; None: of a pipe."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=width is not None, color_system=None
    )
    show(list(rows), Screen(console))
    text = console.file.getvalue()
    assert text.startswith("mean ± standard deviation over seeds\n")
    lines = [line.replace("┃", "│") for line in text.splitlines()]
    assert width is None or max(map(len, lines)) <= width
    return [[c.strip() for c in line.strip("│").split("│")] for line in lines if line[0] == "│"]


def a_row(config: str, failures: str = "", rule: str = "ldrl") -> Row:
    spreads = [Spread(97.781, 0.477), Spread(97.5, 0.4), Spread(61.2, 1.0), Spread(1852.4, 1.0)]
    return Row(config, rule, "simple_vgg", "digits", None, 5, 2, failures, *spreads)


HEADINGS = ["config", "rule", "seeds", "test accuracy, %", "time", "images/s"]


def test_the_table_leaves_out_columns():
    cells = ["digits_backprop", "backprop", "2", "97.78 ± 0.48", "1:01", "1852"]
    one = a_row("digits_backprop", rule="backprop")
    for width, count in ((None, 6), (120, 6), (80, 6), (71, 5), (60, 4), (45, 2), (40, 2)):
        kept = [0, 3] if count == 2 else range(count)
        found = shown(width, one)
        assert found == [[HEADINGS[i] for i in kept], [cells[i] for i in kept]], width


def test_only_long_names_of_configs_fold():
    rows = (a_row("cifar10_lenet-direct_feedback_alignment", "1 diverged"), a_row("digits_dtp"))
    assert [row[0] for row in shown(80, *rows)[1:]] == [rows[0].config, "digits_dtp"]
    assert shown(40, *rows) == [
        ["", "test"],
        ["config", "accuracy, %"],
        ["cifar10_lenet-direct_", "97.78 ± 0.48"],
        ["feedback_alignment", "(1 diverged)"],
        ["digits_dtp", "97.78 ± 0.48"],
    ]


@pytest.mark.parametrize(
    "args, code, out, err",
    [
        (["--help"], 0, "usage: dtp compare", ""),
        (["--configs=x", "--seeds=0"], 2, "", "--seeds is 0; allowed: 1 or more"),
        (["--configs=nix"], 2, "starting JAX\n", "nix"),
    ],
)
def test_the_command_speaks_before_jax_is_there(args, code, out, err):
    """Help and wrong flags do without it; else there is a line while it starts."""
    program = (
        "import sys\nfrom dtp_jax.compare.__main__ import main\n"
        f"try: code = main({args}, 'dtp compare')\nexcept SystemExit as end: code = end.code\n"
        "print('jax' in sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == code
    assert found.stdout.startswith(out) and err in found.stderr
    assert found.stderr.endswith(f"{out.startswith('starting')}\n")
    assert out.startswith("usage") or found.stdout == out


def test_a_comparison_ends_with_whichever_seed_was_stopped(tmp_path, monkeypatch):
    """Trained together, one that has diverged may stand after those that were stopped."""

    def seeds(argv, folder, heads, screen):
        return [Outcome(n, folder, code, None) for n, code in enumerate((143, 143, 4))]

    monkeypatch.setattr(runs, "_run", seeds)
    code = command.compare("digits_dtp,digits_backprop", 3, str(tmp_path), [], "", Screen())
    assert code == 143 and list(tmp_path.iterdir()) == []
    (only,) = runs.run_all(
        parse_configs("digits_dtp,digits_backprop", []), 3, tmp_path, [], Screen()
    )
    assert only.entry.label == "digits_dtp"


def test_a_disk_that_is_full_in_the_end_is_one_line(tmp_path, monkeypatch, capsys):
    def refuses(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "_run", lambda *_: [Outcome(0, tmp_path, 0, None)])
    monkeypatch.setattr(command, "write_report", refuses)
    code = command.compare("digits_dtp", 1, str(tmp_path), [], "", Screen())
    (line,) = capsys.readouterr().err.splitlines()
    assert code == cli.EXIT_DISK and "No space left on device; once that is mended" in line


@pytest.mark.parametrize(
    "args, said",
    [
        (
            ["--configs=digits_dtp", "--config=digits_backprop"],
            "--config is no flag of a comparison",
        ),
        (
            ["--configs=digits_dtp", "--config.seed=3"],
            "config.seed is overridden; allowed: --seeds",
        ),
        (["--configs=digits_dtp[seed=3]"], "config.seed is overridden; allowed: --seeds"),
        (
            ["--configs=digits_dtp", "--config.seeds=3"],
            "config.seeds is overridden; allowed: --seeds",
        ),
        (["--configs=digits_dtp[seeds=3]"], "config.seeds is overridden; allowed: --seeds"),
        (
            ["--configs=digits_dtp", "--workdir=gs://b/c"],
            "--workdir is 'gs://b/c'; allowed: a local",
        ),
        (["--configs=digits_dtp", "--workdir="], "--workdir is ''; allowed: "),
        (["--configs=digits_dtp", "--lr=3"], "--lr is no flag; did you mean"),
        (
            ["--configs=digits_dtp[beta=0.1,0.3]"],
            "config.beta is '0.1,0.3'; allowed: a finite number above 0; several values to "
            "compare: [FIELD=VALUE|VALUE]",
        ),
        (
            ["--configs=digits_dtp[channels=4,8][beta=x]"],
            "config.beta is 'x'; allowed: a finite number above 0\n",
        ),
    ],
)
def test_arguments_that_would_be_passed_over(place, args, said):
    code, out, err = compare(*args)
    assert code == 2 and err.startswith(f"error: {said}") and err.count("\n") == 1
    assert not any(place.iterdir())


def test_configs_in_several_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.arguments_of(["--configs=digits_dtp", "digits_backprop"], "dtp compare")
    assert stop.value.code == 2
    assert "'digits_backprop' is no flag; allowed: --configs=A,B" in capsys.readouterr().err
    _, overrides = __main__.arguments_of(
        ["--configs=digits_dtp", "--config.beta", "0.5"], "dtp compare"
    )
    assert overrides == ["--config.beta", "0.5"]


def test_the_last_of_an_override_holds(place):
    """Of those for all configs, and of a config's own over them."""
    for overrides in (
        ["--config.channels=4,8", "--config.channels=2,2"],
        ["--config.channels", "2,2"],
    ):
        common, own = parse_configs("digits_dtp,digits_dtp[channels=3,5]", overrides)
        assert (common.config["channels"], own.config["channels"]) == ((2, 2), (3, 5))


LONG_NAMES = [
    f"cifar10_small_dtp-beta={beta}-feedback_lr=0.00035,{rate},0.06-noise=0.4,{noise},0.08"
    for beta in (0.1, 0.3, 0.7)
    for rate in (0.004, 0.02)
    for noise in (0.1, 0.2)
]
COMMON = "cifar10_small_dtp-feedback_lr=0.00035,…,0.06-noise=0.4,…,0.08"


@pytest.mark.parametrize("width", [80, 60])
def test_long_names_are_what_sets_them_apart(width):
    """In a line each, with the accuracy, under what all have in common."""
    rows = [a_row(name) for name in LONG_NAMES]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(rows, Screen(console))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    above = "".join(lines[: next(i for i, line in enumerate(lines) if line.startswith("┏"))])
    assert above.replace(" ", "").endswith(f"allconfigs:{COMMON}")
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in lines if line[0] == "│"]
    assert [row[0] for row in cells] == [
        f"beta={beta}-feedback_lr={rate}-noise={noise}"
        for beta in (0.1, 0.3, 0.7)
        for rate in (0.004, 0.02)
        for noise in (0.1, 0.2)
    ]
    assert all("97.78 ± 0.48" in row for row in cells)


def test_long_names_in_files(tmp_path):
    """The Markdown says once what all have in common; the CSV has whole names, which tools look for."""
    config = load_config("digits_dtp").config.to_dict()
    results = [Result(Entry(name, "", (), config), []) for name in LONG_NAMES]
    write_report(results, "dtp compare", tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.count("cifar10_small_dtp") == 1 and f"\nAll configs: `{COMMON}`.\n" in text
    assert "\n| beta=0.7-feedback_lr=0.02-noise=0.2 | ldrl |" in text
    with (tmp_path / "comparison.csv").open(newline="") as file:
        assert [row["config"] for row in csv.DictReader(file)] == LONG_NAMES
