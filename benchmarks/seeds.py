"""Seeds of one config: separate runs against one command, in turn and together.

    python -m benchmarks.seeds --config=digits_dtp --seeds=5 [--epochs=N] [--turns=3] [--json FILE]

Times are those of whole commands, from the start of Python to the summary, one after the other in
alternation; compiled programs are in the cache of earlier runs for all sides, as they are for a user.
Accuracies must be the same on all sides, or it says where they are not.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.program import add_json, count, parser_of, write_json
from benchmarks.provenance import provenance

SIDES = ("separate", "in_turn", "together")


def main() -> None:
    parser = parser_of("seeds", __doc__)
    parser.add_argument("--config", default="digits_dtp")
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument("--epochs", type=count, help="default: the config's")
    parser.add_argument("--turns", type=count, default=3)
    add_json(parser)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    accuracies: dict[str, list[float]] = {}
    for turn in range(args.turns + 1):  # the first one fills the cache
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                took, found = run(side, args.config, args.seeds, args.epochs, Path(folder))
            said = f"turn {turn} of {args.turns}" if turn else "before the first turn"
            print(f"{said}, {side}: {took:.1f} s", flush=True)
            if turn:
                seconds[side].append(took)
            accuracies[side] = found
    print(f"{args.config}, {args.seeds} seeds, seconds of the whole (median of {args.turns})")
    base = statistics.median(seconds["separate"])
    for side in SIDES:
        middle = statistics.median(seconds[side])
        differ = [a for a, b in zip(accuracies[side], accuracies["separate"]) if a != b]
        said = f"{len(differ)} accuracies differ" if differ else "same accuracies"
        print(f"{side:9} {middle:7.1f} s  {base / middle:5.2f} times as fast  {said}")
    content = {
        "config": args.config,
        "seeds": args.seeds,
        "epochs": args.epochs,
        "seconds": seconds,
        "ratio": {side: base / statistics.median(seconds[side]) for side in SIDES},
        "test_accuracy": accuracies,
    }
    write_json(args.json, content | provenance("seeds"))


def run(
    side: str, config: str, seeds: int, epochs: int | None, folder: Path
) -> tuple[float, list[float]]:
    """Seconds, and the test accuracy of every seed."""
    common = [f"--config={config}", *([f"--config.epochs={epochs}"] if epochs else [])]
    if side == "separate":
        commands = [
            [*common, f"--config.seed={seed}", f"--workdir={folder}/seed_{seed}"]
            for seed in range(seeds)
        ]
    else:
        more = [f"--config.seeds={seeds}", f"--config.seeds_as={side}", f"--workdir={folder}"]
        commands = [[*common, *more]]
    start = time.perf_counter()
    for command in commands:
        subprocess.run(
            [sys.executable, "-m", "dtp_jax", "train", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ,
        )
    seconds = time.perf_counter() - start
    summaries = [
        json.loads((folder / f"seed_{seed}" / "summary.json").read_text()) for seed in range(seeds)
    ]
    return seconds, [one["test_accuracy"] for one in summaries]


if __name__ == "__main__":
    main()
