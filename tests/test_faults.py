"""Accidents of every day: what a run says, how it ends, and that nothing is lost."""

import contextlib
import json
import os
import shutil
import sys
from types import SimpleNamespace

import data_files
import jax
import numpy as np
import pytest
from helpers import slow
from launching import (
    TINY,
    assert_same_run,
    checkpoint_steps,
    launch,
    rows,
    summary,
    tree,
)

from dtp_jax.data import Split, Splits
from dtp_jax.export import __main__ as export
from dtp_jax.run import assemble, cli, loop, workdir
from dtp_jax.run.checkpoints import CHECKSUMS, Checkpoints, PlainName, checksums, damage
from dtp_jax.run.files import DiskError
from dtp_jax.run.owner import Ownership
from dtp_jax.run.results import load_run

pytest_plugins = ["run_fixtures"]

FULL = "No space left on device"


def at_call(monkeypatch, owner, name, call, before):
    """`before(*its arguments)` runs in the call number `call` of owner.name."""
    real, calls = getattr(owner, name), []

    def wrapped(*given, **options):
        calls.append(given)
        if len(calls) == call:
            before(*given)
        return real(*given, **options)

    monkeypatch.setattr(owner, name, wrapped)


def fail(*_):
    raise OSError(28, FULL)


def fail_as_tensorstore_does(*_):
    raise ValueError(
        'RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database at local file "/x/": Failed to '
        f"write 632161 bytes to file 15: {FULL} [tensorstore_spec='a: 1'] [os_error_code='28']\nmore"
    )


