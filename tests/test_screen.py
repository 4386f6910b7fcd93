"""What a run shows, on terminals of 80 columns and on pipes."""

import errno
import io
import math
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import pytest
from launching import TINY, checkpoint_steps, launch, rows
from rich.cells import cell_len
from rich.console import Console

from dtp_jax import output
from dtp_jax.configs import cifar10_dtp, default, digits_backprop, digits_dtp
from dtp_jax.parallel.mesh import make_mesh
from dtp_jax.run import config, live, screen
from dtp_jax.run.program import Evaluation

pytest_plugins = ["run_fixtures"]

SUMMARY = {
    "test_accuracy": 0.98765,
    "test_top5_accuracy": 1.0,
    "val_accuracy": None,
    "steps": 390,
    "wall_seconds": 3725.4,
    "images_per_second": 1234.5,
}


def terminal(width=80):
    """A screen on a terminal without colours."""
    return screen.Screen(
        Console(
            file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False
        )
    )


def pipe():
    """A screen on a pipe."""
    return screen.Screen(Console(file=io.StringIO(), highlight=False))


def shown(on):
    return on.console.file.getvalue()


def kept(on):
    """What stays on a terminal: without control sequences and the lines that moved."""
    lines, text = [""], shown(on)
    for part in re.findall(r"\x1b\[[?0-9]*[A-Za-z]|[^\x1b\n\r]+|\n", text):
        if part == "\x1b[2K":
            lines[-1] = ""
        elif part == "\x1b[1A":
            lines.pop()
        elif part == "\n":
            lines.append("")
        elif not part.startswith("\x1b"):
            lines[-1] += part
    return "\n".join(lines)


def moving(on, lines):
    """The part of a terminal that moves, as it would be drawn now."""
    rendered = on.console.render_lines(lines)
    return ["".join(segment.text for segment in line).rstrip() for line in rendered]


def words(text):
    """Everything between spaces and the lines of tables."""
    return re.findall(r"[^\s│┃━─┏┓┗┛┡┩├┤└┘┳╇┼┴]+", text)


def start(on, module, workdir="runs/x", overrides=(), **changes):
    experiment = config.validate({**module.get_config().to_dict(), **changes})
    on.start(experiment, "configs/x.py", list(overrides), "npz, /data/some.npz", workdir)
    return shown(on)


def table_rows(text):
    """The cells of the block table: bars of any kind separate them."""
    lines = (line.replace("┃", "│") for line in text.splitlines())
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in lines
        if line.startswith("│")
    ]


def test_start_up_screen():
    text = start(
        terminal(), digits_dtp, overrides=["--config.seed=3", "--config.epochs=2"], seed=3, epochs=2
    )
    for fact in (
        "configs/x.py",
        "--config.seed=3 --config.epochs=2",
        "ldrl",
        "seed 3",
        "2 epochs",
        "batches of 32",
        "digits: npz, /data/some.npz",
        "1 x" if jax.device_count() == 1 else "8 x",
        "cpu",
        "mesh",
        "runs/x",
        "simple_vgg",
        "input 8x8x1",
    ):
        assert fact in text
    assert "at most" not in text and "at most 7 steps" in start(terminal(), digits_dtp, max_steps=7)
    assert "1 epoch, at most 1 step" in start(pipe(), digits_dtp, epochs=1, max_steps=1)
    assert "1 epochs" not in start(pipe(), digits_dtp, epochs=1)
    # Counted by hand: 3x3 kernels 1 -> 32 -> 64 channels with biases, then 2 * 2 * 64 -> 10; feedback maps
    # have the kernels of the forward ones and a bias for each of their outputs.
    assert table_rows(text) == [
        ["block", "operations", "output", "forward", "feedback"],
        ["conv_0", "conv 3x3, elu, max-pool 2/2", "4x4x32", "320", "-"],
        ["conv_1", "conv 3x3, elu, max-pool 2/2", "2x2x64", "18,496", f"{9 * 32 * 64 + 32:,}"],
        ["fc", "flatten, linear", "10", "2,570", f"{256 * 10 + 256:,}"],
        ["parameters", "", "", "21,386", f"{9 * 32 * 64 + 32 + 256 * 10 + 256:,}"],
    ]


@pytest.mark.parametrize("module, maps", [(digits_dtp, "2"), (digits_backprop, "no")])
def test_groups_of_devices_that_gain_nothing_are_named(module, maps):
    experiment = config.validate(module.get_config().to_dict())
    said = screen._devices(experiment, make_mesh(1, 4))
    assert f"1 data-parallel x 4 layer-parallel ({maps} feedback maps to divide: further" in said
    assert "further" not in screen._devices(experiment, make_mesh(4, 1))


