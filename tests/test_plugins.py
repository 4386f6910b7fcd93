"""Rules and networks of users: registered, trained, found again, exported; and nothing runs by itself."""

import functools
import json
import re
import sys

import numpy as np
import pytest
import safetensors.numpy
from helpers import REPOSITORY, config_fields, slow
from launching import TINY, launch, rows

import dtp_jax as dtp
from dtp_jax.compare import __main__ as compare
from dtp_jax.export import __main__ as export
from dtp_jax.fields import Field, positive
from dtp_jax.networks import NETWORKS
from dtp_jax.rules import RULES
from dtp_jax.run import loading
from dtp_jax.run.config import validate

pytest_plugins = ["run_fixtures"]

RECIPE = (REPOSITORY / "docs" / "add_a_rule.md").read_text()
SCRIPT = re.search(r"```python\n(.*?)```", RECIPE, re.DOTALL)[1]
NETWORK = """
import dtp_jax as dtp
from dtp_jax.blocks import chain, dense_block

@dtp.networks.register(fields={"depth": 2})
def tower(input_shape, classes, *, activation="elu", depth):
    hidden = [dense_block(f"fc{i}", features=6, activation=activation) for i in range(depth)]
    return chain(input_shape, [*hidden, dense_block("readout", features=classes)])
"""


def forget():
    """As in a new process: nothing is registered."""
    for table in (RULES, NETWORKS):
        for name in list(table.origins):
            del table[name]


@pytest.fixture(autouse=True)
def nothing_registered():
    forget()
    yield
    forget()


@pytest.fixture
def my_rule(place):
    (place / "my_rule.py").write_text(SCRIPT)
    return place / "my_rule.py"


def saved(workdir):
    return json.loads((workdir / "config.json").read_text())


def refused(*args):
    found = launch(*args)
    assert found.code == 2 and len(found.err.splitlines()) == 1 and "Traceback" not in found.err
    return found.err


# The script of the docs.


def test_a_rule_from_a_users_folder_trains_resumes_and_is_exported(place, my_rule, capsys):
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 20
    args = ("--workdir=w", *TINY, "--config.gain=2")
    assert launch("--config=my_rule.py", *args, "--config.max_steps=2").code == 0
    assert saved(place / "w")["gain"] == 2.0 and saved(place / "w")["rule"] == "eager_ldrl"
    assert saved(place / "w")["provenance"]["registered_by"] == {"rule": str(my_rule)}
    forget()
    message = refused("--workdir=w", "--config.max_steps=4")
    assert f"'eager_ldrl' was registered by {my_rule}" in message and "--plugin=" in message
    assert launch("--plugin=my_rule.py", "--workdir=w", "--config.max_steps=4").code == 0
    assert [row["step"] for row in rows(place / "w", "train")] == [1, 2, 3, 4]
    forget()
    assert export.main(["w", "x.safetensors"]) == 2
    assert f"registered by {my_rule}" in capsys.readouterr().err
    assert export.main(["w", "x.safetensors", "--plugin=my_rule.py"]) == 0
    assert "forward/fc/kernel" in safetensors.numpy.load_file(place / "x.safetensors")
    forget()  # and back again, from the file alone
    assert export.main(["--to-workdir", "v", "x.safetensors"]) == 2
    assert f"registered by {my_rule}" in capsys.readouterr().err
    assert export.main(["--to-workdir", "v", "x.safetensors", "--plugin=my_rule.py"]) == 0
    assert launch("--workdir=v", "--config.max_steps=1").code == 0
    with pytest.raises(ValueError, match="registered by"):
        forget()
        dtp.load_run("w")


def test_its_hyper_parameter_changes_what_is_trained(place, my_rule):
    """gain * beta is all it does: L-DRL with that beta takes the same steps."""
    args = (*TINY, "--config.max_steps=3")
    assert launch("--config=my_rule.py", "--workdir=a", *args, "--config.beta=0.2").code == 0
    assert launch("--workdir=b", *args, "--config.beta=0.3").code == 0  # gain is 1.5 by default
    losses = [[row["loss"] for row in rows(place / name, "train")] for name in "ab"]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_field_is_checked_like_any_other(my_rule):
    assert "config.gain is 'much'; allowed: a number" in refused(
        "--config=my_rule.py", "--config.gain=much"
    )
    message = refused("--plugin=my_rule.py", "--config.gain=2")
    assert "config.gain: a field of the rule eager_ldrl alone" in message
    found = refused("--plugin=my_rule.py", "--config.rule=eager_ldrl", "--config.gian=2")
    assert "config.gian: no such field" in found


