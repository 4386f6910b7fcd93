"""The sweeps: exponents and costs that are known beforehand, bytes of a program written by hand and of
compiled ones, and a run of tiny settings."""

import json

import numpy as np
import pytest
from helpers import REPOSITORY

from benchmarks import growth, hlo, scaling, timing
from benchmarks.growth import Costs, Load
from benchmarks.scaling import SMALL
from benchmarks.work import count_work

TWO_MAPS = SMALL._replace(channels=(4, 6))

PROGRAM = """HloModule jit_step, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[2,3])) -> (s32[], f32[2,3]) {
  %all-reduce.1 = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1, to_apply=%add
  ROOT %t = (s32[], f32[2,3]{1,0}) tuple(%i, %a)
}

%little (p: f32[5]) -> f32[5] {
  ROOT %all-reduce.2 = f32[5]{0} all-reduce(%p), to_apply=%add
}

%much (p: f32[5]) -> f32[5] {
  %while.1 = (s32[], f32[2,3]{1,0}) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %r = f32[5]{0} copy(%p)
}

ENTRY %main (p: f32[5]) -> f32[5] {
  %conditional.1 = f32[5]{0} conditional(%n, %p, %p), branch_computations={%little, %much}
  %call.1 = f32[5]{0} call(%p), to_apply=%little
  ROOT %all-gather.1 = (pred[4]{0}, bf16[2]{0}, /*index=2*/f64[3,1]{1,0}) all-gather(%a, %b, %c)
}
"""


def test_bytes_of_a_program_by_hand():
    loop, call, gather = 7 * 4 * (6 + 1), 4 * 5, 4 * 1 + 2 * 2 + 3 * 8
    assert hlo.exchanged_bytes(PROGRAM) == loop + call + gather


def test_collectives_of_a_program_by_hand():
    """Loops are told by the operation's name in the source; the metadata of one line says so here."""
    of_loop = "channel_id=1, to_apply=%add"
    named = PROGRAM.replace(of_loop, f'{of_loop}, metadata={{op_name="jit(step)/while/body/dot"}}')
    assert hlo.collectives(PROGRAM) == ({}, {"all-reduce": 2, "all-gather": 1})
    assert hlo.collectives(named) == ({"all-reduce": 1}, {"all-reduce": 1, "all-gather": 1})


def test_what_goes_on_in_the_background_counts_once():
    """Its start has what goes in and what comes out, its end only the latter."""
    asynchronous = PROGRAM.replace(
        "  ROOT %all-gather.1 = (pred[4]{0}, bf16[2]{0}, /*index=2*/f64[3,1]{1,0}) all-gather(%a, %b, %c)",
        "  %start = ((pred[2]{0}), (pred[4]{0})) all-gather-start(%a)\n"
        "  ROOT %done = pred[4]{0} all-gather-done(%start)",
    )
    assert asynchronous != PROGRAM
    assert hlo.collectives(asynchronous) == hlo.collectives(PROGRAM)
    assert hlo.exchanged_bytes(PROGRAM) - hlo.exchanged_bytes(asynchronous) == 2 * 2 + 3 * 8


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.5])
def test_exponent_of_a_power(power):
    xs = np.array([1.0, 3.0, 10.0])
    found = growth.exponent(xs, 7 * xs**power)
    assert found == pytest.approx(power)
    assert not np.signbit(found) or power < 0


def test_costs_are_found_again():
    """From times that a machine with these costs would need; one of them is nothing."""
    costs = Costs(step=1e-3, iteration=2e-5, flop=3e-12, normal=0.0)
    random = np.random.default_rng(0)
    loads = [Load(*row) for row in random.uniform(0.1, 1, (8, 3)) * (100, 1e9, 1e6)]
    found = growth.fit_costs(loads, [costs.seconds(load) for load in loads])
    np.testing.assert_allclose(found[:3], costs[:3], rtol=1e-6)
    assert 0 <= found.normal * 1e6 < 1e-9
    unseen = Load(60, 5e9, 3e6)
    assert found.seconds(unseen) == pytest.approx(1e-3 + 60 * 2e-5 + 5e9 * 3e-12)


def test_loads_of_a_step_by_hand():
    """Two trained maps, 4x4x4 -> 2x2x6 and 24 -> 10, two iterations each; 3x3 kernels."""
    work = count_work(scaling.learner_of(TWO_MAPS))
    forward = [2 * 9 * 3 * 4 * 64, 2 * 9 * 4 * 6 * 16, 2 * 24 * 10]
    per_example = 2 * 4 * sum(forward[1:]) + 2 * sum(forward) + sum(forward[1:])
    normals = 2 * (64 + 24 + 24 + 10)
    assert growth.load_of(work, 4) == Load(4, 4 * per_example, 4 * normals)


@pytest.mark.parametrize("sweep", ["batch", "iterations", "blocks", "image_size", "width"])
def test_expected_exponents(sweep):
    """The arithmetic grows as theory says; the first layer and what is done once blur it a little."""
    xs, settings = zip(*scaling.points(sweep, quick=False))
    flops = [count_work(scaling.learner_of(s)).flops(s.batch) for s in settings]
    theory = 2 if sweep in ("image_size", "width") else 1
    assert growth.exponent(xs, flops) == pytest.approx(theory, abs=0.12)


