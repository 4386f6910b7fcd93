"""TensorBoard's files: names, config, pictures, what a resumed run purges, disks that refuse."""

import functools
import json
import os
import re
import struct

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from dtp_jax.plots import style
from dtp_jax.run.files import DiskError
from dtp_jax.run.trackers import TRACKERS, TrackedRun
from dtp_jax.run.trackers.tracking import Tracking


def tracked(folder, step=0, config=None, warnings=None):
    """TensorBoard alone, on a run in this folder."""
    warn = (lambda text: pytest.fail(text)) if warnings is None else warnings.append
    run = TrackedRun(folder, config or {"seed": 0}, step, print, warn)
    return Tracking({"tensorboard": TRACKERS["tensorboard"]}, run)


def events(workdir):
    """What TensorBoard reads: length, masked checksums and events; {tag: {step: value}}."""

    def masked(data):
        value = crc32c(data)
        return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF

    found, purged = {}, []
    files = (workdir / "tensorboard").iterdir()
    for file in sorted(files, key=lambda path: path.stat().st_mtime_ns):
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
                what = value.simple_value
                if value.HasField("tensor"):
                    (what,) = (text.decode() for text in value.tensor.string_val)
                if value.HasField("image"):
                    what = value.image
                found.setdefault(value.tag, {})[event.step] = what
    return found, purged


def scalars(workdir):
    found, purged = events(workdir)
    return {k: v for k, v in found.items() if v and k != "config/text_summary"}, purged


def test_curves_and_their_purge(tmp_path):
    with tracked(tmp_path) as board:
        board.write({"step": 1, "epoch": 1, "split": "train", "loss": 2.5, "feedback_loss/fc": 0.5})
        more = {"loss": 1.5, "angle/fc": 80.0, "distance/fc": 1.25}
        board.write({"step": 2, "epoch": 1, "split": "train", **more})
        board.write({"step": 2, "epoch": 1, "split": "val", "loss": 1.25, "accuracy": 0.75})
        board.flush()
        assert scalars(tmp_path)[0]["val/accuracy"] == {2: 0.75}
    with tracked(tmp_path, 1) as board:  # going on from step 1: step 2 comes again
        board.write({"step": 2, "epoch": 1, "split": "train", "loss": 1.0})
    assert scalars(tmp_path) == (
        {"train/loss": {1: 2.5, 2: 1.0}, "train/feedback_loss/fc": {1: 0.5}},
        [2],
    )


def test_the_names_are_those_of_the_metrics(tmp_path):
    """Whatever they are, as far as they have numbers."""
    numbers = {
        "loss": 2.5,
        "feedback_loss/conv_1": 0.5,
        "forward_loss/conv_1": 0.25,
        "angle/conv_1": 80.0,
        "forward_lr": np.float32(0.125),
        "feedback_lr/fc": 2,
        "images_per_second": 1852.0,
        "anything/else": np.int64(3),
    }
    others = {"note": "text", "nothing": None, "nested": {"a": 1}, "list": [1.0], "yes": True}
    others |= {"nan": np.nan, "inf": np.inf}
    with tracked(tmp_path) as board:
        board.write({"step": 7, "epoch": 1, "split": "train", **numbers, **others})
    assert scalars(tmp_path)[0] == {f"train/{key}": {7: value} for key, value in numbers.items()}


def test_the_config(tmp_path):
    """A table that Markdown reads; a run that goes on adds its own."""
    config = {"seed": 0, "noise": (0.4, 0.2), "data_dir": "a|b", "bias": True, "hidden": ()}
    with tracked(tmp_path, 0, config):
        pass
    with tracked(tmp_path, 39, {"seed": 1}):
        pass
    found = events(tmp_path)[0]["config/text_summary"]
    assert sorted(found) == [0, 39] and "| seed | `1` |" in found[39]
    heading, rule, *lines = found[0].splitlines()
    assert (heading, rule) == ("| field | value |", "| --- | --- |")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    read = {name.strip(): json.loads(v.strip(" `").replace("\\|", "|")) for name, v in cells}
    assert read == json.loads(json.dumps(config))


def test_pictures(tmp_path):
    """As they are, byte for byte, with the size that their header says."""
    figure, _ = style.subplots(size=(2, 1))
    file = tmp_path / "figures" / "feedback_0001000.png"
    style.save(figure, file)
    (tmp_path / "other_0001000.png").touch()
    with tracked(tmp_path) as board:
        board.picture(file, 1000)
        board.picture(tmp_path / "other_0001000.png", 1000)
    assert sorted(events(tmp_path)[0]) == ["config/text_summary", "figures/feedback"]
    image = events(tmp_path)[0]["figures/feedback"][1000]
    assert image.encoded_image_string == file.read_bytes()
    assert (image.width, image.height) == (2 * style.DPI, style.DPI)


def test_a_run_killed_before_its_first_checkpoint_has_its_curves_once(tmp_path):
    with tracked(tmp_path) as board:
        for step in (1, 2, 3):
            board.write({"step": step, "epoch": 1, "split": "train", "loss": 2.0})
    (older,) = (tmp_path / "tensorboard").iterdir()
    older.rename(older.with_name(f"{older.name}.older"))
    os.utime(older.with_name(f"{older.name}.older"), (1, 1))
    with tracked(tmp_path) as board:
        board.write({"step": 1, "epoch": 1, "split": "train", "loss": 1.0})
    assert scalars(tmp_path) == ({"train/loss": {1: 1.0}}, [0])


def write_much(board):
    """More than any buffer or queue holds."""
    for step in range(1000):
        board.write({"step": step, "epoch": 1, "split": "train", "loss": 1.0, "accuracy": 0.5})
    board.flush()


def test_a_run_goes_on_without_its_disk(tmp_path, monkeypatch):
    """It is full, from the start or later, its folder is a file, or is removed: one warning."""
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "tensorboard").touch()
    warnings = []
    with tracked(tmp_path / "file", warnings=warnings) as board:
        write_much(board)
    (warning,) = warnings
    assert warning == (
        "the tracker tensorboard fails, and the run goes on without it: its files cannot be written to "
        f"{tmp_path / 'file' / 'tensorboard'} (File exists)"
    )
    warnings.clear()
    with tracked(tmp_path / "removed", warnings=warnings) as board:
        (file,) = (tmp_path / "removed" / "tensorboard").iterdir()
        file.unlink()
        write_much(board)
    assert len(warnings) == 1 and "(it has been removed)" in warnings[0]
    full = functools.partial(open, "/dev/full", "wb")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full())
    for write in (write_much, lambda board: None):
        warnings.clear()
        with tracked(tmp_path / "full", warnings=warnings) as board:
            write(board)
        assert len(warnings) == 1 and "(No space left on device)" in warnings[0]


def test_nothing_is_said_where_the_disk_of_the_run_refuses(tmp_path):
    """The same disk: why the run ends says it all."""
    warnings = []
    with pytest.raises(DiskError), tracked(tmp_path, warnings=warnings):
        (file,) = (tmp_path / "tensorboard").iterdir()
        file.unlink()
        raise DiskError("full")
    assert not warnings