@pytest.mark.parametrize(
    "owner, name, call, problem",
    [
        slow(workdir.Workdir, "rewind_metrics", 1, None),
        (Checkpoints, "_write", 3, fail_as_tensorstore_does),
        slow(Checkpoints, "_require_same", 3, fail),
        slow("file", "metrics.jsonl", 6, fail),
        slow("file", ".summary.json.", 1, fail),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_full_disk_is_one_line(place, monkeypatch, reference, owner, name, call, problem):
    folder, args = reference
    with monkeypatch.context() as patch:
        if owner == "file":
            full_after(patch, name, call)
        elif problem is not None:
            at_call(patch, owner, name, call, problem)
        else:
            full_after(patch, "metrics.jsonl", 2)
        found = launch("--workdir=w", *args)
    lines = found.err.splitlines()
    assert found.code == cli.EXIT_DISK and len(lines) == 1, found.err
    assert FULL in lines[0] and "the same command goes on from" in lines[0]
    checkpoints = place / "w/checkpoints"
    # One that was not read back has no checksums: it counts as damaged.
    good = [n for n in checkpoint_steps(place / "w") if (checkpoints / str(n) / CHECKSUMS).exists()]
    newest = f"w/checkpoints/{good[-1]}" if good else "the beginning"
    assert lines[0].endswith(f"goes on from {newest}")
    assert not (place / "w" / "owner.json").exists()
    assert launch("--workdir=w", *args).code == 0
    assert_same_run(place / "w", folder)


@pytest.mark.parametrize("refuses", [False, True])
def test_late_news_of_a_disk_that_refuses_is_not_shown(tmp_path, monkeypatch, refuses):
    """tensorstore's threads may have some when orbax has given up; it goes past every `except`."""
    told = []
    hook = lambda unraisable: told.append(str(unraisable.exc_value))
    monkeypatch.setattr(sys, "unraisablehook", hook)
    ended = pytest.raises(DiskError, match=FULL) if refuses else contextlib.nullcontext()
    with ended, Checkpoints(tmp_path, 1)._saving(1):
        if refuses:
            fail_as_tensorstore_does()
    assert (sys.unraisablehook is hook) is not refuses
    for error in (RuntimeError("Event loop is closed"), RuntimeError("other"), ValueError("more")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert told == ([] if refuses else ["Event loop is closed"]) + ["other", "more"]


def full_after(patch, name, call):
    """Files of this name cannot be opened to be written from this call on."""
    real, calls = workdir.Path.open, []

    def opened(path, mode="r", *args, **options):
        if path.name.startswith(name) and mode != "r":
            calls.append(path)
            if len(calls) >= call:
                fail()
        return real(path, mode, *args, **options)

    patch.setattr(workdir.Path, "open", opened)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "only an empty folder"])
def test_a_workdir_that_is_removed_stops_the_run(place, monkeypatch, again):
    def remove(*_):
        shutil.move(place / "w", place / "elsewhere")
        if again:
            (place / "w").mkdir()

    at_call(monkeypatch, loop.Run, "_train_some", 3, remove)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    found = launch("--workdir=w", *TINY, "--config.epochs=1")
    assert found.code == cli.EXIT_DISK and len(found.err.splitlines()) == 1
    assert "w is gone: it was removed, moved or unmounted" in found.err
    assert not (place / "w").exists() or list((place / "w").iterdir()) == []


@pytest.mark.parametrize("name", [slow("lr=[0.1]"), "a*b?{x,y}"])
def test_a_name_that_others_take_for_a_pattern(place, monkeypatch, reference, name):
    """Beside it lies what the pattern would find."""
    folder, args = reference
    for neighbour in ("lr=0", "a-b-x"):
        shutil.copytree(folder, place / neighbour)
    at_call(monkeypatch, loop.Run, "_save", 3, lambda run: os.kill(os.getpid(), 15))
    assert launch(f"--workdir={name}", *args).code == 128 + 15
    monkeypatch.undo()
    monkeypatch.chdir(place)
    found = launch(f"--workdir={name}", *args)
    assert found.code == 0 and "going on from step" in found.out and found.err == ""
    assert_same_run(place / name, folder)
    assert load_run(place / name).summary == summary(place / name)


def test_a_name_that_tensorstore_refuses(tmp_path):
    folder, zeros = tmp_path / "back\\slash", {"a": jax.numpy.zeros(3)}
    Checkpoints(folder, keep=1).save(1, zeros, {"step": 1})
    found = Checkpoints(folder, keep=1).restore_newest(jax.eval_shape(lambda: zeros), pytest.fail)
    assert found[1] == {"step": 1} and found[0]["a"].tolist() == [0, 0, 0]


def test_the_link_to_a_folder_comes_again_and_goes_in_the_end(tmp_path):
    real = tmp_path / "a[0]"
    real.mkdir()
    name = PlainName(real)
    place = name.path.parent
    shutil.rmtree(place)  # what tidies up behind old files does
    name.renew()
    assert name.path.samefile(real)
    del name
    assert not place.exists() and real.exists()
    assert PlainName(tmp_path).path == tmp_path


def test_what_others_put_into_a_checkpoint_is_no_damage(place, monkeypatch, reference):
    folder, args = reference
    at_call(monkeypatch, loop.Run, "_save", 3, lambda run: os.kill(os.getpid(), 15))
    assert launch("--workdir=w", *args).code == 128 + 15
    monkeypatch.undo()
    monkeypatch.chdir(place)
    newest = place / "w" / "checkpoints" / str(checkpoint_steps(place / "w")[-1])
    for below in (newest.parent, newest, newest / "state", newest / "state" / "d"):
        (below / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (below / "Thumbs.db").write_bytes(b"x")
    (newest.parent / "99 (copy)").mkdir()
    assert damage(newest) is None
    found = launch("--workdir=w", *args)
    assert found.code == 0 and found.err == "" and f"going on from step {newest.name}" in found.out
    assert_same_run(place / "w", folder)


def test_what_is_hidden_is_not_part_of_a_checkpoint(tmp_path):
    """It may be gone the next time."""
    (tmp_path / "d").mkdir()
    for name in ("a", "d/b", ".DS_Store", "d/._b"):
        (tmp_path / name).write_text(name)
    assert list(checksums(tmp_path)) == ["a", "d/b"]


def test_a_checkpoint_that_does_not_come_back_is_not_kept_instead_of_older_ones(tmp_path):
    one = Checkpoints(tmp_path / "c", keep=1)
    one.save(1, {"a": jax.numpy.zeros(3)}, {})
    write = one._write
    one._write = lambda step, state, progress: write(
        step, {"a": state["a"] + jax.numpy.array([0, 0, 1e-7])}, progress
    )
    with pytest.raises(DiskError, match=r"\['a'\] does not come back as it was saved"):
        one.save(2, {"a": jax.numpy.zeros(3)}, {})
    assert one.steps() == [2, 1]
    # The next start does not go on from it, and can save at that step.
    again, warned, like = Checkpoints(tmp_path / "c", keep=1), [], {"a": jax.numpy.zeros(3)}
    found, _ = again.restore_newest(like, warned.append)
    assert found["a"].tolist() == [0, 0, 0] and len(warned) == 1 and "checksums" in warned[0]
    again.save(2, {"a": jax.numpy.ones(3)}, {})
    assert again.restore_newest(like, warned.append)[0]["a"].tolist() == [1, 1, 1]


def test_a_second_run_in_a_folder_is_refused(place, reference):
    folder, args = reference
    (place / "w").mkdir()
    (place / "link").symlink_to(place / "w")
    held = Ownership(place / "w")
    before = tree(place)
    for given in ("--workdir=w", "--workdir=link", "--take-over --workdir=w"):
        found = launch(*given.split(), *args)
        assert found.code == 2 and len(found.err.splitlines()) == 1
        assert f"process {os.getpid()} on {os.uname().nodename} trains in it" in found.err
    assert tree(place) == before
    held.release()


def test_a_run_that_was_taken_over_stops(place, monkeypatch):
    def take(run):
        file = place / "w" / "owner.json"
        file.write_text(file.read_text().replace(os.uname().nodename, "elsewhere", 1))
        text = file.read_text()
        token = text.split('"token": "')[1][:32]
        file.write_text(text.replace(token, "0" * 32))

    at_call(monkeypatch, loop.Run, "_save", 2, take)
    found = launch("--workdir=w", *TINY, "--config.epochs=1", "--config.checkpoint_every=10")
    assert found.code == 2 and len(found.err.splitlines()) == 1
    assert "on elsewhere has taken w over" in found.err
    assert checkpoint_steps(place / "w") == [10]
    assert (place / "w" / "owner.json").exists()


def test_checkpoints_by_the_clock(place, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    options = (*TINY, "--config.epochs=1", "--config.max_steps=5", "--config.keep_checkpoints=9")
    assert launch("--workdir=a", *options, "--config.checkpoint_minutes=1e-9").code == 0
    assert checkpoint_steps(place / "a") == [1, 2, 3, 4, 5]
    assert launch("--workdir=b", *options, "--config.checkpoint_minutes=0").code == 0
    assert checkpoint_steps(place / "b") == [5]
    assert rows(place / "a") == rows(place / "b")


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), MemoryError()]
)
def test_memory_that_is_used_up(place, monkeypatch, error):
    def raise_it(*_):
        raise error

    at_call(monkeypatch, loop.Run, "_compile", 1, raise_it)
    found = launch("--workdir=w", *TINY)
    assert found.code == cli.EXIT_MEMORY and len(found.err.splitlines()) == 1
    assert "memory is used up" in found.err and "a smaller --config.batch_size" in found.err


