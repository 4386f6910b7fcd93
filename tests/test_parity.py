"""Parity: recorded cases pass, changed ones fail, and what cannot be replayed is named."""

import dataclasses
import json
import re
from functools import cache

import numpy as np
import pytest
from helpers import GOLDEN, load, slow

from dtp_jax.parity import ParityError, __main__, compare, open_case, replay
from dtp_jax.parity.compare import rounding_of_angle

RECORDED = (
    "ldrl_vgg",
    "ldrl_vgg_2batches",
    "ldrl_lenet",
    "ldrl_multi_sample",
    "ldrl_resnet",
    "symmetric_init",
    "parallel_dtp_vgg",
    "vanilla_dtp_vgg",
    "target_prop_vgg",
    "drl_conv",
    "drl_conv_elu_nobias",
)
SMALLEST = "ldrl_multi_sample"
SINGLE = (SMALLEST,)
"""Those of which `make test` replays float32 as well."""


@cache
def replayed(path, dtype="float64"):
    """(case, outputs) of a file."""
    case = open_case(str(path))
    return case, replay(case, dtype)


def golden(name, dtype="float64"):
    return replayed(GOLDEN / f"{name}.npz", dtype)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_case(name):
    check_recorded_case(name, "float64")


@pytest.mark.parametrize(
    "name",
    [name if name in SINGLE else slow(name) for name in RECORDED],
)
def test_recorded_case_in_float32(name):
    check_recorded_case(name, "float32")


def check_recorded_case(name, dtype):
    """Every recorded quantity but the README's exemptions, each array of it compared."""
    case, outputs = golden(name, dtype)
    rows = compare(case, outputs, dtype)
    assert [row for row in rows if not row.passed] == []
    assert sum(row.arrays for row in rows) == len(list(recorded_outputs(case, dtype)))


def recorded_outputs(case, dtype="float64"):
    """Keys that must be compared: all of this precision, without the first block's mirrored feedback
    map, which is never trained nor used, and zeros in place of angles of residual stages."""
    spec = json.loads(str(case.arrays["meta/spec"]))
    first = spec["blocks"][0]
    stages = [b["name"] for b in spec["blocks"] if b["kind"] == "residual_stage"]
    for key in case.arrays:
        match = re.fullmatch(r"(f32/)?(?:clean/|zerograd/)?b\d+/out/([^/]+)/?(.*)", key)
        if match is None or bool(match[1]) != (dtype == "float32"):
            continue
        kind, path = match[2], match[3]
        mirrored = spec["rule"] != "drl" and kind.startswith(("fb_", "align_"))
        of_first = path == first["name"] or f"{path}/".startswith(f"{first['module']}/")
        of_stage = kind in ("fb_angle", "fb_dist") and path in stages
        if not (mirrored and (of_first or of_stage)):
            yield key


def with_array(case, key, a):
    return dataclasses.replace(case, arrays={**case.arrays, key: a})


