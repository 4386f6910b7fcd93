"""What runs have measured over their epochs."""

from collections.abc import Sequence
from typing import NamedTuple

from dtp_jax.report.folders import Group
from dtp_jax.report.reading import Reading

MEASURES = {
    "angle": ("Weight angle", "degrees"),
    "distance": ("Weight distance", "relative to the forward weights"),
    "norm_ratio": ("Norm ratio", "feedback over forward weights"),
    "update_angle": ("Update angle to backprop", "degrees"),
    "update_distance": ("Update distance to backprop", "relative"),
    "jacobian_distance": ("Distance of Jacobians", "relative"),
    "gauss_newton_angle": ("Angle to Gauss-Newton targets", "degrees"),
    "null_space_share": ("Share of the step in the null space", "share"),
    "eigenvalue_trace": ("Trace of J_F J_G", "sum of eigenvalues"),
    "eigenvalue_positive": ("Eigenvalues of J_F J_G with positive real part", "share"),
}
"""What comes before the slash of a name in metrics.jsonl: its title, and its unit."""

LARGEST = 1e30
"""Nothing beyond it can be drawn; a run that gets there has diverged."""


class Curve(NamedTuple):
    """Something that every epoch of a run has a number of."""

    name: str
    """For ids of a page: letters, digits and hyphens."""
    title: str
    unit: str
    splits: Sequence[str]
    """Of metrics.jsonl; the first one that has it counts."""
    column: str
    factor: float = 1
    first: int = 1
    """Epoch; 0 where a pass before the first one, which trains feedback alone, has a number, too."""

    def of(self, run: Reading) -> dict[int, float]:
        """Epoch -> number; {} where the run has none."""
        for split in self.splits:
            found = run.metrics.of(split).by_epoch(self.column, self.first)
            if found := {n: self.factor * v for n, v in found.items() if abs(v) < LARGEST}:
                return found
        return {}

    def last(self, group: Group) -> list[float]:
        """The number of the last epoch, of every run that counts and has any."""
        found = [self.of(run) for run in group.counted]
        return [one[max(one)] for one in found if one]


LEARNING = (
    Curve("val-accuracy", "validation accuracy", "accuracy, %", ["val"], "accuracy", 100),
    Curve("val-loss", "validation loss", "loss", ["val"], "loss"),
    Curve("train-accuracy", "training accuracy", "accuracy, %", ["train"], "accuracy", 100),
    Curve("train-loss", "training loss", "loss", ["train"], "loss"),
)
ACCURACY = Curve("", "accuracy", "accuracy, %", ["val", "train"], "accuracy", 100)
"""Of validation images, or of training images where none were held out."""


def measured(groups: Sequence[Group], measure: str) -> list[Curve]:
    """One curve for each kernel, block or parameter that a measure was taken of, in a run that counts.

    Args:
      measure: one of MEASURES.
    """
    names = dict.fromkeys(name for g in groups for run in g.counted for name in run.metrics)
    unit = MEASURES[measure][1]
    return [
        Curve(f"{number}", name.partition("/")[2], unit, ["diagnostics", "train"], name, first=0)
        for number, name in enumerate(n for n in names if n.startswith(f"{measure}/"))
    ]
