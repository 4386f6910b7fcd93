"""The training step and what it is made of: learner, feedback training, optimizers, metrics, evaluation."""
