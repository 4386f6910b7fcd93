"""The model of many chips: counts by hand, a ring that is played through, plans of two maps on paper."""

import json

import numpy as np
import pytest

from benchmarks import prediction
from benchmarks.prediction import Machine, Plan, Work, make_plan, make_plans

# Free communication, unless a test changes that; a rate at which numbers stay readable.
FREE = Machine(
    rate=100.0,
    iteration=0.0,
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
    # 8 examples at 100 a second: 64 s and 16 s for the maps, 4 s for the rest.
    assert make_plan(TWO_MAPS, 8, 1, 1, machine) == Plan(1, 1, 84, 0, 0, 0, 0)
    # On 2 chips each all-reduce sends its bytes once: 4 x 100 + 2 x 300 + 1000 of them, 7 x 0.5 s.
    assert make_plan(TWO_MAPS, 8, 2, 1, machine) == Plan(2, 1, 42, 20 + 3.5, 0, 2000, 0)
    # One map each, so 64 s for the busier one, and all of the rest.
    assert make_plan(TWO_MAPS, 8, 1, 2, machine) == Plan(1, 2, 68, 0, 50 + 0.5, 0, 5000)
    # Both: map a halved, its 4 all-reduces and that of the forward gradients, one exchange.
    assert make_plan(TWO_MAPS, 8, 2, 2, machine) == Plan(2, 2, 34, 14 + 2.5, 50.5, 1400, 5000)


def test_the_slowest_group_is_not_always_the_one_with_most_arithmetic():
    slow_links = FREE._replace(bandwidth=10.0)
    plan = make_plan(TWO_MAPS._replace(reduced_bytes=(0, 3000)), 8, 2, 2, slow_links)
    assert plan.arithmetic == (8 * 200 + 8 * 50) / 2 / 100
    assert plan.reduction == (2 * 3000 + 1000) / 10


def test_an_iteration_takes_its_least_time():
    plan = make_plan(TWO_MAPS, 8, 1, 1, FREE._replace(iteration=10.0))
    assert plan.arithmetic == 4 * 16 + 2 * 10 + 4


def test_with_free_links_all_chips_divide_the_batch_and_layers_stop_at_the_dearest_map():
    plans = make_plans(TWO_MAPS, 8, 16, FREE)
    assert (plans["data"].data, plans["data"].layers) == (8, 1)
    assert plans["data"].seconds == pytest.approx(84 / 8)
    assert plans["layers"].seconds == 68
    assert (plans["best"].data, plans["best"].layers) == (8, 2)


def test_with_dear_links_the_best_is_one_chip():
    plans = make_plans(TWO_MAPS, 8, 16, FREE._replace(latency=100.0, network_latency=100.0))
    assert (plans["best"].data, plans["best"].layers) == (1, 1)
    assert make_plans(TWO_MAPS, 8, 1, FREE).keys() == {"alone"}


def test_parts_of_a_batch_are_equal():
    assert make_plans(TWO_MAPS, 6, 4, FREE)["data"].data == 3


def test_share_of_the_largest_step(tmp_path):
    step = {"seconds": 2.0, "flops_per_second": 10.0, "share_of_peak": 0.5}
    about = {"hardware": "abacus", "date": "today", "commit": "c0ffee"}
    rows = [
        {"network": "n", "batch": 1, "rule": "ldrl", "dtp_jax": {**step, "share_of_peak": 0.1}},
        {"network": "n", "batch": 2, "rule": "ldrl", "dtp_jax": {**step, "seconds": 3.0}},
        {"network": "n", "batch": 2, "rule": "backprop", "dtp_jax": {**step, "seconds": 9.0}},
    ]
    file = tmp_path / "step.json"
    file.write_text(json.dumps({**about, "rows": rows}))
    assert prediction.measured_share(file)[:2] == (0.5, "measured")
    rows = [{"sweep": "devices", "x": 2, **step}, {"sweep": "width", "x": 4, **step}]
    rows[0] |= {"seconds": 5.0, "share_of_peak": 0.9}
    file.write_text(json.dumps({**about, "rows": rows}))
    assert prediction.measured_share(file).value == 0.5
    assert "width at 4 on abacus" in prediction.measured_share(file).where
    file.write_text("[]")
    with pytest.raises(ValueError, match="step.json; allowed: a JSON of benchmarks.step"):
        prediction.measured_share(file)


def test_the_program(tmp_path, capsys):
    """Every line above the table says where its numbers come from; hours follow from the steps."""
    file = tmp_path / "prediction.json"
    options = ["--share", "0.5", "--peak-tflops", "100", "--iteration-us", "0.001"]
    assert prediction.main([*options, "--chips", "1,4", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    above = lines[: next(n for n, line in enumerate(lines) if line.startswith("predicted"))]
    assert {line.split()[0] for line in above} == {"counted", "assumed"}
    result = json.loads(file.read_text())
    alone = result["rows"][0]
    flops = result["counted"]["flops_per_step"]
    assert alone["seconds_per_step"] == pytest.approx(flops / 50e12)
    assert alone["hours"] == pytest.approx(90 * (1_281_167 // 128) * flops / 50e12 / 3600)


@pytest.mark.parametrize(
    "option, value", [("--share", "0"), ("--chips", "1,x"), ("--batch", "-1"), ("--measured", "no")]
)
def test_options_that_mean_nothing(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        prediction.main([option, value])
    assert f"{option}" in capsys.readouterr().err.splitlines()[-1]
