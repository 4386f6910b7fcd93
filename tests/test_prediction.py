"""The model of many chips: counts by hand, a ring that is played through, plans of two maps on paper."""

import json
from functools import partial

import numpy as np
import pytest

from benchmarks import prediction
from benchmarks.prediction import Compiled, Machine, Plan, Work, make_plan, make_plans

# Free communication, unless a test changes that.
FREE = Machine(
    chips_per_node=8,
    bandwidth=np.inf,
    latency=0.0,
    network_bandwidth=np.inf,
    network_latency=0.0,
)
TWO_MAPS = Work(
    maps=("a", "b"),
    iterations=(4, 2),
    map_flops=(800.0, 200.0),
    other_flops=50.0,
    normals=(10, 10),
    reduced_bytes=(100, 300),
    forward_bytes=1000,
    exchanged_bytes=5000,
)
# With 8 examples 64 s and 16 s for the maps, 4 s for the rest; half of that with 4.
LINEAR = Compiled(
    examples=(1, 8), maps=((8.0, 64.0), (2.0, 16.0)), rest=(0.5, 4.0), memory=(10.0, 80.0)
)


def test_counts_of_imagenet32_by_hand():
    learner, config, images = prediction.imagenet32()
    work = prediction.count_work(learner)
    channels, sizes = (3, 128, 128, 256, 256, 512), (32, 16, 8, 4, 2)
    f = [2 * 9 * a * b * s**2 for a, b, s in zip(channels, channels[1:], sizes)] + [2 * 512 * 1000]
    k = (20, 30, 35, 55, 20)
    kernels = [9 * a * b for a, b in zip(channels, channels[1:])] + [512 * 1000]
    # Feedback biases are as long as what a map puts out: the channels of the block below.
    feedback = sum(kernels[1:]) + sum(channels[1:])
    assert (config["batch_size"], images) == (128, 1_281_167)
    assert work.maps == ("conv_1", "conv_2", "conv_3", "conv_4", "fc")
    assert work.map_flops == tuple(4 * n * flops for n, flops in zip(k, f[1:]))
    assert work.other_flops == 2 * sum(f) + sum(f[1:])
    assert work.flops(128) == 128 * (sum(work.map_flops) + work.other_flops)
    assert work.reduced_bytes == tuple(4 * n + 4 for n in kernels[1:])
    assert work.forward_bytes == 4 * (sum(kernels) + sum(channels[1:]) + 1000) + 4 * 8
    assert work.exchanged_bytes == 2 * 4 * feedback + 4 * sum(k)  # with momentum, and the losses


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_ring_sends_so_many_bytes(n):
    """Played through: n - 1 rounds that add up, n - 1 that hand on, one piece per chip and round."""
    size = 24
    data = np.random.default_rng(n).normal(size=(n, size))
    pieces = [list(np.split(row, n)) for row in data]
    sent = np.zeros(n)
    for turn in range(2 * (n - 1)):
        moving = [(chip, (chip - turn) % n) for chip in range(n)]
        values = [pieces[chip][piece].copy() for chip, piece in moving]
        for (chip, piece), value in zip(moving, values):
            to = (chip + 1) % n
            pieces[to][piece] = pieces[to][piece] + value if turn < n - 1 else value
            sent[chip] += value.size
    for chip in range(n):
        np.testing.assert_allclose(np.concatenate(pieces[chip]), data.sum(axis=0))
    np.testing.assert_allclose(sent, prediction.ring_bytes(size, n))


def test_an_all_reduce_that_leaves_the_node_takes_the_network():
    machine = FREE._replace(latency=1.0, bandwidth=10.0, network_latency=5.0, network_bandwidth=2.0)
    assert machine.all_reduce(40, 1, 1) == 0
    assert machine.all_reduce(40, 4, 8) == 1 + 60 / 10
    assert machine.all_reduce(40, 4, 9) == 5 + 60 / 2


def test_plans_on_paper():
    machine = FREE._replace(latency=0.5, bandwidth=100.0)
    plan = partial(make_plan, TWO_MAPS, LINEAR, 8, machine=machine)
    assert plan(1, 1) == Plan(1, 1, 84, 0, 0, 0, 0, 80)
    # On 2 chips each all-reduce sends its bytes once: 4 x 100 + 2 x 300 + 1000 of them, 7 x 0.5 s.
    assert plan(2, 1) == Plan(2, 1, 42, 20 + 3.5, 0, 2000, 0, 40)
    # One map each, so 64 s for the busier one, and all of the rest.
    assert plan(1, 2) == Plan(1, 2, 68, 0, 50 + 0.5, 0, 5000, 80)
    # Both: map a halved, its 4 all-reduces and that of the forward gradients, one exchange.
    assert plan(2, 2) == Plan(2, 2, 34, 14 + 2.5, 50.5, 1400, 5000, 40)


def test_the_slowest_group_is_not_always_the_one_with_most_arithmetic():
    slow_links = FREE._replace(bandwidth=10.0)
    plan = make_plan(TWO_MAPS._replace(reduced_bytes=(0, 3000)), LINEAR, 8, 2, 2, slow_links)
    assert plan.work == (16 + 4) / 2
    assert plan.reduction == (2 * 3000 + 1000) / 10