def test_backprop_has_no_feedback():
    rows = table_rows(start(terminal(), digits_backprop))
    assert [row[-1] for row in rows[1:]] == ["-"] * 4


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_everything_fits(width):
    """The largest network, long paths, and an epoch with large numbers."""
    on = terminal(width)
    start(
        on,
        cifar10_dtp,
        workdir="/home/some/body/" + "x" * 50,
        overrides=["--config.feedback_iterations=7"] * 3,
    )
    with on.training(90, 351) as bar:
        bar.update(
            90,
            350,
            rate=98765.4,
            loss=2.345,
            accuracy=0.1234,
            left=7325.0,
            feedback_loss={f"conv_{i}": -1.23456e-05 * i for i in range(1, 9)},
        )
        live = moving(on, bar.lines)
        bar.end_epoch(90, Evaluation(1.23456, 0.45678, 0.9))
    on.summary({**SUMMARY, "val_accuracy": 0.5}, "runs/x")
    for line in [*kept(on).splitlines(), *live]:
        assert cell_len(line.rstrip()) <= width, line
    assert len(live) == 3
    if width < 80:
        return
    for fact in (
        "epoch 90/90",
        "350/351",
        "98765 images/s",
        "2:02:05 left",
        "loss 2.345",
        "accuracy 0.123",
        "feedback loss conv_1 -1.2e-05 conv_2 -2.5e-05",
    ):
        assert fact in "\n".join(live)
    assert "epoch 90/90  98765 images/s  loss 2.345 acc 0.123  val 1.235 acc 0.457\n" in kept(on)


NETWORKS = {
    "simple_vgg": {},
    "lenet": {},
    "meulemans": {},
    "mlp": {},
    "resnet18": {"batch_norm": True},
    "resnet34": {"batch_norm": True, "split_stages": True},
}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_word_is_broken(network, width):
    """The words of a terminal are those of a pipe, in whole columns of the table."""
    experiment = dict(network=network, **NETWORKS[network], feedback_iterations=(3,), noise=(0.1,))
    experiment |= dict(feedback_lr=(0.1,), augment=False, activation="elu", bias=True)
    on, whole = terminal(width), pipe()
    for one in (on, whole):
        start(one, default, overrides=["--config.channels=8,16", "--config.seed=1"], **experiment)
        one.summary(SUMMARY, "/some/where/runs/x")
    for line in shown(on).splitlines():
        assert cell_len(line) <= width, line
    rows, all_rows = table_rows(shown(on)), table_rows(shown(whole))
    columns = [all_rows[0].index(name) for name in rows[0]]
    assert rows == [[row[i] for i in columns] for row in all_rows]

    def facts(text):
        return [word for line in text.splitlines() if line[:1] not in "│┃" for word in words(line)]

    assert facts(shown(on)) == facts(shown(whole))


@pytest.mark.parametrize(
    "width, headings",
    [
        (40, ["block", "forward", "feedback"]),
        (60, ["block", "output", "forward", "feedback"]),
        (80, ["block", "output", "forward", "feedback"]),
        (120, ["block", "operations", "output", "forward", "feedback"]),
    ],
)
def test_the_table_leaves_out_columns(width, headings):
    on = terminal(width)
    start(on, default, network="resnet34", split_stages=True, batch_norm=True, augment=False)
    rows = table_rows(shown(on))
    assert rows[0] == headings and rows[-2][0] == "fc" and rows[-2][-1] == "5,632"
    assert [row[0] for row in rows[1:6]] == [
        "layer_0",
        *(f"layer_1_{i}" for i in range(3)),
        "layer_2_0",
    ]