def changed(a):
    """One entry off by far more than any tolerance, 1e-6 of the largest for float64."""
    a = np.array(a)
    a.flat[a.size // 2] += 1 if a.dtype.kind in "iu" else 1e-6 * np.abs(a).max() + 1e-11
    return a


@pytest.mark.parametrize(
    "name", ["ldrl_lenet", "symmetric_init", "ldrl_resnet", "parallel_dtp_vgg"]
)
def test_every_recorded_array_is_compared(name):
    """Change any one of them, and its quantity, and no other, is above the tolerance."""
    case, outputs = golden(name)
    for key in recorded_outputs(case):
        kind = key.split("/")[2]
        a = changed(case.arrays[key])
        if kind.startswith(("align_", "cmp", "fb_angle")):  # their tolerance is 1e-6
            a.flat[-1] += 3e-6
        rows = compare(with_array(case, key, a), outputs, "float64")
        assert [row.name for row in rows if not row.passed] == [f"{key.split('/')[0]} {kind}"], key


def test_every_recorded_array_is_compared_in_float32():
    """Three times the README's tolerances are too much: 1e-5 of the largest entry, 1e-4 for
    gradients, 1e-5 for bias gradients that vanish. It gives none for alignments; 1 is too much."""
    case, outputs = golden(SMALLEST, "float32")
    for key in recorded_outputs(case, "float32"):
        kind = key.split("/")[3]
        a = np.array(case.arrays[key])
        if a.dtype.kind in "iu" or kind.startswith(("align_", "cmp", "fb_angle")):
            a.flat[-1] += 1
        elif kind in ("fb_grad", "fb_velocity") and key.endswith("bias"):
            a.flat[0] += 4e-5
        else:
            largest = np.abs(a).max()
            a.flat[0] += (3e-4 if kind.endswith(("grad", "velocity")) else 3e-5) * largest
        rows = compare(with_array(case, key, a), outputs, "float32")
        assert [row.name for row in rows if not row.passed] == [f"b0 {kind}"], key


@pytest.mark.parametrize("broken", ["missing", "nan", "shape"])
def test_every_output_of_the_replay_is_needed(broken):
    """An output that is not there, not a number, or of another shape never passes."""
    case, outputs = golden(SMALLEST)
    for key in recorded_outputs(case):
        instead = dict(outputs)
        found = instead.pop(key)
        if key.split("/")[2] == "pool_idx" and broken != "missing":
            continue  # integers, which are converted before they are compared
        if broken == "nan":
            instead[key] = np.full_like(found, np.nan)
        elif broken == "shape":
            instead[key] = np.stack([found, found])
        rows = compare(case, instead, "float64")
        assert any(not row.passed for row in rows), key


def test_comparing_needs_records_of_that_precision():
    case, outputs = golden(SMALLEST)
    double_only = {key: a for key, a in case.arrays.items() if not key.startswith("f32/")}
    with pytest.raises(ParityError, match="float32"):
        compare(dataclasses.replace(case, arrays=double_only), outputs, "float32")


# The program.


def write(path, name, **changes):
    """A copy of a recorded case with other arrays; None leaves one out."""
    arrays = {**load(name), **changes}
    np.savez(path, **{key: a for key, a in arrays.items() if a is not None})
    return str(path)


def test_program_passes_and_prints_a_row_per_quantity(capsys):
    assert __main__.main([str(GOLDEN / f"{SMALLEST}.npz")]) == 0
    printed = capsys.readouterr()
    for kind in ("fb_loss", "fb_grad", "act", "target", "grad", "fwd_after", "cmp", "pool_idx"):
        assert any(line.split()[1:3] == ["b0", kind] for line in printed.out.splitlines()), kind
    assert printed.err == "" and "ABOVE" not in printed.out


def test_a_path_is_shown_as_it_is(tmp_path, capsys):
    folder = tmp_path / "[old]" / "[" / "x]"  # with [/x] in it
    folder.mkdir(parents=True)
    assert __main__.main([write(folder / ":a:.npz", SMALLEST)]) == 0
    assert "[old]/[/x]/:a:.npz" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("name", "key"),
    [("symmetric_init", "b0/out/grad/conv_1/conv/weight"), (SMALLEST, "b0/noise/conv_1/dx")],
)
def test_program_fails_where_one_array_was_changed_by_a_millionth(tmp_path, capsys, name, key):
    """An output, or an input: then what follows from it is off."""
    a = np.array(load(name)[key])
    a.flat[3] += 1e-6
    path = write(tmp_path / "changed.npz", name, **{key: a})
    assert __main__.main([path]) == 1
    assert "ABOVE" in capsys.readouterr().out


@pytest.mark.parametrize("prefix", [slow(""), "zerograd/", slow("clean/")])
def test_every_variant_of_stale_gradients_is_compared(prefix):
    """The three differ from the second iteration on; each is held against its own numbers."""
    case, outputs = golden("drl_conv_elu_nobias")
    for kind, place in (("fb_after", "conv_0/weight"), ("fb_adam", "step/conv_1/weight")):
        key = f"{prefix}b1/out/{kind}/{place}"
        rows = compare(with_array(case, key, changed(case.arrays[key])), outputs, "float64")
        assert [row.name for row in rows if not row.passed] == [f"{prefix}b1 {kind}"]


def check_refused(path, capsys, *words):
    """Exit code 2, and one line that names the file and the reason."""
    assert __main__.main([path]) == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and path in lines[0]
    for word in words:
        assert word in lines[0]
    return lines[0]


def spec_with(name=SMALLEST, **changes):
    """meta/spec of a recorded case with other entries; None leaves one out."""
    spec = {**json.loads(str(load(name)["meta/spec"])), **changes}
    return np.array(json.dumps({key: value for key, value in spec.items() if value is not None}))


