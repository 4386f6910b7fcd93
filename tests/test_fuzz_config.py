"""Random configs and random command lines: a valid experiment, or one line that says what is wrong.

$FUZZ times as many are tried as without it. What was tried is added to the file $FUZZ_REPORT, where it is set.
"""

import json
import math
import os
import re
import time

import pytest
from helpers import config_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtp_jax.data import DataError
from dtp_jax.networks import NETWORKS
from dtp_jax.rules import RULES
from dtp_jax.run import assemble, cli
from dtp_jax.run.config import FIELDS, validate

pytest_plugins = ["run_fixtures"]

FUZZ = int(os.environ.get("FUZZ", "1"))
tried = {"configs": 0, "command lines": 0}

NUMBERS = [
    *(n + d for n in (0, 2**24, 2**31, 2**32, 2**63, 10**30, 10**4000) for d in (-1, 0, 1)),
    *(0.0, 5e-324, 1e-320, 1e-45, 1e-38, 0.1, 0.5, 0.99999999999, 1.0, 1.5, 3.4e38, 1e39, 1e308),
    *(math.inf, -math.inf, math.nan, -0.0, -1e-320),
]
numbers = st.sampled_from(NUMBERS) | st.integers(-3, 300) | st.floats(0, 2)
texts = st.text(max_size=8) | st.sampled_from(
    ["", "digits", "gs://a/b", "~nosuchuser/x", "a\nb", "\0", "\udc80"]
)
things = (
    numbers | texts | st.booleans() | st.none() | st.just({}) | st.just(b"x") | st.just(object())
)
values = (
    things
    | st.lists(numbers, max_size=4).map(tuple)
    | st.lists(things, max_size=4)
    | st.sampled_from([(4,) * 10**6, (2**31 - 1,) * 5, (10**9,), [[1]], ((1,),)])
)
known = st.sampled_from(
    [
        (name, value)
        for name, names in {"rule": RULES, "network": NETWORKS}.items()
        for value in names
    ]
    + [
        ("dataset", "digits"),
        ("dataset", "mnist"),
        ("hidden", (8,)),
        ("hidden", ()),
        ("channels", ()),
    ]
    + [
        ("noise", (0.1,)),
        ("feedback_lr", (0.1,)),
        ("feedback_iterations", (1,)),
        ("batch_norm", True),
    ]
)
changes = st.lists(known | st.tuples(st.sampled_from(list(FIELDS)), values), max_size=5)


@pytest.fixture(scope="module", autouse=True)
def report():
    yield
    if os.environ.get("FUZZ_REPORT"):
        with open(os.environ["FUZZ_REPORT"], "a") as file:
            file.writelines(json.dumps({"what": k, "tried": n}) + "\n" for k, n in tried.items())


def few(count):
    return settings(
        max_examples=count * FUZZ,
        deadline=None,
        derandomize=FUZZ == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def line_of(error):
    """What is said, which is a line that a terminal can show."""
    line = str(error)
    assert line and line.isprintable() and len(line) < 3000, line[:300]
    return line


@few(180)
@given(changes)
def test_a_config_is_valid_or_refused_in_a_line(changes):
    tried["configs"] += 1
    fields, before = config_fields(**dict(changes)), time.process_time()
    try:
        experiment = validate(fields)
    except ValueError as error:
        line = line_of(error)
        assert any(name in line for name in FIELDS), line
    else:
        assert validate(experiment.config).config == experiment.config
        assert validate(json.loads(json.dumps(experiment.config))).config == experiment.config
    assert time.process_time() - before < 2


words = (
    texts
    | numbers.filter(lambda n: n < 10**31 or n != n).map(str)
    | st.sampled_from(
        [
            "4,8",
            "(4, 8)",
            "()",
            "True",
            "False",
            "no",
            "(" * 300,
            "4," * 2000,
            "-1",
            "1e400",
            "[1]",
            "{}",
            "'x'",
        ]
    )
)
flags = st.one_of(
    st.tuples(st.sampled_from(list(FIELDS)), words).map(
        lambda pair: "--config.{}={}".format(*pair)
    ),
    st.tuples(st.sampled_from(list(FIELDS)), words).map(
        lambda pair: (f"--config.{pair[0]}", pair[1])
    ),
    st.sampled_from(list(FIELDS)).map("--config.{}".format),
    st.sampled_from(list(FIELDS)).map("--noconfig.{}".format),
    st.tuples(
        st.sampled_from(
            ["config", "workdir", "processes", "process", "coordinator", "take-over", "lr"]
        ),
        words,
    ).map(lambda pair: "--{}={}".format(*pair)),
    st.sampled_from(
        ["--config=default", "--config=digits_backprop", "--workdir", "--", "-", "--flagfile=x"]
    ),
    words,
)


@few(60)
@given(st.lists(flags, max_size=4))
def test_a_command_line_is_read_or_refused_in_a_line(place_for_all, arguments):
    tried["command lines"] += 1
    argv = ["launch.py"]
    for argument in arguments:
        argv += argument if isinstance(argument, tuple) else (argument,)
    try:
        found = cli.parse([*argv])
        config = {**found.config, "dataset": "digits"}
        assemble.plan(config, found.workdir, overridden=found.overridden, extended=found.extended)
    except (ValueError, DataError) as error:
        line_of(error)
    assert not any(place_for_all.iterdir())


@pytest.fixture
def place_for_all(place):
    """An empty folder, which stays empty."""
    return place


def test_what_holds_of_a_flag_that_is_given_twice(place):
    """For every field: the last value, alone in what is recorded."""
    two = {bool: ("True", "False"), int: ("3", "2"), float: ("0.5", "0.25"), str: ("a", "b")}
    config = cli.parse(["x"]).config
    for name, field in FIELDS.items():
        first, last = two[field.kind]
        for again in ([f"--config.{name}={last}"], [f"--config.{name}", last]):
            found = cli.parse(["x", f"--config.{name}={first}", *again])
            expected = {"True": True, "False": False}.get(last, last)
            expected = field.kind(expected) if field.kind is not bool else expected
            kept = found.config[name]
            assert kept == ((expected,) if isinstance(config[name], tuple) else expected), name
            assert found.request.overrides == [f"--config.{name}={last}"]
            assert found.overridden == (name,)
    assert re.fullmatch(
        r"x --config\.seed=3 --config\.seed 2",
        cli.parse(["x", "--config.seed=3", "--config.seed", "2"]).request.command,
    )
