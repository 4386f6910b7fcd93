"""Learning rules: one file each, whose factory returns a `Rule` with the equations and nothing else."""

from dtp_jax.rules.backprop import backprop, backprop_targets
from dtp_jax.rules.ldrl import ldrl
from dtp_jax.rules.rule import FeedbackTraining, Rule

RULES = {"ldrl": ldrl, "backprop": backprop}
"""What `config.rule` may name. A new rule is a file here and an entry in this line."""

__all__ = ["RULES", "FeedbackTraining", "Rule", "backprop", "backprop_targets", "ldrl"]
