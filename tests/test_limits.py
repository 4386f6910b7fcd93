"""What a number may be at the most, and why: refused before anything is allocated."""

import resource
import time

import pytest
from helpers import config_fields
from test_config_errors import refused

from dtp_jax import fields
from dtp_jax.learning.learner import BOTH, FEEDBACK_ONLY, FORWARD_ONLY
from dtp_jax.run import assemble
from dtp_jax.run.config import FIELDS, least_bytes, validate
from dtp_jax.run.extension import Extension, continued, from_json
from dtp_jax.run.passes import passes, total_steps

MOST = 2**31 - 1
ONE = {"noise": (0.1,), "feedback_lr": (0.1,), "feedback_iterations": (1,)}
WHOLE = [name for name, field in FIELDS.items() if field.kind is int and name != "seed"]
REAL = [name for name, field in FIELDS.items() if field.kind is float]


def of(name, value):
    return {name: (value,) if FIELDS[name].is_tuple else value}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "value", [2**31, 2**63, 10**30, 10**5000], ids=["2^31", "2^63", "30", "5000"]
)
def test_whole_numbers_end_where_jax_counts(name, value):
    line = refused(config_fields(**of(name, value)), name, f"no more than {MOST}", "32 bits")
    assert len(line) < 300


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("value", [1e308, 3.5e38, 1e-320, 1e-45])
def test_real_numbers_are_those_of_float32(name, value):
    below_1 = value > 1 and FIELDS[name].allowed.endswith("below 1")
    refused(config_fields(**of(name, value)), name, "below 1" if below_1 else "computed in float32")


@pytest.mark.parametrize("name", ["momentum", "feedback_momentum"])
def test_a_momentum_that_is_1_in_float32(name):
    refused(config_fields(**{name: 1 - 1e-10}), name, "also in float32, where it is 1.0")
    assert validate(config_fields(**{name: 1 - 1e-7})).config[name] == 1 - 1e-7


def test_a_rate_that_overflows_when_it_is_normalised():
    given = config_fields(beta=1e-30, forward_lr=1e30, normalize_lr=True)
    refused(given, "forward_lr / config.beta", "1e+60")


@pytest.mark.parametrize("name", [n for n, field in FIELDS.items() if field.is_tuple])
def test_long_tuples(name):
    refused(config_fields(**{name: (1,) * 10**6}), name, "1000000 values", "no more than 1000")


