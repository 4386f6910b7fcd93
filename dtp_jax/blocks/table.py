"""A network as a table: what each block does, what it puts out, how many parameters it has."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from dtp_jax.blocks.block import Array, Network, Params, count, init_forward, mirror_feedback

COLUMNS = ("block", "operations", "output", "forward", "feedback")


class Row(NamedTuple):
    """One block, or the totals."""

    name: str
    description: str
    output: str
    """4x4x8"""
    forward: int
    """Number of parameters."""
    feedback: int

    @property
    def cells(self) -> tuple[str, ...]:
        """As they are printed, in the order of `COLUMNS`."""
        counts = (f"{self.forward:,}", f"{self.feedback:,}" if self.feedback else "-")
        return (self.name, self.description, self.output, *counts)


def rows(
    network: Network,
    init_feedback: Callable[[Network, Array], dict[str, Params]] = mirror_feedback,
) -> tuple[list[Row], Row]:
    """(one row for each block, the totals). Nothing is computed.

    Args:
      init_feedback: see `Rule`; mirrored maps where not given.
    """
    shapes = jax.eval_shape(
        lambda: [f(network, jax.random.key(0)) for f in (init_forward, init_feedback)]
    )
    found = []
    for block in network:
        counts = [count(side.get(block.name, {})) for side in shapes]
        found.append(Row(block.name, block.description, by(block.output_shape), *counts))
    totals = [sum(numbers) for numbers in zip(*(row[3:] for row in found))]
    return found, Row("parameters", "", "", *totals)


def text(network: Network) -> str:
    """The table in plain text, feedback parameters being those of mirrored maps."""
    found, totals = rows(network)
    lines = aligned([COLUMNS, *(row.cells for row in (*found, totals))])
    return "\n".join([f"network, input {by(network[0].input_shape)}", *lines])


def by(shape: Sequence[int]) -> str:
    """4x4x8"""
    return "x".join(map(str, shape))


def aligned(lines: list[Sequence[Any]]) -> list[str]:
    """Columns of one width each; the last two, of numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    right = len(widths) - 2
    return [
        "  ".join(
            cell.ljust(width) if i < right else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    ]
