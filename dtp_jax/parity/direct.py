"""Replaying a case of DRL: three variants of how stale gradients were treated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dtp_jax.learning import metrics, optim
from dtp_jax.learning.feedback import Iteration
from dtp_jax.learning.learner import Learner, Record, TrainState, step
from dtp_jax.parity.case import Case
from dtp_jax.parity.common import (
    Outputs,
    activation_outputs,
    backprop_outputs,
    batches,
    fresh_state,
    optimizer_memory,
    stacked,
)
from dtp_jax.rules.drl import drl

VARIANTS = {"": "kept", "zerograd/": "zeroed", "clean/": "none"}
"""Prefix of the recorded keys -> `Learner.stale_gradients`."""


def replay(case: Case, dtype: Any) -> Outputs:
    """Every quantity of the layout by its recorded key, `clean/b0/out/...`, in this project's layouts."""
    outputs: Outputs = {}

    @jax.jit  # one program for all variants, instead of some hundred of one operation each
    def compared(state, after, record, images, labels) -> Outputs:
        found = {
            **activation_outputs(case, record),
            **backprop_outputs(case, state, images, labels),
            **_forward_outputs(case, after, record),
            **_feedback_outputs(case, after, record),
        }
        return found | {"loss": found["bp_loss"]} | _comparisons(case, found)

    for prefix, stale in VARIANTS.items():
        learner = _learner(case, stale)
        run = _step(learner)
        state = fresh_state(case, learner, dtype)
        for n, images, labels in batches(case, dtype):
            noise = _recorded_noise(case, n, dtype)
            after, record = run(state, images, labels, noise)
            found = compared(state, after, record, images, labels)
            outputs |= {
                f"{prefix}b{n}/out/{key}": np.asarray(value) for key, value in found.items()
            }
            state = after
    return outputs


def _learner(case: Case, stale: str) -> Learner:
    hp, names = case.hyper_parameters, [block.name for block in case.network]
    trained = len(names) - 1
    decay = float(hp["feedback_weight_decay"])
    feedback = optim.adam(
        float(hp["feedback_lr"]), eps=float(hp["feedback_eps"]), weight_decay=decay
    )
    forward = {
        name: optim.adam(float(lr), eps=float(eps), weight_decay=float(hp["forward_weight_decay"]))
        for name, lr, eps in zip(names, hp["forward_lr"], hp["forward_eps"], strict=True)
    }
    return Learner(
        network=case.network,
        rule=drl(noise=(float(hp["sigma"]),) * trained, beta=float(hp["target_stepsize"])),
        forward_optimizer=optim.per_block(forward),
        feedback_optimizers=(feedback,) * trained,
        feedback_iterations=tuple(int(k) for k in hp["iterations"][:trained]),
        stale_gradients=stale,
    )


def _recorded_noise(case: Case, n: int, dtype: Any) -> dict[str, Any]:
    """xi of batch n by block name, arrays (iterations, 1 sample, batch, ...)."""
    return {
        block.name: jnp.asarray(
            case.images(case.arrays[f"b{n}/noise/{block.name}/h"], block.output_shape), dtype
        )[:, None]
        for block in case.network[:-1]
    }


def _step(learner: Learner) -> Callable[..., tuple[TrainState, Record]]:
    """`learner.step`, compiled, with each iteration observed whole."""

    def observe(i: int, iteration: Iteration) -> Iteration:
        del i
        return iteration

    return jax.jit(
        lambda state, images, labels, noise: step(
            learner, state, images, labels, noise=noise, observe=observe
        )
    )


def _forward_outputs(case: Case, after: TrainState, record: Record) -> Outputs:
    found = case.named("grad", record.forward_gradient) | case.named("fwd_after", after.forward)
    for block in case.network:
        own = after.forward_opt_state.inner_states[block.name]
        for kind, tree in optimizer_memory(own):
            found |= case.named(f"fwd_adam/{kind}", {block.name: tree[block.name]})
        found |= _steps(case, "fwd_adam", block.name, own, after.forward)
    return found


def _feedback_outputs(case: Case, after: TrainState, record: Record) -> Outputs:
    found = case.named("fb_after", after.feedback)
    for name, iterations in record.observations.items():
        found[f"rec_loss/{name}"] = iterations.loss
        found |= case.named("fb_grad", {name: iterations.gradient})
        own = after.feedback_opt_state[name]
        for kind, tree in optimizer_memory(own):
            found |= case.named(f"fb_adam/{kind}", {name: tree})
        found |= _steps(case, "fb_adam", name, own, after.feedback)
    return found


def _steps(case: Case, kind: str, name: str, opt_state: Any, parameters: Any) -> Outputs:
    """torch counts the steps of every parameter; here an optimizer has one count."""
    count = optax.tree.get(opt_state, "count")
    return case.named(f"{kind}/step", {name: jax.tree.map(lambda _: count, parameters[name])})


def _comparisons(case: Case, found: Outputs) -> Outputs:
    """(distance, angle) of gradient / target_stepsize and backprop's."""
    eta = float(case.arrays["hp/target_stepsize"])
    return {
        key.replace("grad/", "cmp/", 1): stacked(
            metrics.alignment(value / eta, found[key.replace("grad/", "bp_grad/", 1)])
        )
        for key, value in found.items()
        if key.startswith("grad/")
    }
