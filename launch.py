"""Trains a network from a config; run again with the same --workdir, it goes on where it stopped.

    python launch.py                                  the quick start: configs/digits_dtp.py
    python launch.py --config=configs/cifar10_dtp.py --workdir=runs/cifar10 --config.seed=1

Any field of the config can be overridden with --config.FIELD=VALUE; tuples are written 0.4,0.2. All
fields are described in configs/default.py. Exit codes: 0 done, 2 config or flag not valid, 3 data
missing or corrupt, 4 a loss is not finite, 5 another process of the run is gone, 130 or 143 stopped by
a signal and saved.
"""

import sys

from dtp_jax.run.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv, __doc__))