@pytest.mark.parametrize(
    "change, blamed",
    [
        ({"channels": (10**9,), **ONE}, "channels"),
        ({"channels": (10**6, 10**6)}, "channels"),
        ({"network": "mlp", "channels": (), "hidden": (MOST,) * 3, **ONE}, "hidden"),
        ({"network": "lenet", "hidden": (MOST, MOST), "channels": (4,), **ONE}, "hidden"),
        ({"network": "resnet34", "channels": (MOST,) * 5, "batch_norm": True, **ONE}, "channels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_that_no_device_can_hold(change, blamed):
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(config_fields(**change), blamed, "bytes", "no device has more than")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_what_the_user_has_set_is_blamed():
    given = config_fields(network="lenet", channels=(10**6,), hidden=(MOST,), **ONE)
    for overridden, blamed in ((), "hidden"), (("channels",), "channels"), (("seed",), "hidden"):
        with pytest.raises(ValueError, match=f"config.{blamed} is .* bytes"):
            validate(given, overridden=overridden)


def test_least_bytes_by_hand():
    """mlp of 8x8 -> 5 -> 10 with biases, batches of 4."""
    made = validate(config_fields(network="mlp", channels=(), hidden=(5,), batch_size=4, **ONE))
    parameters, activations = (64 + 1) * 5 + (5 + 1) * 10, 4 * (5 + 10)
    assert least_bytes(made.config, made.network) == 4 * (parameters + activations)


def test_samples_whose_noise_no_device_can_hold():
    line = refused(config_fields(feedback_samples=MOST), "feedback_samples", "no device has more")
    most = int(line.partition("at most ")[2].partition(":")[0])
    assert validate(config_fields(feedback_samples=most)).config["feedback_samples"] == most
    refused(config_fields(feedback_samples=most + 1), "feedback_samples")


@pytest.mark.parametrize("pretrain", [0, 3])
@pytest.mark.parametrize("feedback_pass", [False, True])
@pytest.mark.parametrize("alternate", [False, True])
def test_passes_are_those_of_a_list(pretrain, feedback_pass, alternate):
    """Against the list written out; and what each stretch of them trains."""
    given = {"pretrain_epochs": pretrain, "feedback_pass": feedback_pass, "alternate": alternate}
    expected = [(0, FEEDBACK_ONLY)] * pretrain
    for epoch in (1, 2, 3):
        expected += (
            [(epoch, FEEDBACK_ONLY), (epoch, FORWARD_ONLY)] if alternate else [(epoch, BOTH)]
        )
        expected += [(epoch, FEEDBACK_ONLY)] if feedback_pass else []
    found = passes(config_fields(epochs=3, **given))
    assert list(found) == expected and len(found) == len(expected)
    for first in range(len(expected)):
        for last in range(first, len(expected)):
            ways = {trains for _, trains in expected[first : last + 1]}
            assert found.ways(first, last) == ways, (first, last)
    with pytest.raises(IndexError):
        found[len(expected)]


def test_billions_of_passes_cost_nothing():
    given = config_fields(epochs=MOST, pretrain_epochs=MOST, feedback_pass=True, max_steps=1)
    start = time.process_time()
    found = passes(given)
    assert len(found) == 3 * MOST and found[len(found) - 1] == (MOST, FEEDBACK_ONLY)
    assert found.ways(0, len(found) - 1) == {BOTH, FEEDBACK_ONLY}
    assert total_steps(given, 1000) == 1
    assert time.process_time() - start < 0.1


def test_steps_are_counted_in_32_bits():
    """At the last number of epochs that fits; one more; and with a limit that ends it before."""
    per_epoch = 1257 // 32
    most = MOST // per_epoch
    fits, more = (config_fields(epochs=n) for n in (most, most + 1))
    assert total_steps(fits, 1257) == most * per_epoch <= MOST
    with pytest.raises(
        ValueError, match=rf"config.epochs is {most + 1}; .* 32 bits; or --config.max"
    ):
        total_steps(more, 1257)
    assert total_steps({**more, "max_steps": MOST}, 1257) == MOST
    with pytest.raises(ValueError, match="config.pretrain_epochs is"):
        total_steps({**fits, "pretrain_epochs": most + 1}, 1257)


def test_a_run_of_billions_of_epochs_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from dtp_jax.run.workdir import Workdir

    given = config_fields(epochs=MOST, max_steps=1, t_max=2)
    assert assemble.plan(given, Workdir(tmp_path / "w")).total_steps == 1
    with pytest.raises(ValueError, match="config.epochs is .* 32 bits"):
        assemble.plan({**given, "max_steps": 0}, Workdir(tmp_path / "w"))


def test_an_extension_is_counted_in_32_bits_too():
    saved = config_fields(epochs=2)
    extended, found = continued({**saved, "epochs": MOST}, saved, 39)
    assert found == (Extension(78, 2, MOST, 2),) and extended["epochs"] == MOST
    with pytest.raises(ValueError, match="config.epochs is .* 32 bits"):
        total_steps(extended, 1257)


@pytest.mark.parametrize(
    "extended",
    [
        3,
        "x",
        [3],
        [{}],
        [{"at_step": 1}],
        [{"at_step": "a", "from_epochs": 1, "to_epochs": 2, "t_max": 1}],
    ],
)
def test_extensions_that_nobody_has_written(extended):
    with pytest.raises(ValueError, match="allowed: ") as error:
        from_json({"extended": extended})
    assert "\n" not in str(error.value)


def test_words_stay_short():
    assert fields.described((1,) * 10**6) == "1000000 values"
    assert len(fields.described("x" * 10**6)) < 600
    assert len(fields.described(10**4000)) < 600
    assert fields.described(10**5000) == "a number of thousands of digits"
