"""What a run shows, on terminals of 80 columns and on pipes, and in TensorBoard."""

import io
import re
import struct
import time

import jax
import pytest
from rich.cells import cell_len
from rich.console import Console, Group
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from configs import cifar10_dtp, digits_backprop, digits_dtp
from dtp_jax.parallel.mesh import make_mesh
from dtp_jax.run import config, screen
from dtp_jax.run.program import Evaluation

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


@pytest.mark.parametrize("width", [80, 120])
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
        live = "\n".join(
            "".join(segment.text for segment in line)
            for line in on.console.render_lines(Group(*bar.progress.get_renderables()))
        )
        bar.end_epoch(90, Evaluation(1.23456, 0.45678, 0.9))
    on.summary({**SUMMARY, "val_accuracy": 0.5}, "runs/x")
    for line in re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", shown(on) + live).splitlines():
        assert cell_len(line.rstrip()) <= width, line
    for fact in (
        "epoch 90/90",
        "350/351",
        "98765 images/s",
        "2:02:05 left",
        "loss 2.345",
        "accuracy 0.123",
        "feedback loss -1.2e-05 -2.5e-05",
    ):
        assert fact in live
    assert "epoch 90/90  98765 images/s  loss 2.345 acc 0.123  val loss 1.235 acc 0.457\n" in shown(
        on
    )


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
            f"epoch 1/2  step {step}/39  100 images/s  1:30 left  loss 2.000  accuracy 0.500  feedback loss 0.25"
            for step in (10, 20, 30)
        ),
        "epoch 1/2  100 images/s  loss 2.000 acc 0.500",
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


def events(folder):
    """What TensorBoard reads: length, masked checksums and events; {tag: {step: value}}."""

    def masked(data):
        value = crc32c(data)
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    found, purged = {}, []
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, at = file.read_bytes(), 0
        while at < len(content):
            header = content[at : at + 8]
            length, check = struct.unpack("<QI", content[at : at + 12])
            data = content[at + 12 : at + 12 + length]
            assert check == masked(header)
            assert struct.unpack("<I", content[at + 12 + length : at + 16 + length])[0] == masked(
                data
            )
            event, at = Event.FromString(data), at + 16 + length
            if event.HasField("session_log"):
                purged.append(event.step)
                found = {
                    tag: {s: v for s, v in values.items() if s < event.step}
                    for tag, values in found.items()
                }
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found, purged


def wait_until(true, seconds=30):
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_tensorboard(tmp_path):
    on = pipe()
    with on.tensorboard(tmp_path, 0) as board:
        board.write({"step": 1, "epoch": 1, "split": "train", "loss": 2.5, "feedback_loss/fc": 0.5})
        board.write(
            {
                "step": 2,
                "epoch": 1,
                "split": "train",
                "loss": 1.5,
                "angle/fc": 80.0,
                "distance/fc": 1.25,
            }
        )
        board.write({"step": 2, "epoch": 1, "split": "val", "loss": 1.25, "accuracy": 0.75})
        wait_until(lambda: board.flush() or events(tmp_path)[0].get("val/accuracy") == {2: 0.75})
    with on.tensorboard(tmp_path, 1) as board:  # going on from step 1: step 2 comes again
        board.write({"step": 2, "epoch": 1, "split": "train", "loss": 1.0})
    found, purged = events(tmp_path)
    assert purged == [2]
    assert {tag: values for tag, values in found.items() if values} == {
        "train/loss": {1: 2.5, 2: 1.0},
        "feedback/loss/fc": {1: 0.5},
    }