def test_a_checkpoint_is_that_of_its_folder_its_data_and_its_run(place, monkeypatch, reference):
    """Else a run would go on with other images, or from another step, without a word."""
    _, args = reference
    at_call(monkeypatch, loop.Run, "_save", 3, lambda run: os.kill(os.getpid(), 15))
    assert launch("--workdir=w", *args).code == 128 + 15
    monkeypatch.undo()
    monkeypatch.chdir(place)
    newest = checkpoint_steps(place / "w")[-1]
    shutil.copytree(place / "w", place / "v")
    shutil.copytree(place / f"v/checkpoints/{newest}", place / "v/checkpoints/77")
    found = launch("--workdir=v", *args)
    assert found.code == 2 and "checkpoints/77 is not that of step 77" in found.err
    shutil.rmtree(place / "v/checkpoints/77")
    (place / "v" / "metrics.jsonl").unlink()
    found = launch("--workdir=v", *args)
    assert found.code == 0 and len(found.err.splitlines()) == 1
    assert f"is gone or empty: what was measured up to step {newest} is lost" in found.err
    with monkeypatch.context() as patch:
        patch.setenv("JAX_ENABLE_X64", "1")
        found = launch("--workdir=w", *args)
    assert found.code == 2 and "$JAX_ENABLE_X64 is '1'; allowed: unset or 0" in found.err
    with monkeypatch.context() as patch:
        assemble = loop.assemble
        for other in ({"labels": 7}, {"images": 7}):

            def of_other_data(*given, other=other):
                parts = assemble(*given)
                return parts._replace(fingerprint=parts.fingerprint._replace(**other))

            patch.setattr(loop, "assemble", of_other_data)
            found = launch("--workdir=w", *args)
            assert found.code == 2 and "its checkpoints are of other training images" in found.err


def test_a_run_whose_checkpoints_are_gone(place, reference):
    """It computes all of it again, and says so."""
    folder, args = reference
    shutil.copytree(folder, place / "w")
    shutil.rmtree(place / "w/checkpoints")
    (place / "w/summary.json").unlink()
    found = launch("--workdir=w")
    assert found.code == 0 and found.err.count("\n") == 1
    assert "w: there is no checkpoint to go on from; the run begins anew" in found.err
    assert_same_run(place / "w", folder)


def test_imported_weights_that_are_gone(place, reference):
    """Training would begin with random ones."""
    assert export.main([str(reference[0]), str(place / "w.safetensors")]) == 0
    assert export.main(["--to-workdir", str(place / "v"), str(place / "w.safetensors")]) == 0
    shutil.rmtree(place / "v/checkpoints")
    found = launch("--workdir=v")
    assert found.code == 2 and found.err.count("\n") == 1
    assert "so none of the weights that `dtp export` has written into it" in found.err


