"""Comparing a replay with the recorded numbers, at the tolerances of tests/golden/README.md."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dtp_jax.parity.case import Case, ParityError

_KEY = re.compile(
    r"(?P<precision>f32/)?(?P<variant>\w+/)?(?P<batch>b\d+)/out/(?P<rest>(?P<kind>[^/]+).*)"
)


class Row(NamedTuple):
    """A quantity of one batch: its largest error, and the tolerance where error / tolerance is worst."""

    name: str
    error: float
    tolerance: float
    arrays: int

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # False for nan


def compare(case: Case, outputs: dict[str, Any], dtype: Any) -> list[Row]:
    """One row per recorded quantity, in the order of the file.

    Args:
      outputs: what `replay` returned for this dtype.

    Raises:
      ParityError: nothing is recorded for this precision.
    """
    double = np.dtype(dtype) == np.float64
    rows: dict[str, Row] = {}
    for key, recorded in case.arrays.items():
        match = _KEY.fullmatch(key)
        if not match or bool(match["precision"]) == double or _exempt(case, match["rest"]):
            continue
        batch = (match["variant"] or "") + match["batch"]
        expected = to_project(case, match["rest"], recorded)
        actual = outputs.get(f"{batch}/out/{match['rest']}")
        error, allowed = _error(case, match, expected, actual, double)
        if case.rule == "drl" and not double:
            allowed = max(allowed, _rounding(case, key))
        name = f"{batch} {match['kind']}"
        row, seen = Row(name, error, allowed, 1), rows.get(name)
        if seen and error / allowed <= seen.error / seen.tolerance:
            row = seen
        rows[name] = row._replace(arrays=seen.arrays + 1 if seen else 1)
    if not rows:
        raise ParityError(f"holds no outputs in {np.dtype(dtype).name}")
    return list(rows.values())


def _exempt(case: Case, rest: str) -> bool:
    """The first block's mirrored feedback map is recorded but never trained nor used; distances and
    angles per iteration of residual stages are recorded as zeros."""
    kind, _, path = rest.partition("/")
    if case.rule == "drl" or not kind.startswith(("fb_", "align_")):
        return False
    block = case.block_of(path)
    stages = {layer.block for layer in case.layers.values() if layer.keys}
    return block == case.network[0].name or kind in ("fb_angle", "fb_dist") and block in stages


def to_project(case: Case, rest: str, a: np.ndarray) -> np.ndarray:
    """A recorded output in this project's layout."""
    kind, _, path = rest.partition("/")
    if kind.endswith("_adam"):
        moment, _, path = path.partition("/")
        if moment == "step":
            return a
    for block in case.network:
        if kind in ("act", "target", "pool_idx") and path == block.name:
            return case.images(a, block.output_shape)
    if case.is_parameter(path) and not kind.startswith("cmp"):
        return case.converted(a, path, "fb" if kind.startswith("fb_") else "fwd")
    return a


def _error(
    case: Case, match: re.Match, expected: np.ndarray, actual: Any, double: bool
) -> tuple[float, float]:
    """(largest absolute difference, tolerance); an output that the replay lacks is infinitely off."""
    if actual is None:
        return np.inf, 1.0
    kind, _, path = match["rest"].partition("/")
    actual = np.asarray(actual)
    if kind == "pool_idx":
        actual = flat_pool_index(case, path, actual)
    if actual.shape != expected.shape:
        return np.inf, 1.0
    errors = np.abs(actual.astype(np.float64) - expected)
    error = float(np.max(errors, initial=0.0))
    error = error if np.isfinite(error) else np.inf
    largest = float(np.max(np.abs(expected), initial=0.0))
    allowed = tolerance(case, match["batch"], kind, path, largest, double)
    if double or not is_alignment(kind) or error == np.inf:
        return error, allowed
    # [distance, angle], or the angles of all iterations; the one that is worst for its tolerance.
    is_angle = np.ones(expected.shape, bool) if kind == "fb_angle" else np.arange(2) == 1
    rounding = rounding_of_angle(expected, _entries(case, path))
    each = np.broadcast_to(np.where(is_angle, np.maximum(allowed, rounding), allowed), errors.shape)
    worst = np.unravel_index(np.argmax(errors / each), errors.shape)
    return float(errors[worst]), float(each[worst])


