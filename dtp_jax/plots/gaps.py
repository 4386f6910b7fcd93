"""Where an axis is mostly empty: one rule at chance, ten others at 80 %."""

from collections.abc import Sequence

import numpy as np


def split_at_gap(ranges: Sequence[tuple[float, float]]) -> tuple[list[int], list[int]]:
    """Numbers of the lines above the widest gap that no line crosses, and of those below it.

    All and none where it takes no more than half of the axis, or leaves fewer than three lines on either side.

    Args:
      ranges: lowest and highest value of each line.
    """
    order = sorted(range(len(ranges)), key=lambda i: ranges[i])
    gaps, highest = [], -np.inf
    for place, i in enumerate(order):  # from below: the gap under this line, if there is one
        gaps.append((ranges[i][0] - highest if place else 0.0, place))
        highest = max(highest, ranges[i][1])
    widest, place = max(gaps, default=(0.0, 0))
    larger = max(place, len(order) - place)
    if larger < 3 or widest <= 0.5 * (highest - ranges[order[0]][0]):
        return list(range(len(ranges))), []
    return sorted(order[place:]), sorted(order[:place])
