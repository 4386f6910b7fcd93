"""What a run remembers beside its state."""

import dataclasses


@dataclasses.dataclass
class Progress:
    """Part of every checkpoint."""

    step: int = 0
    train_seconds: float = 0.0
    """Time in training chunks: no compilation, no evaluation."""
    wall_seconds: float = 0.0
    """Time of this run's process or processes, start-up included."""
    epoch_loss: float = 0.0
    epoch_accuracy: float = 0.0
    """Sums over the steps of the running epoch, but for the skipped ones."""
    epoch_skipped: int = 0
    epoch_seconds: float = 0.0
    """Time in its training chunks."""
    diagnostics_seconds: float = 0.0
    """Time in what is measured beside training, of which `train_seconds` has nothing."""
    diagnostics_compile_seconds: float = 0.0
    memory_bytes: int = 0
    """Of a device for the training program, by its compiler: state, images, activations."""
    best_step: int | None = None
    best_val_accuracy: float | None = None
    epochs_without_gain: int = 0
    """Since a better validation accuracy than all before."""
