"""How far the fixed point of L-DRL's feedback training is from analytic feedback, with and without pooling.

    python -m benchmarks.fixed_point [--iterations 4000] [--sigmas 0.05,0.2] [--json FILE]

A convolutional block on random images is trained by L-DRL's feedback loss alone; its kernels are averaged
over the second half of the iterations, so that the noise of the gradients is small. Shown are the angles
of that average with the analytic kernel (`rules/analytic.py`) and with the forward one, the angle of the
two with each other, and the time of both.

Where the noisy pass switches the winning position of a pooling window, the value that is unpooled moves:
a change of the size of the value itself, with the sign of the value. So a channel's gain depends on its
winners, and is negative where they are. The rows with a bias show it: it shifts the winners of all
channels. `gain` is that of the learned kernel over the analytic one; `least gain` and `greatest gain` are
those of the channels over the forward kernel; `negative` is the part of negative winners.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.table import Table

from benchmarks.program import (
    add_json,
    count,
    make_console,
    make_table,
    parser_of,
    positives,
    write_json,
)
from benchmarks.provenance import provenance
from benchmarks.timing import seconds
from dtp_jax.blocks import (
    MaxPool,
    Network,
    chain,
    conv_block,
    forward_all,
    init_forward,
    mirror_feedback,
)
from dtp_jax.learning import metrics, optim
from dtp_jax.learning.feedback import keys_per_iteration, train_feedback_map
from dtp_jax.rules import ldrl
from dtp_jax.rules.analytic import solve_feedback

SIZE, CHANNELS, BATCH = 8, (3, 8, 12), 256


class Case(NamedTuple):
    """What is measured."""

    pool: MaxPool | None = None
    activation: str = "elu"
    bias: float | None = None
    """Of all channels of the measured block, instead of random ones."""


CASES = (
    Case(),
    Case(MaxPool(2, 2)),
    Case(MaxPool(3, 2, 1)),
    *(Case(MaxPool(3, 2, 1), "tanh", bias) for bias in (1.0, 0.0, -1.0)),
)


def network_with(case: Case) -> Network:
    """Two blocks of 3x3 convolutions; the second one, which is measured, may pool."""
    block = partial(conv_block, window=3, padding=1, activation=case.activation)
    first, second = (partial(block, channels=c) for c in CHANNELS[1:])
    return chain((SIZE, SIZE, CHANNELS[0]), [first("conv_0"), second("conv_1", pool=case.pool)])


def measure(case: Case, sigma: float, iterations: int, seed: int = 0) -> dict[str, Any]:
    """One row of the table: angles in degrees, seconds."""
    network, pool = network_with(case), case.pool
    key = jax.random.key(seed)
    forward = init_forward(network, key)
    if case.bias is not None:
        forward["conv_1"]["bias"] = jnp.full(CHANNELS[2], case.bias)
    omega = mirror_feedback(network, jax.random.fold_in(key, 1))["conv_1"]
    images = jax.random.normal(jax.random.fold_in(key, 2), (BATCH, SIZE, SIZE, CHANNELS[0]))
    activations = forward_all(network, forward, images)
    training = ldrl(noise=(sigma,), beta=1.0).feedback_training
    # The loss curves by about 2 sigma^2 per unpooled position: a tenth of the step that cancels it.
    rate = 0.1 / (2 * sigma**2 * SIZE**2)
    optimizer = optim.sgd(rate, momentum=0.0)

    @jax.jit
    def train(omega):
        return train_feedback_map(
            training,
            network,
            1,
            forward,
            omega,
            optimizer.init(omega),
            optimizer,
            activations,
            keys_per_iteration(jax.random.fold_in(key, 3), iterations, 1),
            draw=jax.vmap(lambda k: training.draw_noise(k, network[1], BATCH, jnp.float32)),
            observe=lambda i, iteration: iteration.omega["kernel"],
        )[2][iterations // 2 :].mean(axis=0)

    solve = jax.jit(lambda omega: solve_feedback(network, forward, omega, 1, activations)["kernel"])
    learned, train_seconds = timed(train, omega)
    analytic, solve_seconds = timed(solve, omega)
    theta = forward["conv_1"]["kernel"]
    gains = jnp.einsum("ijkc,ijkc->c", learned, theta) / (theta**2).sum((0, 1, 2))
    return {
        "activation": case.activation,
        "bias": "random" if case.bias is None else f"{case.bias:g}",
        "pooling": "none" if pool is None else f"max {pool.window}/{pool.stride}",
        "sigma": sigma,
        "learned_analytic": float(metrics.angle(learned, analytic)),
        "learned_forward": float(metrics.angle(learned, theta)),
        "analytic_forward": float(metrics.angle(analytic, theta)),
        "gain": float(jnp.vdot(learned, analytic) / jnp.vdot(analytic, analytic)),
        "least_gain": float(gains.min()),
        "greatest_gain": float(gains.max()),
        "negative": float((activations.h[2] < 0).mean()),
        "learned_seconds": train_seconds,
        "analytic_seconds": solve_seconds,
    }


def timed(f, *args) -> tuple[jax.Array, float]:
    """(result, seconds of a call that compiles nothing)."""
    result = jax.block_until_ready(f(*args))
    return result, seconds(lambda: jax.block_until_ready(f(*args)))


def table(rows: list[dict[str, Any]]) -> Table:
    shown = make_table("angles in degrees", [name.replace("_", " ") for name in rows[0]])
    for row in rows:
        shown.add_row(*(v if isinstance(v, str) else f"{v:.3g}" for v in row.values()))
    return shown


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("fixed_point", __doc__)
    parser.add_argument("--iterations", type=count, default=4000)
    parser.add_argument(
        "--sigmas", type=positives, default=[0.05, 0.2], help="numbers above 0 (0.05,0.2)"
    )
    add_json(parser)
    args = parser.parse_args(argv)
    if args.iterations < 2:  # its second half is averaged
        parser.error(f"--iterations is {args.iterations}; allowed: a whole number, 2 or more")
    rows = [measure(case, s, args.iterations) for case in CASES for s in args.sigmas]
    make_console().print(table(rows))
    write_json(args.json, {**provenance("fixed_point"), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
