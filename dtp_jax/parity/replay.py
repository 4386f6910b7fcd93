"""Replaying a case: the recorded batches through `learner.step`, under the recorded names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dtp_jax.learning import metrics, optim
from dtp_jax.learning.feedback import Iteration
from dtp_jax.learning.learner import FORWARD_ONLY, Learner, Record, TrainState, step
from dtp_jax.parity import direct
from dtp_jax.parity.case import Case, ParityError
from dtp_jax.parity.common import (
    Outputs,
    activation_outputs,
    backprop_outputs,
    batches,
    fresh_state,
    optimizer_memory,
    stacked,
)
from dtp_jax.rules import Rule, dtp, ldrl, tp
from dtp_jax.rules.ldrl import Noise

Array = jax.Array

RULES = {"ldrl": ldrl, "parallel_ldrl": ldrl, "dtp": dtp, "tp": tp}
"""By recorded name. Parallel L-DRL is L-DRL with one iteration, several samples and Adam."""


def replay(case: Case, dtype: Any) -> Outputs:
    """Runs all batches.

    Args:
      dtype: float64 (needs jax_enable_x64) or float32.

    Returns:
      Every quantity of the layout by its recorded key, `b0/out/...`, in this project's layouts.

    Raises:
      ParityError: the case uses an optimizer that is not supported.
    """
    if case.rule == "drl":
        return direct.replay(case, dtype)
    learner, outputs = _learner(case), {}
    run = _step(learner)
    state = fresh_state(case, learner, dtype)

    @jax.jit  # one program, instead of some hundred of one operation each
    def compared(state, after, record, images, labels) -> Outputs:
        found = {
            **_feedback_outputs(case, state, after, record),
            **_forward_outputs(case, after, record),
            **_comparisons(case, learner, state, after, images, labels),
        }
        return found | {"step_loss": found["fwd_loss_total"] + found.get("fb_loss_total", 0)}

    for n, images, labels in batches(case, dtype):
        after, record = run(state, images, labels, _recorded_noise(case, n, dtype))
        found = compared(state, after, record, images, labels)
        outputs |= {f"b{n}/out/{key}": np.asarray(value) for key, value in found.items()}
        state = after
    return outputs


def _rule(case: Case, beta: float) -> Rule:
    # Entry 0 of the per-layer lists belongs to the first block, which has no feedback training.
    sigma = tuple(float(s) for s in case.arrays["hp/noise"][1:])
    return RULES[case.rule](noise=sigma, beta=beta)


def _learner(case: Case) -> Learner:
    hp, feedback = case.hyper_parameters, {"trains": FORWARD_ONLY}
    if "b0/noise_order" in case.arrays:  # else the recorded program did not train its feedback maps
        feedback = {
            "feedback_optimizers": tuple(
                _optimizer(hp, "feedback", float(lr)) for lr in hp["feedback_lr"][1:]
            ),
            "feedback_iterations": tuple(int(k) for k in hp["iterations"][1:]),
            "feedback_samples": int(hp["feedback_samples"]),
        }
    return Learner(
        network=case.network,
        rule=_rule(case, float(hp["beta"])),
        forward_optimizer=_optimizer(hp, "forward", float(hp["forward_lr"])),
        **feedback,
    )


def _optimizer(hp: dict[str, Any], side: str, lr: float) -> optax.GradientTransformation:
    kind, decay = str(hp[f"{side}_optimizer"]), float(hp[f"{side}_weight_decay"])
    if kind == "sgd":
        return optim.sgd(lr, momentum=float(hp[f"{side}_momentum"]), weight_decay=decay)
    if kind == "adam":
        return optim.adam(lr, weight_decay=decay)
    raise ParityError(f"hp/{side}_optimizer {kind!r} is not supported; allowed: sgd, adam")


def _recorded_noise(case: Case, n: int, dtype: Any) -> dict[str, Any]:
    """The recorded draws of batch n by block name, arrays (iterations, samples, batch, ...)."""
    noise, samples = {}, int(case.arrays["hp/feedback_samples"])

    def read(key: str, shape: tuple[int, ...]) -> Array:
        a = case.arrays[key]
        if case.rule == "parallel_ldrl":  # row b * samples + s is sample s of example b
            a = a.reshape(1, -1, samples, *a.shape[3:]).swapaxes(1, 2)
        return jnp.asarray(case.images(a, shape), dtype)

    for block in case.network[1:]:
        path = f"b{n}/noise/{block.name}"
        if f"{path}/dx" not in case.arrays:
            continue
        noise[block.name] = read(f"{path}/dx", block.input_shape)
        if f"{path}/dy" in case.arrays:
            noise[block.name] = Noise(noise[block.name], read(f"{path}/dy", block.output_shape))
    return noise


def _step(learner: Learner) -> Callable[..., tuple[TrainState, Record]]:
    """`learner.step`, compiled, with each iteration observed whole."""

    def run(state, images, labels, noise):
        def observe(i: int, iteration: Iteration):
            name = learner.network[i].name
            found = metrics.weight_alignment({name: state.forward[name]}, {name: iteration.omega})
            return iteration, found.get(name)  # residual stages have several

        return step(learner, state, images, labels, noise=noise, observe=observe)

    return jax.jit(run)


def _feedback_outputs(case: Case, state: TrainState, after: TrainState, record: Record) -> Outputs:
    found: Outputs = {}
    for when, parameters in (("before", state), ("after", after)):
        aligned = metrics.weight_alignment(state.forward, parameters.feedback)
        found |= case.named_kernels(f"align_{when}", stacked(aligned))
    for name, (iterations, alignment) in record.observations.items():
        found[f"fb_loss/{name}"] = iterations.loss
        if alignment is not None:
            found[f"fb_dist/{name}"], found[f"fb_angle/{name}"] = alignment
        found |= case.named("fb_grad", {name: iterations.gradient})
        found |= case.named("fb_after", {name: after.feedback[name]})
        for kind, tree in optimizer_memory(after.feedback_opt_state[name]):
            found |= case.named(f"fb_{kind}", {name: tree})
    losses = [found[key] for key in found if key.startswith("fb_loss/")]
    if losses:
        found["fb_loss_total"] = sum(loss.sum() for loss in losses)
        found["fb_loss_avg"] = sum(loss.mean() for loss in losses) / len(losses)
    return found


def _forward_outputs(case: Case, after: TrainState, record: Record) -> Outputs:
    found = activation_outputs(case, record)
    for name, loss in record.forward_loss.items():
        found[f"fwd_loss/{name}"] = loss
    found["fwd_loss_total"] = sum(record.forward_loss.values())
    for i, block in enumerate(case.network):
        if isinstance(record.activations.residuals[i], jax.Array):
            found[f"pool_idx/{block.name}"] = record.activations.residuals[i]
    found |= case.named("grad", record.forward_gradient) | case.named("fwd_after", after.forward)
    for kind, tree in optimizer_memory(after.forward_opt_state):
        found |= case.named(f"fwd_{kind}", tree)
    return found


def _comparisons(
    case: Case, learner: Learner, state: TrainState, after: TrainState, images: Array, labels: Array
) -> Outputs:
    """Backprop's loss and gradients, and the rule's gradients against them for every recorded beta.

    Made with the trained feedback and the forward parameters of before the step.
    """
    found = backprop_outputs(case, state, images, labels)
    betas = {"cmp": float(case.arrays["hp/beta"]), "cmp_beta0.005": 0.005}
    betas |= {f"cmp_beta{beta:g}": float(beta) for beta in case.arrays.get("hp/betas", ())}
    for name, beta in betas.items():
        matching = metrics.gradient_matching(
            learner.network,
            _rule(case, beta),
            state.forward,
            after.feedback,
            images,
            labels,
            beta=beta,
        )
        found |= case.named(name, stacked(matching))
    return found
