"""Takes the weights out of a run, or starts a run from weights.

    dtp export runs/cifar10 weights.safetensors
    dtp export runs/cifar10 weights.safetensors --best
    dtp export --to-workdir runs/next weights.safetensors --config.forward_lr=0.01
    dtp export --to-workdir runs/next state_dict.npz --config=cifar10_dtp

The first form writes forward and feedback parameters of the newest checkpoint (--best: of the best one
by validation), with the config in the file's metadata. --to-workdir makes a new workdir that dtp train
trains on from: step 0, fresh optimizers, these weights. It reads the files of the first form, and state
dicts of the original PyTorch program, as .safetensors or as .npz of its arrays. The config is that of
--config, or else the one in the file. Exit codes: 2 config or flag not valid, 3 weights missing, damaged,
or not those of this config.
"""

import re
import sys

from dtp_jax.export.runs import export_run, import_weights
from dtp_jax.export.weights import WeightsError
from dtp_jax.fields import local_folder, local_path
from dtp_jax.output import steady_streams
from dtp_jax.run import arguments, backend, cli, signals
from dtp_jax.run.loading import load_plugins
from dtp_jax.run.results import require_enterable
from dtp_jax.run.screen import Screen
from dtp_jax.tools import parser_of


@steady_streams()
def main(argv: list[str] | None = None, program: str = "python -m dtp_jax.export") -> int:
    """Returns the exit code. `program` is what the user has typed before the arguments."""
    parser = parser_of(program, __doc__)
    parser.add_argument("workdir", metavar="WORKDIR")
    parser.add_argument("file", metavar="FILE", help="to write; to read: .npz, too")
    parser.add_argument("--best", action="store_true", help="the best checkpoint by validation")
    parser.add_argument("--to-workdir", action="store_true", help="from the file to a new workdir")
    parser.add_argument("--config", help="name or file; --config.FIELD=VALUE overrides a field")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        help="file or module that registers rules or networks",
    )
    args, overrides = parser.parse_known_args(
        arguments.joined(sys.argv[1:] if argv is None else argv)
    )
    strange = [o for o in overrides if not re.match(r"--?(no)?config\.", o)]
    if strange:
        parser.error(f"argument {strange[0]!r} is not understood")
    if args.to_workdir and args.best:
        parser.error("--best does not go with --to-workdir")
    if not args.to_workdir and (args.config or overrides):
        parser.error("--config goes with --to-workdir only: a run has its config")
    screen = Screen()
    try:
        backend.require_devices()
        load_plugins(args.plugin)
        folder, file = local_folder("WORKDIR", args.workdir), local_path("FILE", args.file)
        require_enterable(folder)
        print(
            import_weights(folder, file, config=args.config, overrides=tuple(overrides))
            if args.to_workdir
            else export_run(folder, file, best=args.best, warn=screen.warn)
        )
    except ValueError as error:
        screen.error(str(error))
        return cli.EXIT_INVALID
    except WeightsError as error:
        screen.error(str(error))
        return cli.EXIT_DATA
    return 0


if __name__ == "__main__":
    sys.exit(signals.until_stopped(main, "stopped"))