def _rounding(case: Case, key: str) -> float:
    """Four times what the recorded float32 run is off the float64 one: where gradients are tiny, Adam
    divides rounding errors by gradients of their size."""
    exact = case.arrays[key.removeprefix("f32/")].astype(np.float64)
    return 4 * float(np.max(np.abs(case.arrays[key] - exact), initial=0.0))


def tolerance(case: Case, batch: str, kind: str, path: str, largest: float, double: bool) -> float:
    """Allowed absolute difference for an array whose largest recorded entry is `largest`."""
    if kind == "pool_idx":
        return 0.5  # integers
    if double:
        return 1e-6 if is_alignment(kind) else 1e-10 * largest + 1e-12
    if is_alignment(kind):
        return _alignment_tolerance_float32(kind)
    if case.rule == "drl" and batch != "b0":
        return 5e-3 * largest + 1e-12  # Adam with tiny gradients amplifies rounding
    if kind in ("fb_grad", "fb_velocity", "fb_exp_avg") and path.endswith("/bias"):
        return 1e-5
    if case.rule == "parallel_ldrl" and kind == "fb_after":
        return 3e-5
    if kind == "grad" and "b0/noise_order" not in case.arrays:
        return 1e-2 * largest + 1e-12  # beta = 1e-3 makes the cancellation worse
    return (1e-4 if kind.endswith(("grad", "velocity")) else 1e-5) * largest + 1e-12


def is_alignment(kind: str) -> bool:
    """Whether it is a distance and an angle, or angles."""
    return kind.startswith(("cmp", "align_", "fb_angle"))


def _alignment_tolerance_float32(kind: str) -> float:
    """Degrees and relative distances, away from angle 0: the targets of a small beta are differences of
    nearly equal numbers."""
    beta = re.fullmatch(r"cmp_beta(.+)", kind)
    return 0.05 + (1e-4 / float(beta[1]) if beta else 0.0)


def rounding_of_angle(degrees: np.ndarray, entries: int) -> np.ndarray:
    """How far two float32 runs can be apart by rounding alone at an angle of arrays of so many entries.

    The cosine is a quotient of three sums of n products, <F,G> and, below square roots, <F,F> and <G,G>. With
    the unit roundoff u = 2**-24, the n roundings of a sum of terms of one sign, each of up to u times the sum
    so far, add up to about u sqrt(n) / 3 (Higham and Mary 2019: to a multiple of u sqrt(n), not of u n). The
    three, of weights 1, 1/2 and 1/2, make u sqrt(n) sqrt(3/2) / 3, of which three deviations are 1.23 u
    sqrt(n). Two square roots, a product, a sum and a quotient add at most 5 u. So the cosines of two runs
    are at most 2 (5 + 1.23 sqrt(n)) u apart, in whatever order each one adds. d(angle) = d(cosine) / sin(angle)
    makes that 2e-4 degrees at 90 degrees; at 0 it is arccos(1 - d(cosine)), 0.14 degrees for the 240 entries of a
    small readout.

    Args:
      degrees: the recorded angles.

    Returns:
      Degrees, of the shape of the angles.
    """
    apart = 2 * (5 + 1.23 * np.sqrt(entries)) * 2.0**-24
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    below, above = (np.arccos(np.clip(np.cos(angle) + d, -1, 1)) for d in (apart, -apart))
    return np.rad2deg(np.maximum(angle - below, above - angle))


def _entries(case: Case, path: str) -> int:
    """Of the largest of the parameters that a recorded alignment is about."""
    names = (f"fwd/{path}", f"fwd/{path}/")
    sizes = (
        a.size for key, a in case.arrays.items() if key == names[0] or key.startswith(names[1])
    )
    return max(sizes, default=1)


def flat_pool_index(case: Case, name: str, index: np.ndarray) -> np.ndarray:
    """Positions inside the windows -> positions row * width + column in the plane that is pooled."""
    block = next(b for b in case.network if b.name == name)
    pool = case.pools[name]
    pooled = jax.eval_shape(
        block.features, jnp.zeros((1, *block.output_shape)), jnp.zeros((1, *block.output_shape))
    )
    width = pooled.shape[2]
    rows, columns = (np.arange(n) * pool.stride - pool.padding for n in index.shape[1:3])
    row, column = np.divmod(index.astype(np.int64), pool.window)
    return (rows[:, None, None] + row) * width + columns[:, None] + column
