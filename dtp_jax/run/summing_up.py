"""The summary of a run: what it says, and the one place that looks at the test images."""

from typing import TYPE_CHECKING, Any

import jax

from dtp_jax.parallel import processes

if TYPE_CHECKING:
    from dtp_jax.run.loop import Run


def summary_of(run: "Run") -> dict[str, Any]:
    """The content of summary.json; of a watched run, all of it but what it would say of the test images."""
    parts, progress, config = run.parts, run.progress, run.config
    tested, val = _tested(run) if run.watch is None else {}, None
    if "val" in parts.feed.evaluation:
        val = run.evaluation(run.state, "val").accuracy
    images, seconds = progress.step * config["batch_size"], max(progress.train_seconds, 1e-9)
    extended = [one._asdict() for one in parts.experiment.extensions]
    return {
        **{name: config[name] for name in ("rule", "network", "dataset", "seed", "epochs")},
        **({"extended": extended} if extended else {}),
        "steps": progress.step,
        **early_end(run),
        "val_accuracy": val,
        **tested,
        "wall_seconds": run.wall_seconds(),
        "images_per_second": images / seconds,
        "diagnostics_seconds": progress.diagnostics_seconds,
        "diagnostics_compile_seconds": progress.diagnostics_compile_seconds,
        "memory_bytes": progress.memory_bytes,
        "device": run.origin["device"],
        "versions": run.origin["versions"],
        "provenance": run.origin,
    }


def early_end(run: "Run") -> dict[str, Any]:
    """What ended the run before its last step; {} where nothing did."""
    if run.ended_by is None or run.progress.step >= run.parts.total_steps:
        return {}
    return {"ended_by": run.ended_by, "epochs_without_gain": run.progress.epochs_without_gain}


def _tested(run: "Run") -> dict[str, Any]:
    """Accuracies on the test images, of the final weights and of the best by validation."""
    last = run.parts.passes[(run.progress.step - 1) // run.parts.steps_per_epoch]
    test = run.evaluate("test", last.epoch)
    return {
        "test_accuracy": test.accuracy,
        "test_top5_accuracy": test.top5_accuracy,
        **_best_checkpoint(run),
    }


def _best_checkpoint(run: "Run") -> dict[str, Any]:
    step, checkpoints = run.progress.best_step, run.parts.checkpoints
    if step is None or step not in checkpoints.steps():
        return {}
    damage = checkpoints.damage(step)
    if processes.any_says(int(damage is not None)):
        run.screen.warn(f"the best checkpoint (step {step}) is damaged: {damage}")
        return {}
    best = checkpoints.restore(step, run.like(jax.eval_shape(lambda: run.state)))[0]
    return {
        "best_val_step": step,
        "best_val_accuracy": run.progress.best_val_accuracy,
        "test_accuracy_of_best_val": run.evaluation(best, "test").accuracy,
    }