def test_both_axes_exchange_what_is_predicted(single_precision):
    """The all-reduces of the group that has most of them, and the exchange of the groups."""
    setting = TWO_MAPS._replace(data=2, layers=2)
    work = count_work(scaling.learner_of(setting))
    per_map = [k * size for k, size in zip(work.iterations, work.reduced_bytes)]
    compiled, _ = scaling.compiled_step(setting)
    expected = max(per_map) + work.forward_bytes + work.exchanged_bytes
    assert hlo.exchanged_bytes(compiled.as_text()) == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick run of four sweeps -> (its JSON, its picture's first bytes)."""
    folder = tmp_path_factory.mktemp("scaling")
    file, picture = folder / "out.json", folder / "out.png"
    with pytest.MonkeyPatch.context() as patch, scaling.jax.enable_x64(False):
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setattr(timing, "PEAK_SIZE", 256)
        options = ["--quick", "--sweeps", "batch,width,iterations,devices", "--repeats", "2"]
        assert scaling.main([*options, "--json", str(file), "--figure", str(picture)]) == 0
    return json.loads(file.read_text()), picture.read_bytes()[:8]


@pytest.mark.slow
def test_quick_run(finished):
    result, picture = finished
    assert [(r["sweep"], r["x"]) for r in result["rows"]] == [
        *(("batch", 4), ("batch", 8)),
        *(("width", 1), ("width", 2)),
        *(("iterations", 2), ("iterations", 4)),
        *(("devices", 1), ("devices", 2), ("devices", 2)),
    ]
    for row in result["rows"]:
        assert row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["examples_per_second"] * row["seconds"] == pytest.approx(row["setting"]["batch"])
        assert row["memory_bytes"] == sum(row["memory"].values()) > 0
    batch = result["growth"]["batch"]
    assert batch["flops"] == pytest.approx(1)
    slow, fast = (r["seconds"] for r in result["rows"][:2])
    assert batch["seconds"] == pytest.approx(np.log2(fast / slow), abs=1e-6)
    assert picture == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_a_run_checks_its_costs_on_a_setting_of_no_sweep(finished):
    result, _ = finished
    held_out = result["held_out"]
    assert held_out["setting"] not in [r["setting"] for r in result["rows"]]
    costs = Costs(**result["costs"])
    assert held_out["predicted_seconds"] == costs.seconds(Load(**held_out["load"]))


@pytest.mark.slow
def test_devices_exchange_what_is_predicted(finished):
    """One axis at a time, in processes of their own: counted in the program, and from shapes."""
    work = count_work(scaling.learner_of(SMALL))
    reduced = sum(k * size for k, size in zip(work.iterations, work.reduced_bytes))
    meshes = {
        (r["setting"]["data"], r["setting"]["layers"]): r["exchanged_bytes"]
        for r in finished[0]["rows"]
        if r["sweep"] == "devices"
    }
    assert meshes == {
        (1, 1): 0,
        (2, 1): reduced + work.forward_bytes,
        (1, 2): work.exchanged_bytes,
    }


RECORDED = REPOSITORY / "benchmarks/results/2026-11-23_scaling_cpu_2cores.json"


def test_a_picture_of_what_was_measured_before(tmp_path):
    """Time and memory have axes of their own, with their units; exponents are called so."""
    figure = growth.draw(json.loads(RECORDED.read_text()))
    shown = [axis for axis in figure.axes if axis.axison]
    assert {axis.get_ylabel() for axis in shown} == {
        "",
        "time of a step, ms",
        "memory of a device, MiB",
    }
    for axis in shown:  # within the range that the panels of one unit share
        low, high = axis.get_ylim()
        assert all(low < y < high for line in axis.get_lines() for y in line.get_ydata())
    times, memories = (
        {axis.get_ylim() for axis in shown if (len(axis.get_lines()) == 3) == is_time}
        for is_time in (True, False)
    )
    assert len(times) == len(memories) == 1
    assert "exponent" in figure.get_suptitle()
    assert [a.get_xlabel() for a in shown if a.get_xlabel()] == [
        *("batch", "width", "iterations", "image size"),
        *("blocks", "devices, data-parallel", "devices, layer-parallel"),
    ]
    picture = tmp_path / "out.png"
    assert scaling.main(["--redraw", str(RECORDED), "--figure", str(picture)]) == 0
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": []}'])
def test_what_cannot_be_redrawn(content, tmp_path, capsys):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        scaling.main(["--redraw", str(file), "--figure", str(tmp_path / "out.png")])
    assert f"--redraw is {file}" in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--sweeps", "depth"), ("--repeats", "0")])
def test_options_that_mean_nothing(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        scaling.main([option, value])
    said = capsys.readouterr().err.replace(f"{option}: is", f"{option} is").replace("'", "")
    assert f"{option} is {value}; allowed: " in said
