"""Learning rules: factories that return a `Rule`, with the equations and nothing else."""

from dtp_jax.registry import Registry
from dtp_jax.rules.analytic import analytic
from dtp_jax.rules.backprop import backprop, backprop_targets
from dtp_jax.rules.drl import drl
from dtp_jax.rules.dtp import dtp, tp
from dtp_jax.rules.fixed import direct_feedback_alignment, feedback_alignment, fw_dtp
from dtp_jax.rules.ldrl import ldrl
from dtp_jax.rules.rule import FeedbackTraining, Rule

RULES = Registry(
    "rule",
    (
        ldrl,
        dtp,
        tp,
        drl,
        fw_dtp,
        feedback_alignment,
        direct_feedback_alignment,
        analytic,
        backprop,
    ),
)
"""What `config.rule` may name. A new rule is a file here and an entry in this table, or a call of `register`
in a file of your own."""
register = RULES.register
"""Adds a rule of your own, as a function or as a decorator: see `dtp_jax.registry.Registry.register`."""

__all__ = [
    "RULES",
    "FeedbackTraining",
    "Rule",
    "analytic",
    "backprop",
    "backprop_targets",
    "direct_feedback_alignment",
    "drl",
    "dtp",
    "feedback_alignment",
    "fw_dtp",
    "ldrl",
    "register",
    "tp",
]
