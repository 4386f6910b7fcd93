"""Differences between configs, paired by seed."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dtp_jax.report.folders import Group


class Difference(NamedTuple):
    """Of a config to the reference, over the seeds that both have finished."""

    label: str
    seeds: int
    mean: float
    """Of config minus reference, in the unit of the values."""
    error: float | None
    """Standard error of the mean; None of one seed."""
    t: float | None
    """Student's t of the mean; None of one seed, or where all differences are equal."""
    p: float | None
    """Of the two-sided test that the mean is 0; None as `t` is."""


def reference_of(groups: Sequence[Group], wanted: str | None = None) -> Group | None:
    """The config that the others are compared with: the one wanted, backprop, or else the first.

    Args:
      wanted: its label, with or without what all labels began with.

    Raises:
      ValueError: one line; no config is called as wanted.
    """
    if wanted is not None:
        labels = [group.label for group in groups]
        named = [group for group in groups if wanted in (group.label, group.full_label)]
        if not named:
            raise ValueError(f"--reference is {wanted!r}; allowed: one of {', '.join(labels)}")
        return named[0]
    backprop = [g for g in groups if g.config.get("rule") == "backprop" and g.finished]
    return backprop[0] if len(backprop) == 1 else next((g for g in groups if g.finished), None)


def differences(
    groups: Sequence[Group], reference: Group, name: str = "test_accuracy", factor: float = 100
) -> list[Difference]:
    """One for every other config that shares a seed with the reference.

    Args:
      name: of a number in the summaries; it is multiplied by `factor`.
    """
    base = _by_seed(reference, name)
    found = []
    for group in groups:
        values = _by_seed(group, name)
        seeds = sorted(base.keys() & values.keys())
        if group is not reference and seeds:
            pairs = [[factor * side[seed] for seed in seeds] for side in (values, base)]
            found.append(paired(group.label, *pairs))
    return found


def paired(label: str, values: Sequence[float], base: Sequence[float]) -> Difference:
    """Mean, standard error and Student's paired t-test of values minus base."""
    from scipy.stats import ttest_rel

    apart = np.subtract(values, base)
    count, mean = len(apart), float(np.mean(apart))
    if count < 2:
        return Difference(label, count, mean, None, None, None)
    error = float(np.std(apart, ddof=1) / math.sqrt(count))
    if error <= 1e-12 * max(1.0, abs(mean)):  # what rounding leaves of equal differences
        return Difference(label, count, mean, 0.0, None, None)
    test = ttest_rel(values, base)
    return Difference(label, count, mean, error, float(test.statistic), float(test.pvalue))


def _by_seed(group: Group, name: str) -> dict[int, float]:
    return {
        run.seed: run.summary[name]
        for run in group.finished
        if run.seed is not None and isinstance(run.summary.get(name), (int, float))
    }