@pytest.mark.parametrize(
    "text, width, lines",
    [
        ("a word or two", 6, ["a word", "or two"]),
        ("a  word", 7, ["a  word"]),
        ("one\ntwo three", 5, ["one", "two", "three"]),
        ("in /tmp/some/folder-of_x", 12, ["in", "/tmp/some/", "folder-of_x"]),
        ("digits_dtp[beta=0.5]", 12, ["digits_dtp", "[beta=0.5]"]),
        ("noise=0.4,0.2", 10, ["noise=0.4,", "0.2"]),
        ("97.5 ± 0.2 %", 11, ["97.5 ± 0.2", "%"]),
        ("97.5\xa0±\xa00.2 %", 9, ["97.5\xa0±\xa00.", "2 %"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("字字字 x", 4, ["字字", "字 x"]),
        ("", 3, [""]),
        ("a word", math.inf, ["a word"]),
    ],
)
def test_wrapping(text, width, lines):
    assert screen.wrapped(text, width) == lines


def test_tables_fold_only_what_cannot_be_shown_otherwise():
    columns = {"config": "left", "rule": "left", "accuracy, %": "right"}
    rows = [["digits_dtp-beta=0.5", "ldrl", "97.50 (1 diverged)"], ["x", "dtp", "1"]]

    def at(width):
        on = terminal(width)
        on.table("a title", columns, rows, drop=["rule"])
        lines = shown(on).splitlines()
        assert lines[0] == "a title" and {len(line) for line in lines[1:]} == {len(lines[1])}
        return len(lines[1]), table_rows(shown(on))

    assert at(51) == (51, [["config", "rule", "accuracy, %"], *rows])
    without = [["config", "accuracy, %"], [rows[0][0], rows[0][2]], ["x", "1"]]
    assert at(50) == (44, without)
    assert at(44) == (44, without)
    assert at(43)[1][1:] == [["digits_dtp-beta=0.5", "97.50 (1"], ["", "diverged)"], ["x", "1"]]
    assert at(30)[1][2:] == [["digits_dtp-", "97.50 (1"], ["beta=0.5", "diverged)"], ["x", "1"]]
    assert at(20) == (20, at(20)[1])
    piped = pipe()
    piped.table("a title", columns, rows * 30, drop=["rule"])
    assert table_rows(shown(piped))[:3] == [["config", "rule", "accuracy, %"], *rows]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_errors_and_warnings_end_at_spaces(width):
    text = "step 3: the loss is not finite; suspect: block fc, config.forward_lr 1e+09; in /tmp/x/y"
    on = terminal(width)
    on.errors = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    on.error(text)
    on.warn(text)
    lines = on.errors.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width and len(lines) > 2
    assert " ".join(lines) == f"error: {text} warning: {text}"
    assert shown(on) == ""


def test_errors_and_warnings_are_lines_on_a_pipe(capsys):
    on = pipe()
    on.error("x " * 99 + "[bold]:smile:")
    on.warn("y " * 99 + "!")
    assert capsys.readouterr() == ("", f"error: {'x ' * 99}[bold]:smile:\nwarning: {'y ' * 99}!\n")


def epochs(on, total, **given):
    """The lines that stay of the epochs 9 and 10, the second with larger numbers."""
    with on.training(total, 39) as bar:
        for epoch, rate, loss in ((9, 852.4, 2.3012), (10, 21852.4, 12.3456)):
            for only, validation in given.get("passes", [("", Evaluation(loss, 0.094, 0.5))]):
                bar.update(
                    epoch,
                    39,
                    rate=rate,
                    loss=loss,
                    accuracy=0.1041,
                    left=1.0,
                    feedback_loss={},
                    only=only,
                )
                bar.end_epoch(epoch, validation, angle=given.get("angle", ("fc", 27.3)))
    return [line.rstrip() for line in kept(on).splitlines()]


def test_lines_of_epochs_align():
    assert epochs(terminal(), 15) == [
        "epoch  9/15    852 images/s  loss 2.301 acc 0.104  val 2.301 acc 0.094  fc 27°",
        "epoch 10/15  21852 images/s  loss 12.35 acc 0.104  val 12.35 acc 0.094  fc 27°",
    ]
    assert epochs(pipe(), 100, passes=[("", None)], angle=None) == [
        "epoch   9/100    852 images/s  loss 2.301 acc 0.104",
        "epoch  10/100  21852 images/s  loss 12.35 acc 0.104",
    ]
    passes = [("feedback", None), ("forward", Evaluation(1.5, 0.5, 0.5)), ("", None)]
    assert epochs(terminal(), 15, passes=passes)[:3] == [
        "epoch  9/15  feedback only   loss 2.301 acc 0.104                       fc 27°",
        "epoch  9/15  forward only    loss 2.301 acc 0.104  val 1.500 acc 0.500  fc 27°",
        "epoch  9/15    852 images/s  loss 2.301 acc 0.104  fc 27°",
    ]


def test_lines_of_epochs_leave_out_what_does_not_fit():
    lines = {width: epochs(terminal(width), 15)[0] for width in (78, 77, 61, 53)}
    assert lines == {
        78: "epoch  9/15    852 images/s  loss 2.301 acc 0.104  val 2.301 acc 0.094  fc 27°",
        77: "epoch  9/15  loss 2.301 acc 0.104  val 2.301 acc 0.094  fc 27°",
        61: "epoch  9/15  loss 2.301 acc 0.104  val 2.301 acc 0.094",
        53: "epoch  9/15  val 2.301 acc 0.094",
    }
    assert len(lines[77]) == 62 and len(lines[61]) == 54


@pytest.mark.parametrize(
    "number, text",
    [(0.0, "0.000"), (9.9994, "9.999"), (9.9996, "10.00"), (123.45, "123.5"), (12345.6, "12346")],
)
def test_five_characters(number, text):
    assert live._five(number) == text


@pytest.mark.parametrize(
    "number, text", [(3, "    3"), (99999.4, "99999"), (99999.6, " 100k"), (1.5e6, "1500k")]
)
def test_rates(number, text):
    assert live._short_rate(number) == text


def test_lines_with_a_head():
    """Which of several runs it is, before everything that moves."""
    on = terminal()
    on.head = "[2/6] digits_dtp, seed 1"
    losses = {"conv_1": 0.1234, "fc": 0.03456}
    with on.training(15, 39) as bar:
        assert moving(on, bar.lines) == ["[2/6] digits_dtp, seed 1  the first step"]
        bar.update(
            3, 13, rate=1852.0, loss=2.3, accuracy=0.1, left=61.0, feedback_loss=losses, only=""
        )
        first, *others = moving(on, bar.lines)
        assert re.fullmatch(
            r"\[2/6\] digits_dtp, seed 1  epoch  3/15 [━╸╺ ]+ 13/39  1852 images/s  1:01 left",
            first,
        )
        assert len(first) == 80  # the bar has what is left
        assert others == ["loss 2.300  accuracy 0.100", "feedback loss conv_1 0.12 fc 0.035"]
        on.head = bar.lines.line.head = "[12/60] cifar10_dtp-noise=0.4,0.4,0.2,0.2,0.08, seed 1"
        bar.update(3, 13, rate=1852.0, loss=2.3, accuracy=0.1, left=61.0, feedback_loss=losses)
        (line, *_) = moving(on, bar.lines)
        assert line == (
            "[12/60] cifar10_dtp-noise=0.4,0…, seed 1  epoch  3/15  13/39  1852 images/s …"
        )
    with on.task("reading digits"):
        pass
    assert " reading digits  0:00" in shown(on) and kept(on) == ""


def test_a_task_counts():
    on = terminal()
    with on.task("looking") as progress:
        assert progress("reading", 5, 10) is None
        assert progress("reading", 5, None) is None
    assert kept(on) == ""
    line = live.Line("", "looking")
    line.after = lambda: ["0:05"]
    assert moving(on, line) == ["looking  0:05"]
    line.show("reading", 5, 10)
    (text,) = moving(on, line)
    assert text == f"reading {'━' * 12}{' ' * 12} 0:05"
    narrow = terminal(12)
    assert moving(narrow, line) == ["reading …"]


def test_a_screen_speaks_before_jax_is_there():
    code = (
        "import sys; from dtp_jax.run.screen import Screen\n"
        "with Screen().task('starting JAX'): assert 'jax' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "starting JAX\n", "")


def test_a_file_of_errors_gets_them_also_while_bars_move(capsys):
    """stdout is a terminal, stderr is none: rich would take both for its own."""
    on = terminal()
    with on.task("reading"):
        on.warn("careful")
        print("in between", file=sys.stderr)
    assert capsys.readouterr().err == "warning: careful\nin between\n"
    assert "careful" not in shown(on)


def test_a_warning_stands_above_what_moves():
    """Where both are on one terminal: on stderr it would break into the line that is drawn anew."""
    on = terminal()
    on.errors = terminal().console
    with on.task("reading"):
        on.warn("careful")
    assert "warning: careful\n" in shown(on)
    on.warn("later")
    assert "later" not in shown(on) and "warning: later" in on.errors.file.getvalue()


def test_names_with_brackets_are_shown():
    text = start(
        terminal(), digits_dtp, workdir="runs/[bold]x[/y]", overrides=["--config.data_dir=[red]"]
    )
    assert "runs/[bold]x[/y]" in text and "--config.data_dir=[red]" in text
    for on in (terminal(), pipe()):
        on.note("[bold]note")
        on.summary(SUMMARY, "runs/[bold]x[/y]")
        assert "[bold]note" in shown(on) and "runs/[bold]x[/y]" in shown(on)


def test_summary():
    on = pipe()
    on.summary(SUMMARY, "runs/x")
    lines = [line.split(maxsplit=1) for line in shown(on).splitlines()]
    assert [(name, value.strip()) for name, value in lines] == [
        ("test_accuracy", "0.9877"),
        ("test_top5_accuracy", "1.0000"),
        ("steps", "390"),
        ("time", "1:02:05, 1234 images/s"),
        ("workdir", "runs/x"),
    ]


def test_a_longer_run_says_so():
    text = "at step 585: 20 epochs instead of 15, eta_min after epoch 14"
    on = pipe()
    experiment = config.validate(digits_dtp.get_config().to_dict())
    on.start(experiment, "configs/x.py", [], "source", "runs/x", None, extended=text)
    assert f"\nextended  {text}\n" in shown(on)
    assert "extended" not in start(pipe(), digits_dtp)
    for times, said in (
        ([(585, 15, 20)], "at step 585 from 15 to 20 epochs"),
        (
            [(585, 15, 20), (780, 20, 30)],
            "at step 585 from 15 to 20 epochs; at step 780 from 20 to 30 epochs",
        ),
    ):
        on = pipe()
        extended = [dict(zip(("at_step", "from_epochs", "to_epochs"), one)) for one in times]
        on.summary({**SUMMARY, "extended": extended}, "runs/x")
        assert re.search(rf"^extended +{re.escape(said)}$", shown(on), re.MULTILINE)
    on = pipe()
    on.summary({**SUMMARY, "extended": []}, "runs/x")
    assert "extended" not in shown(on)


def test_plain_lines_on_a_pipe(monkeypatch):
    """No control characters, whole lines, and not more often than every ten seconds."""
    clock = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: clock[0])
    on = pipe()
    with on.task("reading") as progress:
        assert progress is None
    with on.training(2, 39) as bar:
        for step in range(1, 31):
            clock[0] += 1
            bar.update(
                1, step, rate=100.0, loss=2.0, accuracy=0.5, left=90.0, feedback_loss={"fc": 0.25}
            )
        bar.end_epoch(1, None)
    on.note("x" * 200)
    assert shown(on).splitlines() == [
        "reading",
        *(
            f"epoch 1/2  step {step}/39  100 images/s  1:30 left  loss 2.000  accuracy 0.500  feedback loss fc 0.25"
            for step in (10, 20, 30)
        ),
        "epoch 1/2    100 images/s  loss 2.000 acc 0.500",
        "x" * 200,
    ]


def test_a_terminal_is_left_as_it_was():
    """The bar hides the cursor; also who leaves at once shows it again."""
    on = terminal()
    with on.training(2, 39) as bar:
        bar.update(1, 3, rate=1.0, loss=1.0, accuracy=1.0, left=1.0, feedback_loss={})
        assert shown(on).rfind("\x1b[?25l") > shown(on).rfind("\x1b[?25h")
        on.abandon()
        assert shown(on).rfind("\x1b[?25h") > shown(on).rfind("\x1b[?25l")
    with on.task("reading") as progress:
        progress("decoding", 5, 10)
    assert shown(on).rfind("\x1b[?25h") > shown(on).rfind("\x1b[?25l")
    piped = pipe()
    piped.abandon()
    assert shown(piped) == ""


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3600, "1:00:00")]
)
def test_duration(seconds, text):
    assert screen.duration(seconds) == text


