"""Replaying a case: the recorded batches through `learner.step`, under the recorded names."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dtp_jax import metrics, optim
from dtp_jax.blocks import Params, forward_all
from dtp_jax.feedback import Iteration
from dtp_jax.learner import Learner, Record, TrainState, global_gradient, init_optimizers, step
from dtp_jax.parity.case import Case, ParityError
from dtp_jax.rules import backprop, ldrl
from dtp_jax.rules.ldrl import Noise
from dtp_jax.rules.rule import cross_entropy

Array = jax.Array
Outputs = dict[str, Any]


def replay(case: Case, dtype: Any) -> Outputs:
    """Runs all batches.

    Args:
      dtype: float64 (needs jax_enable_x64) or float32.

    Returns:
      Every quantity of the layout by its recorded key, `b0/out/...`, in this project's layouts.

    Raises:
      ParityError: the case uses an optimizer that is not supported.
    """
    learner = _learner(case)
    forward, feedback = (
        jax.tree.map(jnp.asarray, case.parameters(side, dtype)) for side in ("fwd", "fb")
    )
    state = TrainState(
        jnp.zeros((), jnp.int32),
        jax.random.key(0),
        forward,
        feedback,
        *init_optimizers(learner, forward, feedback),
    )
    outputs: Outputs = {}
    for n in range(case.batches):
        images = jnp.asarray(
            case.images(case.arrays[f"b{n}/x"], case.network[0].input_shape), dtype
        )
        if images.shape[1:] != case.network[0].input_shape:
            raise ParityError(
                f"b{n}/x holds images {images.shape[1:]}; allowed: {case.network[0].input_shape}"
            )
        labels = jnp.asarray(case.arrays[f"b{n}/y"])
        next_state, record = _step(learner, state, images, labels, _recorded_noise(case, n, dtype))
        found = {
            **_feedback_outputs(case, state, next_state, record),
            **_forward_outputs(case, next_state, record),
            **_comparisons(case, learner, state, next_state, images, labels),
        }
        found["step_loss"] = found["fwd_loss_total"] + found.get("fb_loss_total", 0)
        outputs |= {f"b{n}/out/{key}": np.asarray(value) for key, value in found.items()}
        state = next_state
    return outputs


def _learner(case: Case) -> Learner:
    hp = {
        key.removeprefix("hp/"): value
        for key, value in case.arrays.items()
        if key.startswith("hp/")
    }
    for name in ("feedback_optimizer", "forward_optimizer"):
        if str(hp[name]) != "sgd":
            raise ParityError(f"hp/{name} {str(hp[name])!r} is not supported; allowed: sgd")
    # Entry 0 of the per-layer lists belongs to the first block, which has no feedback training.
    per_block = [list(map(float, hp[name][1:])) for name in ("noise", "feedback_lr")]
    recorded = "b0/noise_order" in case.arrays
    return Learner(
        network=case.network,
        rule=ldrl(noise=tuple(per_block[0]), beta=float(hp["beta"])),
        forward_optimizer=optim.sgd(
            float(hp["forward_lr"]),
            momentum=float(hp["forward_momentum"]),
            weight_decay=float(hp["forward_weight_decay"]),
        ),
        feedback_optimizers=tuple(
            optim.sgd(
                lr,
                momentum=float(hp["feedback_momentum"]),
                weight_decay=float(hp["feedback_weight_decay"]),
            )
            for lr in per_block[1]
        ),
        feedback_iterations=tuple(int(k) for k in hp["iterations"][1:]) if recorded else (),
        feedback_samples=int(hp["feedback_samples"]),
    )


def _recorded_noise(case: Case, n: int, dtype: Any) -> dict[str, Noise]:
    """The recorded draws of batch n by block name, arrays (iterations, samples, batch, ...)."""
    noise = {}
    for block in case.network[1:]:
        path = f"b{n}/noise/{block.name}"
        if f"{path}/dx" in case.arrays:
            e = case.images(case.arrays[f"{path}/dx"], block.input_shape)
            u = case.images(case.arrays[f"{path}/dy"], block.output_shape)
            noise[block.name] = Noise(jnp.asarray(e, dtype), jnp.asarray(u, dtype))
    return noise


def _step(
    learner: Learner, state: TrainState, images: Array, labels: Array, noise: dict[str, Noise]
) -> tuple[TrainState, Record]:
    """`learner.step`, compiled, with each iteration observed whole."""

    def run(state, images, labels, noise):
        def observe(i: int, iteration: Iteration):
            theta = state.forward[learner.network[i].name]
            return iteration, metrics.alignment(theta["kernel"], iteration.omega["kernel"])

        return step(learner, state, images, labels, noise=noise, observe=observe)

    return jax.jit(run)(state, images, labels, noise)


def _feedback_outputs(case: Case, state: TrainState, after: TrainState, record: Record) -> Outputs:
    found: Outputs = {}
    for when, parameters in (("before", state), ("after", after)):
        for name, value in metrics.weight_alignment(state.forward, parameters.feedback).items():
            found[f"align_{when}/{case.modules[name]}"] = value
    for name, (iterations, alignment) in record.observations.items():
        found[f"fb_loss/{name}"] = iterations.loss
        found[f"fb_dist/{name}"], found[f"fb_angle/{name}"] = alignment[:, 0], alignment[:, 1]
        velocity = optax.tree.get(after.feedback_opt_state[name], "trace")
        for kind, tree in (
            ("grad", iterations.gradient),
            ("after", after.feedback[name]),
            ("velocity", velocity),
        ):
            found |= _named(f"fb_{kind}", case.modules[name], tree)
    losses = [found[key] for key in found if key.startswith("fb_loss/")]
    if losses:
        found["fb_loss_total"] = sum(loss.sum() for loss in losses)
        found["fb_loss_avg"] = sum(loss.mean() for loss in losses) / len(losses)
    return found


def _forward_outputs(case: Case, after: TrainState, record: Record) -> Outputs:
    found: Outputs = {}
    for i, block in enumerate(case.network):
        found[f"act/{block.name}"] = record.activations.h[i + 1]
        found[f"target/{block.name}"] = record.targets[i]
        found[f"fwd_loss/{block.name}"] = record.forward_loss[block.name]
        if isinstance(record.activations.residuals[i], jax.Array):
            found[f"pool_idx/{block.name}"] = record.activations.residuals[i]
        velocity = optax.tree.get(after.forward_opt_state, "trace")[block.name]
        for kind, tree in (
            ("grad", record.forward_gradient[block.name]),
            ("fwd_velocity", velocity),
            ("fwd_after", after.forward[block.name]),
        ):
            found |= _named(kind, case.modules[block.name], tree)
    found["fwd_loss_total"] = sum(record.forward_loss.values())
    return found


def _comparisons(
    case: Case, learner: Learner, state: TrainState, after: TrainState, images: Array, labels: Array
) -> Outputs:
    """Backprop's loss and gradients, and the rule's gradients against them for every recorded beta.

    Made with the trained feedback and the forward parameters of before the step.
    """
    activations = forward_all(learner.network, state.forward, images)
    gradient = global_gradient(learner.network, backprop(), state.forward, images, labels)
    found: Outputs = {"bp_loss": cross_entropy(activations.h[-1], labels).mean()}
    sigma = tuple(float(s) for s in case.arrays["hp/noise"][1:])
    betas = {"cmp": float(case.arrays["hp/beta"]), "cmp_beta0.005": 0.005}
    betas |= {f"cmp_beta{beta:g}": float(beta) for beta in case.arrays.get("hp/betas", ())}
    for name, beta in betas.items():
        rule = ldrl(noise=sigma, beta=beta)
        matching = metrics.gradient_matching(
            learner.network, rule, state.forward, after.feedback, images, labels, beta=beta
        )
        for block in learner.network:
            found |= _named(name, case.modules[block.name], matching[block.name])
    for block in learner.network:
        found |= _named("bp_grad", case.modules[block.name], gradient[block.name])
    return found


def _named(kind: str, module: str, tree: Params) -> Outputs:
    return {
        f"{kind}/{module}/{'weight' if name == 'kernel' else name}": value
        for name, value in tree.items()
    }
