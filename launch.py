"""`dtp train`, from a checkout: python launch.py --config=configs/cifar10_dtp.py --workdir=runs/cifar10"""

import sys

from dtp_jax.__main__ import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:], "python launch.py"))
