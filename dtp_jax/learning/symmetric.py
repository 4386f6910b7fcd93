"""A start at symmetric weights: every feedback map begins with the kernels of its forward map.

Ernoult et al. 2022 draw it in figure 4.3 beside trained and random feedback. There are two sets of
weights from then on, each trained by its own rule.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dtp_jax import fields
from dtp_jax.blocks import Network, Params, is_mirrored
from dtp_jax.rules.analytic import transported
from dtp_jax.rules.rule import Rule


def check_mirrored(name: str, network: Network, rule: Rule) -> None:
    """Raises ValueError, one line, where the rule has not for every block a map that mirrors its kernels.

    Args:
      name: of the option that asks for them.
    """
    maps = jax.eval_shape(lambda: rule.init_feedback(network, jax.random.key(0)))
    if not is_mirrored(network, maps) or not all(map(_has_kernel, maps.values())):
        allowed = f"False for the rule {rule.name}, whose feedback maps mirror no forward kernels"
        raise fields.error(name, True, allowed)


def symmetric(
    forward: dict[str, Params], feedback: dict[str, Params]
) -> tuple[dict[str, Params], dict[str, Params]]:
    """(forward, feedback) with omega's kernels those of theta, and every bias of both zero.

    Kernels are copied: a step that donates its state may not be given one buffer twice.

    Args:
      feedback: of mirrored maps, see `check_mirrored`.
    """
    forward = _without_biases(forward)
    copies = {name: transported(forward[name], omega) for name, omega in feedback.items()}
    return forward, jax.tree.map(jnp.copy, _without_biases(copies))


def _has_kernel(params: Params) -> bool:
    return any(path[-1].key == "kernel" for path, _ in jax.tree.leaves_with_path(params))


def _without_biases(params: dict[str, Params]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if path[-1].key == "bias" else leaf, params
    )