def test_a_silent_screen_says_what_goes_wrong(capsys):
    on = screen.SilentScreen()
    with on.task("reading") as progress, on.training(2, 3) as bar:
        assert progress is None
        bar.end_epoch(1, SimpleNamespace(loss=1.0, accuracy=1.0), ("fc", 27.0))
        on.warn("careful")
        on.error("too late")
    assert capsys.readouterr() == ("", "warning: careful\nerror: too late\n")


class Failing(io.StringIO):
    """A terminal, pipe or file that refuses everything while it has an error."""

    def __init__(self, error, is_terminal):
        super().__init__()
        self.error, self.is_terminal = error, is_terminal

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)

    def flush(self):
        if self.error is not None:
            raise self.error

    def isatty(self):
        return self.is_terminal


def everything(on):
    """Shows all that there is."""
    experiment = config.validate(digits_dtp.get_config().to_dict())
    on.start(experiment, "configs/x.py", [], "source", "runs/\N{KATAKANA LETTER TE}/\udcff")
    with on.task("reading caf\N{LATIN SMALL LETTER E WITH ACUTE}"):
        time.sleep(0.15)  # it is drawn in a thread of its own
    on.head = "\N{KATAKANA LETTER TE}" * 50
    with on.training(15, 39) as bar:
        bar.update(1, 3, rate=1.0, loss=1.0, accuracy=1.0, left=1.0, feedback_loss={"fc": 1.0})
        time.sleep(0.15)
        bar.end_epoch(1, Evaluation(1.0, 0.5, 0.5), ("fc", 27.0))
    on.summary(SUMMARY, "runs/\N{KATAKANA LETTER TE}")
    on.table("a title", {"config": "left"}, [["1.0 \N{PLUS-MINUS SIGN} 0.5"]], drop=())
    on.warn("\udcff")
    on.error("too late")
    on.abandon()


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize(
    "error",
    [OSError(code, "") for code in (errno.EIO, errno.EPIPE, errno.ENOSPC, errno.EBADF)]
    + [ValueError("I/O operation on closed file")],
    ids=str,
)
def test_output_that_fails_is_no_reason_to_stop(monkeypatch, error, is_terminal):
    streams = [Failing(error, is_terminal) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    threads = []
    monkeypatch.setattr(threading, "excepthook", threads.append)
    on = screen.Screen()
    everything(on)
    for stream in streams:
        stream.error = None
    on.note("there is room again")
    on.warn("here as well")
    assert [stream.getvalue() for stream in streams] == [
        "there is room again\n",
        "warning: here as well\n",
    ]
    assert not threads
    on = screen.Screen(Console(file=Failing(error, is_terminal)))
    on.note("nor where somebody else has chosen the file")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_every_encoding_will_do(monkeypatch, encoding, is_terminal):
    """What it lacks is spelt out, and what moves and stands in tables is of signs that it has."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    for stream, name in zip(streams, ("stdout", "stderr")):
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("COLUMNS", "80")
    everything(screen.Screen())
    texts = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    out, err = (re.sub(r"\x1b\[[\d;]*m", "", text) for text in texts)
    assert ("fc 27°" if encoding != "ascii" else "fc 27 deg") in out
    assert ("runs/テ/" if encoding == "utf-8" else "runs/\\u30c6/") in out
    assert "\\udcff" in out and "warning: \\udcff" in err
    assert ("┃ block" if encoding == "utf-8" else "| block") in out
    assert ("1.0 +- 0.5" if encoding == "ascii" else "1.0 ± 0.5") in out
    if is_terminal:
        moved = re.findall(r"(\S) reading caf", out)
        assert moved and set(moved) <= set("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if encoding == "utf-8" else "-\\|/")


STEADY = """
import os, sys
from dtp_jax.output import steady_streams

with steady_streams():
    print("before")
    sys.stdin and sys.stdin.readline()
    for _ in range(9):
        print("x" * 9999)
        print("y", file=sys.stderr, flush=True)
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    sys.exit(3 if min(descriptors) > 2 else 4)
"""


@pytest.mark.parametrize("streams", [">/dev/full", ">/dev/full 2>/dev/full", "<&- >&- 2>&-", "| :"])
def test_the_end_of_a_process_whose_output_fails(streams):
    """Its exit code is its own, for nothing is left to write; no file is taken for a stream."""
    script = f'set -o pipefail; "$@" {streams}'
    found = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-c", STEADY],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == 3
    assert found.stdout == "" and set(found.stderr.split("\n")) <= {"", "y"}


def test_what_others_print_keeps_its_place(tmp_path):
    with (tmp_path / "log").open("w", encoding="latin-1") as stream:
        stream.write("first ")
        on = screen.Screen(Console(file=stream))
        on.note("second…")
        assert output.steady(on.console.file) is on.console.file
        stream.write("third")
    assert (tmp_path / "log").read_bytes() == b"first second~\nthird"


def test_what_is_due_is_saved_before_anything_is_shown(place, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("nothing can be shown")

    monkeypatch.setattr("dtp_jax.run.live.Bar.update", broken)
    with pytest.raises(RuntimeError, match="nothing can be shown"):
        launch("--workdir=w", *TINY, "--config.checkpoint_every=1")
    assert checkpoint_steps(place / "w") == [rows(place / "w")[-1]["step"]] == [1]
