"""What each figure trains and shows, and what was published of it."""

import re
from collections.abc import Mapping, Sequence
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
QUICK_EXTRA = {**QUICK, "seeds": 1, "iterations": 50}
"""Of 4.3-extra, whose networks are larger."""

LENET = {
    "network": "lenet",
    "beta": 0.4655,
    "noise": (0.2, 0.2, 0.1),
    "feedback_lr": (1e-4, 2.5e-3, 0.01),
}
QUICK_LENET = {**LENET, "feedback_lr": (2e-3, 2e-2, 0.05)}
QUICK_NETWORKS = {
    "lenet": {"channels": (8, 16), "hidden": (64,)},
    "simple_vgg": {"channels": (8, 16, 32)},
    "resnet18": {"channels": (4, 4, 8, 8, 16)},
    "resnet34": {"channels": (4, 4, 8, 8, 16)},
}
"""Narrow, and no deeper than images of 8x8 allow."""
QUICK_VGG = {"noise": (0.4, 0.2, 0.08), "feedback_lr": (3.5e-4, 4e-3, 0.06)}
"""Of as many maps as the narrow one has: those of `cifar10_small_dtp`."""


FLAGS = {
    "noise": "noise",
    "feedback_lr": "feedback_lr",
    "network": "network",
    "dataset": "dataset",
    "batch_size": "batch",
    "feedback_iterations": "iterations",
    "data_dir": "data_dir",
}
"""Fields of a config, and the flags of the command that set them."""


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
    small = QUICK_EXTRA if figure == "4.3-extra" else QUICK
    chosen = {**SETTINGS, **(small if quick else {}), **settings}
    rules = _rules(figure, chosen["rules"], "rules" in settings)
    _check(chosen, settings, rules)
    networks = (chosen["network"],) if "network" in chosen else NETWORKS[figure]
    first = chosen["first_seed"]
    return Protocol(
        figure,
        networks,
        rules,
        tuple(range(first, first + chosen["seeds"])),
        {
            (network, rule): _experiment(network, rule, chosen, quick=quick)
            for network in networks
            for rule in rules
        },
        quick,
    )


def _rules(figure: str, given: Sequence[str], is_asked: bool) -> tuple[str, ...]:
    """Those of the figure. Raises ValueError where they cannot be drawn."""
    if not given:
        raise fields.error("--rules", "", f"one or more of {', '.join(NAMES)}")
    if len(set(given)) < len(given):
        raise fields.error("--rules", ",".join(given), "each rule once")
    for rule in given:
        if rule not in NAMES:
            raise fields.error("--rules", rule, ", ".join(NAMES))
        if figure == "4.2" and rule not in TRAINED:
            allowed = f"rules that train feedback weights: {', '.join(TRAINED)}"
            raise fields.error("--rules", rule, allowed)
    return ("ldrl",) if figure == "4.3-extra" and not is_asked else tuple(given)


def _check(chosen: Mapping[str, Any], settings: Mapping[str, Any], rules: Sequence[str]) -> None:
    """Raises ValueError where a setting is out of range, or would change nothing."""
    for name in ("seeds", "iterations", "batch"):
        fields.checked(f"--{name}", chosen[name], fields.AT_LEAST_1)
    first = fields.checked("--first_seed", chosen["first_seed"], SEED)
    if not SEED.accepts(first + chosen["seeds"] - 1):
        allowed = f"1 to {2**31 - first}, for seeds end at 2**31 - 1"
        raise fields.error("--seeds", chosen["seeds"], allowed)
    with_own = [rule for rule in TRAINED if rule != "drl"]  # which has rates and noise of its own
    for name, of in (("iterations", TRAINED), ("noise", with_own), ("feedback_lr", with_own)):
        if name in settings and not set(rules) & set(of):
            raise fields.error(f"--{name}", settings[name], f"with one of --rules={','.join(of)}")


def _experiment(network: str, rule: str, chosen: Mapping[str, Any], *, quick: bool) -> Experiment:
    """A rule with its published hyper-parameters, on the figure's network and data, without biases."""
    is_lenet, is_drl = network == "lenet", rule == "drl"
    config = dict(load_config("cifar10_drl" if is_drl else "cifar10_dtp").config)
    if is_drl:
        config |= {"network": "lenet", "activation": "elu"}
        if not is_lenet:
            # One rate and one sigma stand for all of its maps. Those of forward weights train nothing here.
            one = {name: config[name][:1] for name in ("noise", "feedback_lr")}
            config |= {"block_forward_lr": (), "forward_eps": (1e-8,), **one}
    elif is_lenet:
        config |= QUICK_LENET if quick else LENET
    elif quick and network == "simple_vgg":
        config |= QUICK_VGG
    if not is_drl:
        config |= {name: chosen[name] for name in ("noise", "feedback_lr") if name in chosen}
    if quick:
        config |= QUICK_NETWORKS.get(network, {})
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
    try:
        return validate(config, overridden)
    except ValueError as error:
        raise ValueError(by_flags(str(error))) from error


def by_flags(message: str) -> str:
    """A message about fields of a config, about the flags of this command that set them."""
    for field, flag in FLAGS.items():
        message = re.sub(rf"(--)?config\.{field}\b", f"--{flag}", message)
    return message


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
TRAINED = tuple(rule for rule in NAMES if _trained(rule))
"""Rules that have maps which a figure trains."""