def block_with(**changes):
    blocks = json.loads(str(load(SMALLEST)["meta/spec"]))["blocks"]
    return spec_with(blocks=[{**blocks[0], **changes}, *blocks[1:]])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"meta/spec": None}, "meta/spec"),
        ({"meta/spec": np.array("{")}, "JSON"),
        ({"meta/spec": spec_with(rule=None)}, "rule"),
        ({"meta/spec": spec_with(blocks=None)}, "blocks"),
        ({"meta/spec": spec_with(input_shape=None)}, "input_shape"),
        ({"meta/spec": spec_with(input_shape=[3, 1, 1])}, "conv_0"),
        ({"meta/spec": spec_with(n_batches=None)}, "n_batches"),
        ({"meta/spec": block_with(kind="recurrent")}, "recurrent"),
        ({"meta/spec": block_with(activation="gelu")}, "gelu"),
        ({"hp/beta": None}, "beta"),
        ({"hp/noise": np.array(0.1)}, "IndexError"),
        ({"hp/forward_optimizer": np.array("lion")}, "lion"),
        ({"meta/spec": spec_with(rule="hebb")}, "hebb"),
        ({"fwd/fc/linear/weight": None}, "fwd/fc/linear/weight"),
        ({"b0/x": None}, "b0/x"),
        ({"b0/x": np.zeros((4, 3, 9, 7))}, "b0/x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_file_that_is_no_case_is_refused_in_one_line(tmp_path, capsys, changes, word):
    check_refused(write(tmp_path / "broken.npz", SMALLEST, **changes), capsys, word)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut off"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, capsys, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    check_refused(str(path), capsys)


def test_a_truncated_file_is_refused(tmp_path, capsys):
    path = tmp_path / "half.npz"
    whole = (GOLDEN / f"{SMALLEST}.npz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    check_refused(str(path), capsys)


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    check_refused(str(tmp_path / "nowhere.npz"), capsys, "does not exist")


@pytest.mark.parametrize("above", [False, True])
def test_every_file_has_its_turn(tmp_path, capsys, monkeypatch, above):
    """Those that are no case, or missing, have a line each; the worst code is that of the program."""
    case, outputs = golden(SMALLEST)
    if above:
        key = next(recorded_outputs(case))
        outputs = {**outputs, key: changed(outputs[key])}
    monkeypatch.setattr(__main__, "replay", lambda case, dtype: outputs)
    other, missing, good = (
        GOLDEN / "init_facts.npz",
        tmp_path / "no.npz",
        GOLDEN / f"{SMALLEST}.npz",
    )
    assert __main__.main([str(good)]) == (1 if above else 0)
    capsys.readouterr()
    assert __main__.main([str(other), str(good), str(missing)]) == 2
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    assert f"{other}: holds no run of the original; allowed: a case with meta/spec" in first
    assert str(missing) in second
    assert "b0 fb_loss" in printed.out and ("ABOVE" in printed.out) == above
    said = "1 quantities above their" if above else "every quantity within its"
    assert printed.out.endswith(f"{said} tolerance; 2 of 3 files could not be replayed\n")


# Cases that this project has never seen.


def conv(name, features, kernel, padding, pool, **options):
    return {
        "name": name,
        "kind": "conv",
        "module": name,
        "kernel": kernel,
        "stride": 1,
        "padding": padding,
        "activation": "elu",
        "bias": True,
        "features": features,
        "pool": pool and dict(zip(("kernel", "stride", "padding"), pool, strict=True), kind="max"),
        **options,
    }


def dense(name, features, activation=None, **options):
    return {
        "name": name,
        "kind": "dense",
        "module": name,
        "flatten": False,
        "activation": activation,
        "bias": True,
        "features": features,
        **options,
    }


UNSEEN = {
    # Names of which the first one begins the second; not square; odd sizes under the pooling;
    # two batches, so that momentum carries over.
    "vgg": dict(
        spec=dict(
            input_shape=[2, 10, 14],
            classes=7,
            n_batches=2,
            blocks=[
                conv("conv_1", 3, 3, 1, (2, 2, 0)),
                conv("conv_10", 5, 3, 1, (2, 2, 0), bias=False),
                dense("fc", 7, flatten=True),
            ],
        ),
        noise=(0.3, 0.1),
        iterations=(2, 3),
        feedback_lr=(0.01, 0.05),
        samples=2,
    ),
    # Overlapping pooling, no pooling, two dense blocks, other activations.
    "lenet": dict(
        spec=dict(
            input_shape=[1, 9, 7],
            classes=4,
            n_batches=1,
            blocks=[
                conv("conv_0", 2, 5, 2, (3, 2, 1), activation="tanh"),
                conv("conv_1", 3, 3, 1, (3, 2, 1)),
                conv("conv_2", 4, 1, 0, None, activation="relu"),
                dense("fc1", 6, "elu", flatten=True),
                dense("fc2", 4, bias=False),
            ],
        ),
        noise=(0.2, 0.3, 0.1, 0.2),
        iterations=(1, 2, 2, 1),
        feedback_lr=(0.02,) * 4,
        seed=5,
    ),
}


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """Paths of newly recorded cases by name."""
    pytest.importorskip("torch")
    from recording import record_case

    folder = tmp_path_factory.mktemp("unseen")
    for name, options in UNSEEN.items():
        spec = {"rule": "ldrl", **options["spec"]}
        record_case(folder / f"{name}.npz", **{**options, "spec": spec})
    return {name: folder / f"{name}.npz" for name in UNSEEN}


@pytest.mark.parametrize("name", UNSEEN)
def test_unseen_case(unseen, name):
    """Other sizes, seeds, names and hyper-parameters, recorded just now: every array passes."""
    case, outputs = replayed(unseen[name])
    rows = compare(case, outputs, "float64")
    assert [row for row in rows if not row.passed] == []
    kinds = {row.name.split()[1] for row in rows}
    assert kinds >= {row.name.split()[1] for row in compare(*golden("ldrl_vgg"), "float64")}
    assert sum(row.arrays for row in rows) == len(list(recorded_outputs(case)))


@pytest.mark.parametrize("entries", [10, 240, 4096])
def test_what_rounding_does_to_an_angle_is_within_its_tolerance(entries):
    """float32 sums in several orders, of arrays and themselves: the angle is 0, or near it, or not at all."""
    rng = np.random.default_rng(entries)
    worst = 0.0
    for _ in range(100):
        a = rng.standard_normal(entries).astype(np.float32)
        b = (a + np.float32(10.0 ** rng.uniform(-6, 1)) * rng.standard_normal(entries)).astype("f4")
        angles = []
        for order in (slice(None), slice(None, None, -1), rng.permutation(entries)):
            x, y = a[order], b[order]
            sums = [np.cumsum(p * q, dtype=np.float32)[-1] for p, q in ((x, y), (x, x), (y, y))]
            cosine = sums[0] / (np.sqrt(sums[1]) * np.sqrt(sums[2]) + np.float32(1e-8))
            angles.append(float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))))
        for angle in angles:
            allowed = rounding_of_angle(angles[0], entries)
            assert abs(angle - angles[0]) <= allowed
            worst = max(worst, abs(angle - angles[0]) / allowed)
    assert worst > 0.1  # and not because everything is


