"""Any earlier run once more, from its config.json: --config=configs/rerun.py:WORKDIR/config.json

python launch.py --config=configs/rerun.py:runs/cifar10/config.json --config.seed=1
"""

import json
from pathlib import Path

from configs import default


def get_config(file: str = "WORKDIR/config.json"):
    fields = json.loads(Path(file).read_text())
    config = default.get_config()
    config.update(
        {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    )
    return config