@pytest.mark.parametrize(
    "flag, said",
    [
        (
            "train_images=5000",
            "config.train_images is 5000; allowed: 0 to 1257: 1257 images are left",
        ),
        (
            "overfit_batches=40",
            "config.overfit_batches is 40; allowed: 0 to 39: 1257 images are left",
        ),
    ],
)
def test_more_images_than_there_are(place, flag, said):
    """They would be shown, and compared, as if they had been there. Older versions have made such runs."""
    found = launch("--workdir=w", *TINY, f"--config.{flag}", "--config.max_steps=1")
    assert found.code == 2 and said in found.err and found.err.count("\n") == 1
    assert launch("--workdir=w", *TINY, "--config.max_steps=1").code == 0
    file = place / "w/config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "train_images": 5000}))
    found = launch("--workdir=w", "--config.max_steps=2")
    assert (found.code, found.err) == (0, "")


def test_a_data_folder_that_is_not_there_is_said(place, monkeypatch):
    data_files.write_npz(place / "data", "mnist", *data_files.fake("mnist"))
    monkeypatch.setenv("DTP_JAX_DATA", str(place / "data"))
    small = ("--config=mnist_mlp:backprop", "--config.batch_size=2", "--config.max_steps=1")
    found = launch("--workdir=w", *small, "--config.data_dir=typo")
    assert found.code == 0 and found.err.count("\n") == 1
    assert (
        "config.data_dir is 'typo' and changes nothing: it is not there; the data is " in found.err
    )
    assert launch("--workdir=v", *small, f"--config.data_dir={place / 'data'}").err == ""
    monkeypatch.delenv("DTP_JAX_DATA")
    monkeypatch.setenv("HOME", str(place))  # a shell leaves ~ behind = as it is
    assert launch("--workdir=u", *small, "--config.data_dir=~/data").err == ""


def test_an_archive_of_another_size_than_the_official_one(place):
    """Its numbers are known only once it is read: the run would end elsewhere than it was planned to."""
    data_files.write_cifar_archive(place / "data", "cifar10", *data_files.fake("cifar10"))
    flags = ("--config.data_dir=data", "--config.batch_size=2", "--config.max_steps=1")
    found = launch("--config=cifar10_small_backprop", "--workdir=w", *flags)
    assert found.code == cli.EXIT_DATA and not (place / "w").exists()
    assert " training images; allowed: 50000, as in the official data" in found.err


def test_several_processes_have_the_same_images(place, monkeypatch):
    """Else some images are seen twice and others never, and what one holds out another trains on."""
    asked = []
    monkeypatch.setattr(loop.processes, "require_same", lambda what, content: asked.append(what))
    assert launch("--workdir=w", *TINY, "--config.max_steps=1").code == 0
    assert "the training images" in asked

    def refuse(what, content):
        if what in asked[-1:]:
            raise ValueError(f"{what} differ among the processes; allowed: the same")

    asked[:] = ["the training images"]
    monkeypatch.setattr(loop.processes, "require_same", refuse)
    found = launch("--workdir=v", *TINY, "--config.max_steps=1")
    assert found.code == 3 and "images differ among the processes; allowed" in found.err
    assert "Traceback" not in found.err


def test_a_finished_run_needs_no_images(place, monkeypatch, reference):
    """Its folder may be looked at on another machine; one that is to go on says what is missing."""
    shutil.copytree(reference[0], place / "w")

    def nowhere(*_):
        raise assemble.DataError("digits: no data found")

    monkeypatch.setattr(assemble, "locate", nowhere)
    before = tree(place)
    found = launch("--workdir=w")
    assert found.code == 0 and "finished" in found.out, found.err
    for flags in (["--config.epochs=9"], ["--workdir=v"]):
        found = launch("--workdir=w", *flags)
        assert found.code == 3 and "no data found" in found.err
    assert tree(place) == before


def test_a_fingerprint_tells_another_copy():
    """The same labels, and one pixel of one of the first images."""
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    labels = np.arange(10, dtype=np.int32)
    own = assemble.fingerprint(Splits(Split(images, labels), None, None, np.array([3, 1, 5])))
    for index, is_other in ((5, True), (4, False)):  # of those that are trained on
        other = images.copy()
        other[index, 0, 0] ^= 1
        found = assemble.fingerprint(Splits(Split(other, labels), None, None, np.array([3, 1, 5])))
        assert found.labels == own.labels and (found.images != own.images) == is_other