def test_the_tolerance_of_an_angle_in_float32():
    """0.06 degrees at angle 0 are rounding, at 45 and 90 they are not; nor is any distance of 0.06."""
    case, outputs = golden(SMALLEST, "float32")
    key = next(key for key in recorded_outputs(case, "float32") if key.split("/")[3] == "cmp")
    n = case.arrays["fwd/" + key.partition("/cmp/")[2]].size
    assert rounding_of_angle(0, n) == pytest.approx(
        np.rad2deg(np.sqrt(4 * (5 + 1.23 * n**0.5) * 2.0**-24)), rel=1e-3
    )
    for recorded, actual, passes in (
        ([0.1, 0.0], [0.1, 0.06], True),
        ([0.1, 0.0], [0.1, 0.3], False),
        ([0.1, 0.0], [0.16, 0.0], False),
        ([0.1, 45.0], [0.1, 45.06], False),
        ([0.1, 90.0], [0.1, 90.04], True),
        ([0.1, 180.0], [0.1, 179.94], True),
    ):
        recorded = np.float32(recorded)
        changed_case = with_array(case, key, recorded)
        instead = {**outputs, key.removeprefix("f32/"): np.float32(actual)}
        rows = compare(changed_case, instead, "float32")
        assert all(row.passed for row in rows if row.name == "b0 cmp") == passes, (recorded, actual)


@pytest.mark.parametrize("path", ["gs://b/x.npz", "~nosuchuser/x.npz", ""])
def test_files_that_are_none(path, capsys):
    assert __main__.main([path]) == 2
    assert capsys.readouterr().err.startswith(f"FILE is {path!r}; allowed: ")
