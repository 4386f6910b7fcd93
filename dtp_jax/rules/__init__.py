"""Learning rules: factories that return a `Rule`, with the equations and nothing else."""

from dtp_jax.rules.analytic import analytic
from dtp_jax.rules.backprop import backprop, backprop_targets
from dtp_jax.rules.drl import drl
from dtp_jax.rules.dtp import dtp, tp
from dtp_jax.rules.fixed import direct_feedback_alignment, feedback_alignment, fw_dtp
from dtp_jax.rules.ldrl import ldrl
from dtp_jax.rules.rule import FeedbackTraining, Rule

RULES = {
    rule.__name__: rule
    for rule in (
        ldrl,
        dtp,
        tp,
        drl,
        fw_dtp,
        feedback_alignment,
        direct_feedback_alignment,
        analytic,
        backprop,
    )
}
"""What `config.rule` may name. A new rule is a file here and an entry in this table."""

__all__ = ["RULES", "FeedbackTraining", "Rule", "backprop_targets", *RULES]
