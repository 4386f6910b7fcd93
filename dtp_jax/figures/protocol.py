"""What each figure trains and shows, and what was published of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dtp_jax import fields
from dtp_jax.blocks import init_forward
from dtp_jax.learning.learner import Learner
from dtp_jax.run.build import Experiment, build_learner
from dtp_jax.run.config import BOOKKEEPING, SEED, validate
from dtp_jax.run.loading import load_config

FIGURES = {
    "4.2": "angle and distance of the output layer's feedback weights while they are trained",
    "4.3": "angle of a rule's update to backprop's gradient, by layer",
    "4.3-extra": "the same for simple_vgg and the resnets",
}
NETWORKS = {
    "4.2": ("lenet",),
    "4.3": ("lenet",),
    "4.3-extra": ("simple_vgg", "resnet18", "resnet34"),
}
SETTINGS = {
    "seeds": 5,
    "first_seed": 123,
    "iterations": 5000,
    "batch": 256,
    "dataset": "cifar10",
    "rules": ("drl", "ldrl"),
}
"""Ernoult et al. 2022, section 4 and its appendix."""
QUICK = {"seeds": 2, "iterations": 600, "batch": 64, "dataset": "digits"}

LENET = {
    "network": "lenet",
    "beta": 0.4655,
    "noise": (0.2, 0.2, 0.1),
    "feedback_lr": (1e-4, 2.5e-3, 0.01),
}
QUICK_LENET = {**LENET, "channels": (8, 16), "hidden": (64,), "feedback_lr": (2e-3, 2e-2, 0.05)}


class Series(NamedTuple):
    """Bars of one look: a rule, and where its feedback weights come from."""

    rule: str
    feedback: str
    """random: as they are initialised. trained: for so many iterations. stale: likewise, with the steps that
    the public program of DRL takes on gradients it has not renewed. symmetric: the forward weights.
    solved: in closed form."""

    @property
    def label(self) -> str:
        words = {
            "trained": "trained",
            "stale": "trained as published (stale gradients)",
            "symmetric": "symmetric weights",
            "solved": "in closed form",
        }
        return f"{NAMES[self.rule]}, {words.get(self.feedback, 'random feedback')}"


NAMES = {
    "ldrl": "L-DRL",
    "drl": "DRL",
    "dtp": "DTP",
    "tp": "TP",
    "fw_dtp": "FW-DTP",
    "feedback_alignment": "FA",
    "direct_feedback_alignment": "DFA",
    "analytic": "analytic",
}
BLOCKS = ("conv_0", "conv_1", "fc1", "fc2")
PUBLISHED: dict[Series, tuple[tuple[float, float], ...]] = {
    Series("drl", "random"): ((90, 2), (90, 2), (89, 2), (1.5, 0)),
    Series("ldrl", "random"): ((87, 6), (90, 5), (90, 2), (0, 0)),
    Series("drl", "stale"): ((85, 7), (83, 2), (13.5, 0.5), (1.5, 0)),
    Series("ldrl", "trained"): ((33.5, 1.5), (8, 0.6), (2.6, 0.1), (0, 0)),
    Series("ldrl", "symmetric"): ((24, 3), (2.3, 0.3), (0.1, 0), (0, 0)),
}
"""Figure 4.3: degrees and standard deviation for each of BLOCKS, read off the published plot."""
PUBLISHED_ENDS = {"ldrl": (3.0, 0.05), "drl": (17.0, 1.8)}
"""Figure 4.2, the last iteration: degrees, and distance relative to the forward weights."""


class Protocol(NamedTuple):
    """Everything that a figure depends on."""

    figure: str
    networks: tuple[str, ...]
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    experiments: Mapping[tuple[str, str], Experiment]
    """By (network, rule)."""
    is_quick: bool = False

    @property
    def series(self) -> tuple[Series, ...]:
        """In the order in which they are drawn."""
        return tuple(one for kind in KINDS for rule in self.rules for one in kind(rule))

    def learner(self, network: str, rule: str) -> Learner:
        """That of the experiment. The forward weights have PyTorch's initial distribution for all rules:
        what is compared is the feedback."""
        experiment = self.experiments[network, rule]
        made = build_learner(experiment, steps_per_epoch=1)
        return made.replace(rule=made.rule._replace(init_forward=init_forward))

    def written(self) -> dict[str, Any]:
        """As it stands in protocol.json: whatever changes a number, but for the seeds, which may become more."""
        left_out = ("seed", *BOOKKEEPING)
        return {
            "figure": self.figure,
            "configs": {
                f"{network}, {rule}": {
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in experiment.config.items()
                    if name not in left_out
                }
                for (network, rule), experiment in self.experiments.items()
            },
        }


def protocol(figure: str, settings: Mapping[str, Any], *, quick: bool = False) -> Protocol:
    """The protocol of a figure, with some settings instead of the paper's.

    Args:
      settings: of SETTINGS, and "network", "data_dir", "noise" and "feedback_lr" (of L-DRL).

    Raises:
      ValueError: one line; a setting has a value that it cannot have.
    """
    chosen = {**SETTINGS, **(QUICK if quick else {}), **settings}
    for name in ("seeds", "iterations", "batch"):
        fields.checked(f"--{name}", chosen[name], fields.AT_LEAST_1)
    fields.checked("--first_seed", chosen["first_seed"], SEED)
    if not chosen["rules"]:
        raise fields.error("--rules", "", f"one or more of {', '.join(NAMES)}")
    given = tuple(chosen["rules"])
    if len(set(given)) < len(given):
        raise fields.error("--rules", ",".join(given), "each rule once")
    for rule in given:
        if rule not in NAMES:
            raise fields.error("--rules", rule, ", ".join(NAMES))
        if figure == "4.2" and not _trained(rule):
            allowed = ", ".join(name for name in NAMES if _trained(name))
            raise fields.error("--rules", rule, f"rules that train feedback weights: {allowed}")
    for name in ("noise", "feedback_lr"):
        if name in settings and set(given) == {"drl"}:
            raise fields.error(f"--{name}", chosen[name], "rules other than drl, which has its own")
    networks = (chosen["network"],) if "network" in chosen else NETWORKS[figure]
    rules = ("ldrl",) if figure == "4.3-extra" and "rules" not in settings else chosen["rules"]
    first = chosen["first_seed"]
    return Protocol(
        figure,
        networks,
        tuple(rules),
        tuple(range(first, first + chosen["seeds"])),
        {
            (network, rule): _experiment(network, rule, chosen, quick=quick)
            for network in networks
            for rule in rules
        },
        quick,
    )


def _experiment(network: str, rule: str, chosen: Mapping[str, Any], *, quick: bool) -> Experiment:
    """A rule with its published hyper-parameters, on the figure's network and data, without biases."""
    is_lenet, is_drl = network == "lenet", rule == "drl"
    config = dict(load_config("cifar10_drl" if is_drl else "cifar10_dtp").config)
    if is_drl:
        config |= {"network": "lenet", "activation": "elu"}
    elif is_lenet:
        config |= QUICK_LENET if quick else LENET
    if not is_drl:
        config |= {name: chosen[name] for name in ("noise", "feedback_lr") if name in chosen}
    if is_lenet and quick:
        config |= {name: QUICK_LENET[name] for name in ("channels", "hidden")}
    config |= {
        "rule": rule,
        "network": network,
        "bias": False,
        "dataset": chosen["dataset"],
        "data_dir": chosen.get("data_dir", ""),
        "batch_size": chosen["batch"],
        "feedback_iterations": (chosen["iterations"],),
    }
    overridden = {"network", "dataset", "batch_size"} & set(chosen)
    return validate(config, overridden)


def _random(rule: str) -> tuple[Series, ...]:
    return () if rule == "analytic" else (Series(rule, "random"),)


def _trained(rule: str) -> tuple[Series, ...]:
    if rule == "drl":
        return Series(rule, "stale"), Series(rule, "trained")
    return (Series(rule, "trained"),) if rule in ("ldrl", "dtp", "tp") else ()


def _given(rule: str) -> tuple[Series, ...]:
    if rule == "analytic":
        return (Series(rule, "solved"),)
    return (Series(rule, "symmetric"),) if rule in ("ldrl", "dtp") else ()


KINDS = (_random, _trained, _given)