def test_the_rule_by_an_override(place, my_rule):
    args = ("--plugin=my_rule.py", "--config.rule=eager_ldrl", "--config.gain=3", "--workdir=w")
    assert launch(*args, *TINY, "--config.max_steps=1").code == 0
    assert saved(place / "w")["gain"] == 3.0


def test_a_module_is_named_as_one(place, monkeypatch, my_rule):
    monkeypatch.syspath_prepend(str(place))
    assert launch("--plugin=my_rule", "--config.rule=eager_ldrl", "--workdir=w", *TINY,
                  "--config.max_steps=1").code == 0  # fmt: skip
    assert saved(place / "w")["provenance"]["registered_by"] == {"rule": "my_rule"}
    del sys.modules["my_rule"]


def test_compare_finds_it_again(place, my_rule, single_precision):
    """By the file that is its config, by a plugin, and finished runs without training again."""
    args = ["--seeds=1", "--workdir=c", *TINY, "--config.max_steps=1"]
    assert compare.main(["--configs=my_rule.py", *args]) == 0
    forget()
    named = ["--configs=digits_dtp[rule=eager_ldrl][gain=2]", *args]
    assert compare.main(named) == 2
    assert compare.main([*named, "--plugin=my_rule.py"]) == 0
    assert {path.name for path in (place / "c").iterdir() if path.is_dir()} == {
        "my_rule",
        "digits_dtp-rule=eager_ldrl-gain=2",
    }


# Networks.


def test_a_network_with_a_field_of_its_own(place):
    (place / "tower.py").write_text(NETWORK)
    args = (
        "--plugin=tower.py",
        "--config.network=tower",
        "--config.depth=3",
        "--config.channels=()",
    )
    args += ("--config.noise=.1", "--config.feedback_lr=.01", "--config.feedback_iterations=2")
    assert launch(*args, "--workdir=w", "--config.max_steps=1").code == 0
    assert saved(place / "w")["depth"] == 3
    run = dtp.load_run("w")
    assert [block.name for block in run.learner.network] == ["fc0", "fc1", "fc2", "readout"]
    forget()
    assert "its network 'tower' was registered by" in refused("--workdir=w")


# Registering.


def test_a_value_for_each_map():
    @dtp.rules.register(
        fields={"scale": Field(float, "numbers above 0", positive, True, True, 2.0)}
    )
    def scaled(*, noise, beta, scale):
        assert len(scale) == len(noise)
        return dtp.ldrl(noise=noise, beta=beta * sum(scale))._replace(name="scaled")

    fields = config_fields(rule="scaled", channels=(4, 8))
    assert validate(fields).config["scale"] == (2.0, 2.0)
    assert validate({**fields, "scale": (1, 3)}).config["scale"] == (1.0, 3.0)
    with pytest.raises(
        ValueError, match=r"config.scale is \(1.0, 2.0, 3.0\); allowed: 1 value, or 2"
    ):
        validate({**fields, "scale": (1, 2, 3)})


@pytest.mark.parametrize(
    "name, fields, said",
    [
        ("ldrl", {}, "rule is 'ldrl', which is built in; allowed: another name"),
        ("new", {"gain": None}, "fields['gain'] is None; allowed: True, False, a number"),
        ("new", {"gain": Field(float, "x")}, "fields['gain'] has no default"),
    ],
)
def test_what_cannot_be_registered(name, fields, said):
    with pytest.raises(ValueError) as error:
        dtp.rules.register(lambda *, beta: dtp.fw_dtp(beta=beta), name=name, fields=fields)
    assert said in str(error.value) and name in RULES if name == "ldrl" else name not in RULES