@pytest.mark.parametrize(
    "examples, value", [(1, 5), (4, 5), (6, 6), (8, 7), (12, 11), (16, 15), (20, 19), (32, 31)]
)
def test_between_what_was_compiled_it_is_linear(examples, value):
    """Below it stays, above it goes on."""
    compiled = Compiled((4, 8, 16), (), (), ())
    assert compiled.at((5.0, 7.0, 15.0), examples) == value


def test_with_one_file_it_stays():
    assert Compiled((8,), (), (), ()).at((3.0,), 100) == 3


def test_with_free_links_all_chips_divide_the_batch_and_layers_stop_at_the_dearest_map():
    plans = make_plans(TWO_MAPS, LINEAR, 8, 16, FREE)
    assert (plans["data"].data, plans["data"].layers) == (8, 1)
    assert plans["data"].seconds == pytest.approx(84 / 8)
    assert plans["layers"].seconds == 68
    assert (plans["best"].data, plans["best"].layers) == (8, 2)


def test_with_dear_links_the_best_is_one_chip():
    dear = FREE._replace(latency=100.0, network_latency=100.0)
    plans = make_plans(TWO_MAPS, LINEAR, 8, 16, dear)
    assert (plans["best"].data, plans["best"].layers) == (1, 1)
    assert make_plans(TWO_MAPS, LINEAR, 8, 1, FREE).keys() == {"alone"}


def test_parts_of_a_batch_are_equal():
    assert make_plans(TWO_MAPS, LINEAR, 6, 4, FREE)["data"].data == 3


def test_what_does_not_fit_is_left_out():
    small = FREE._replace(memory=45.0)  # 4 examples
    assert make_plans(TWO_MAPS, LINEAR, 8, 1, small) == {}
    plans = make_plans(TWO_MAPS, LINEAR, 8, 2, small)
    assert plans.keys() == {"data", "best"} and plans["best"].data == 2


def compiled_file(folder, batch, **changes):
    row = {"phase": "feedback", "kernels": 3}
    result = {
        "command": "c", "date": "d", "commit": "e", "precision": "bfloat16",
        "platform": "h100", "mesh": [1, 1], "batch": batch,
        "memory": {"arguments": 1000, "temporary": 10 * batch},
        "assumed": {"memory": 80e9, "source": "a datasheet"},
        "rows": [
            *({**row, "block": f"conv_{n}", "seconds": n * 1e-3 * batch} for n in range(1, 5)),
            {**row, "block": "fc", "seconds": 1e-3},
            {"phase": "update", "block": "all", "seconds": 2e-3},
            {"phase": "targets", "block": "all", "seconds": 1e-3},
            {"phase": "each chunk", "block": "", "seconds": 9.0},
        ],
    }  # fmt: skip
    (folder / f"{batch}.json").write_text(json.dumps(result | changes))


def test_what_is_read_of_files(tmp_path):
    compiled_file(tmp_path, 16)
    compiled_file(tmp_path, 4)
    compiled_file(tmp_path, 5, mesh=[4, 2])
    compiled_file(tmp_path, 6, platform="tpu-v5e")
    found, files = prediction.read_compiled(tmp_path, "h100", ("conv_1", "fc"))
    assert found.examples == (4, 16) == tuple(one["batch"] for one in files)
    assert found.maps == ((4e-3, 16e-3), (1e-3, 1e-3))
    assert found.rest == pytest.approx((3e-3, 3e-3))
    assert found.memory == (1040, 1160)


@pytest.mark.parametrize("text", [None, "[]", "{}", "no JSON"])
def test_a_folder_without_them(tmp_path, text):
    if text:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="--compiled is .*; allowed: a folder with JSON files"):
        prediction.read_compiled(tmp_path, "h100", ("conv_1",))


def test_the_program(tmp_path, capsys):
    """Every line above a table says where its numbers come from; hours follow from the steps."""
    compiled_file(tmp_path, 32)
    compiled_file(tmp_path, 128)
    file = tmp_path / "out" / "prediction.json"
    file.parent.mkdir()
    options = [f"--compiled={tmp_path}", "--chip=h100", "--chips=1,4", "--batches=128"]
    assert prediction.main([*options, f"--json={file}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    above = lines[: next(n for n, line in enumerate(lines) if line.startswith("predicted"))]
    assert {line.split()[0] for line in above} == {"compiled", "counted", "assumed"}
    [result] = json.loads(file.read_text())["predictions"]
    alone = result["rows"][0]
    step = 128e-3 * (1 + 2 + 3 + 4) + 1e-3 + 3e-3
    assert alone["seconds_per_step"] == pytest.approx(step)
    assert alone["hours"] == pytest.approx(90 * (1_281_167 // 128) * step / 3600)
    best = result["rows"][-1]
    assert best["way"] == "best" and best["data"] * best["layers"] <= 4
    assert best["seconds_per_step"] < step


def test_the_committed_files_are_enough(capsys):
    """Both chips, by default."""
    assert prediction.main(["--chips=256"]) == 0
    found = capsys.readouterr().out
    assert "for tpu-v5e" in found and "for h100" in found


@pytest.mark.parametrize(
    "option, value",
    [("--chip", "abacus"), ("--chips", "1,x"), ("--batches", "-1"), ("--compiled", "no")],
)
def test_options_that_mean_nothing(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        prediction.main([option, value])
    assert f"{option}" in capsys.readouterr().err.splitlines()[-1]
