"""Training steps on demand: one for every line that comes in, then a line that it is done.

For `benchmarks.versus_commit`, which runs this file with the `dtp_jax` of a checkout: it uses nothing else
of this project, and of that only what has the same name at every commit. The first line that goes out
names the folder that all modules of the package came from.
"""

import json
import os
import sys
from typing import Any

import jax
import numpy as np

import dtp_jax


def main(setting: dict[str, Any]) -> None:
    shape, classes, batch = setting["input_shape"], setting["classes"], setting["batch"]
    sgd = dtp_jax.optim.sgd
    network = getattr(dtp_jax, setting["network"])(shape, classes)
    optimizer = sgd(setting["forward_lr"], momentum=0.9, weight_decay=1e-4)
    if setting["rule"] == "backprop":
        learner = dtp_jax.Learner(network, dtp_jax.backprop(), optimizer)
    else:
        learner = dtp_jax.Learner(
            network,
            dtp_jax.ldrl(noise=setting["noise"], beta=setting["beta"]),
            optimizer,
            tuple(sgd(lr, momentum=0.9) for lr in setting["feedback_lr"]),
            setting["iterations"],
        )
    take = jax.jit(lambda *args: dtp_jax.train_step(learner, *args), donate_argnums=0)
    random = np.random.default_rng(0)
    images = jax.device_put(random.standard_normal((batch, *shape), np.float32))
    labels = jax.device_put(random.integers(0, classes, batch).astype(np.int32))
    state = dtp_jax.init(learner, jax.random.key(0))
    package = [m for name, m in sys.modules.items() if name.split(".")[0] == "dtp_jax"]
    print(os.path.commonpath([m.__file__ for m in package]), flush=True)
    for _ in sys.stdin:
        state, metrics = jax.block_until_ready(take(state, images, labels))
        print("done", flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main({name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