def test_a_name_belongs_to_the_first_who_took_it(place, my_rule):
    (place / "other.py").write_text(SCRIPT)
    message = refused("--plugin=my_rule.py,other.py")
    assert "other.py" in message and f"registered by {my_rule}" in message
    forget()
    assert "looking" not in refused(
        "--plugin=my_rule.py", "--plugin=my_rule.py", "--config.seed=-2"
    )


def test_one_file_as_a_module_and_by_its_name_is_one_plugin(place, my_rule, monkeypatch):
    monkeypatch.syspath_prepend(str(place))
    (place / "mine.py").write_text(
        "import my_rule\nfrom dtp_jax.configs.digits_dtp import get_config\n"
    )
    for first, second in (("my_rule", "my_rule.py"), ("my_rule.py", "my_rule")):
        forget()
        monkeypatch.delitem(sys.modules, "my_rule", raising=False)
        loading.load_plugins([first])
        (name,) = RULES.origins
        origin = RULES.origins[name]
        loading.load_plugins([second])
        loading.load_config("mine.py")
        assert RULES.origins == {name: origin}


def test_a_field_that_exists_and_an_argument_that_none_has():
    dtp.rules.register(lambda *, beta: dtp.fw_dtp(beta=beta), name="one", fields={"epochs": 3})
    with pytest.raises(ValueError, match="^config.epochs: the rule one brings it; allowed: a name"):
        validate(config_fields(rule="one"))
    dtp.rules.register(lambda *, gain: dtp.fw_dtp(beta=gain), name="two")
    with pytest.raises(
        ValueError, match="^config.rule is 'two', which takes 'gain', a name that no"
    ):
        validate(config_fields(rule="two"))


# What a factory returns.


def dense(name, features):
    return dtp.dense_block(name, features=features)


def lying(input_shape, classes):
    """Its last block says that it puts out all classes."""
    (block,) = dtp.chain(input_shape, [dense("all", 5)])
    return [block._replace(output_shape=(classes,))]


WRONG_NETWORKS = {
    "nothing": (lambda shape, classes: None, "network is None; allowed: one or more blocks"),
    "a failure": (lambda shape, classes: {}["width"], "it fails with KeyError: 'width'"),
    "an argument": (lambda shape, classes, *, wdith: 0, "it fails with TypeError: "),
    "another number of classes": (
        lambda shape, classes: dtp.chain(shape, [dense("fc", 5)]),
        "network[-1].output_shape is (5,); allowed: (10,), a number for each class of digits",
    ),
    "images": (
        lambda shape, classes: dtp.chain(shape, [dtp.conv_block("c", channels=10, window=1)]),
        "network[-1].output_shape is (8, 8, 10); allowed: (10,), a number for each",
    ),
    "other images": (
        lambda shape, classes: dtp.chain((8, 8, 3), [dense("fc", classes)]),
        "network[0].input_shape is (8, 8, 3); allowed: (8, 8, 1), an image of digits",
    ),
    "one name": (
        lambda shape, classes: [*dtp.chain(shape, [dense("fc", 10)])] * 2,
        "network is ('fc', 'fc'); allowed: blocks with a name of their own each",
    ),
    "another output": (lying, "activations.h[1] is float32[2, 5]; allowed: (batch, 10)"),
}
WRONG_RULES = {
    "nothing": (lambda: None, "rule is None; allowed: a rule, such as"),
    "a tuple": (lambda: ("mine", 1), "rule is ('mine', 1); allowed: a rule, such as"),
    "a failure": (lambda: 1 / 0, "it fails with ZeroDivisionError: division by zero"),
    "lines": (lambda: dtp.ldrl(noise="a\nb", beta=1), "noise is 'a\\nb'; allowed: finite"),
    "half": (
        lambda: (rule := dtp.dtp(noise=0.1, beta=1))._replace(
            feedback_training=rule.feedback_training._replace(prepare=max)
        ),
        "rule.feedback_training.gradient is None; allowed: both or neither",
    ),
}


@pytest.mark.parametrize(
    ("table", "kind"),
    [("network", kind) for kind in WRONG_NETWORKS] + [("rule", kind) for kind in WRONG_RULES],
)
def test_what_is_no_network_and_no_rule_is_refused_with_the_config(table, kind):
    factory, said = {"network": WRONG_NETWORKS, "rule": WRONG_RULES}[table][kind]
    {"network": NETWORKS, "rule": RULES}[table].register(factory, name="mine")
    with pytest.raises(ValueError) as error:
        validate(config_fields(**{table: "mine"}, channels=() if table == "network" else (4, 8)))
    line = str(error.value)
    assert line.startswith(f"config.{table} is 'mine': {said}") and "\n" not in line


def test_what_a_learner_refuses_is_refused_before_there_is_a_folder(place):
    """Values for three maps, of a rule whose config knows nothing of them; and kernels that it cannot replace."""
    dtp.rules.register(lambda: dtp.ldrl(noise=(0.1,) * 3, beta=1), name="three")
    message = refused("--config.rule=three", "--config.channels=4,8", "--workdir=w")
    assert "noise is (0.1, 0.1, 0.1); allowed: 1 value, or 2: one for each of conv_1, fc" in message
    assert not any(place.iterdir())


def test_a_factory_that_takes_any_argument():
    """It is given the fields that it has brought, and no more."""
    given = []

    def anything(*others, beta, **rest):
        given.append((others, rest))
        return dtp.fw_dtp(beta=beta)

    dtp.rules.register(anything, fields={"gain": 1.5})
    validate(config_fields(rule="anything"))
    dtp.networks.register(
        lambda shape, classes, **rest: dtp.mlp(shape, classes, hidden=(rest["narrow"],)),
        name="any_mlp",
        fields={"narrow": 3},
    )
    found = validate(config_fields(rule="anything", network="any_mlp", channels=()))
    assert found.network[0].output_shape == (3,)
    assert given and all(one == ((), {"gain": 1.5}) for one in given)


def test_a_factory_without_a_name_of_its_own():
    half = functools.partial(dtp.fw_dtp, beta=0.5)
    with pytest.raises(
        ValueError, match=r"^rule to register is functools.partial.*; allowed: register\(FUN"
    ):
        dtp.rules.register(half)
    with pytest.raises(ValueError, match="^network to register is 'mlp'; allowed: a function"):
        dtp.networks.register("mlp")
    dtp.rules.register(functools.partial(forget), name="half")
    assert RULES.origins["half"] == __name__  # where it is written, not functools


# Nothing runs by itself.


@pytest.mark.parametrize("value", [slow("hostile"), "hostile.py", slow("/nowhere/hostile.py")])
def test_a_workdir_that_names_a_hostile_module_runs_nothing(
    place, reference, monkeypatch, value, capsys
):
    """Neither from the current folder, nor from the workdir, nor from the path of modules."""
    folder = place / "w"
    folder.mkdir()
    for where in (place, folder):
        (where / "hostile.py").write_text(f"open({str(place / 'harm')!r}, 'w').write('done')\n")
    monkeypatch.syspath_prepend(str(place))
    config = json.loads((reference[0] / "config.json").read_text())
    for rule in ("hostile", "ldrl"):
        config["rule"] = rule
        config["provenance"] |= {
            "registered_by": {"rule": value},
            "config": value,
            "command": value,
        }
        (folder / "config.json").write_text(json.dumps(config))
        code = launch("--workdir=w", "--config.max_steps=1").code
        assert code == (2 if rule == "hostile" else 0)
        export.main(["w", "x.safetensors"])
        launch("--config=w/config.json", "--workdir=v", "--config.max_steps=1")
        if rule == "hostile":
            with pytest.raises(ValueError, match="registered by"):
                dtp.load_run("w")
    assert not (place / "harm").exists() and "hostile" not in sys.modules


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "1/0", "import no_such_module", "x ="])
def test_a_plugin_that_fails_is_one_line(place, text):
    (place / "bad.py").write_text(text)
    message = refused("--plugin=bad.py")
    assert "--plugin is 'bad.py', which fails with" in message
    assert "--plugin is 'none.py', which fails with FileNotFoundError" in refused(
        "--plugin=none.py"
    )
    assert "--plugin is 'no_module', which fails with ModuleNotFound" in refused(
        "--plugin=no_module"
    )
