"""Records a new case for parity, in the layout of golden/README.md, with the PyTorch baseline."""

import json
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.torch_baseline import LDRL, from_meta_spec


def record_case(
    path, spec, *, noise, iterations, feedback_lr, samples=1, beta=0.6, batch=3, seed=0
):
    """Runs L-DRL on random batches of a new network and writes what it computed to `path` (.npz).

    Args:
      spec: the content of meta/spec.
      noise, iterations, feedback_lr: of the trained feedback maps, blocks 1, 2, ...
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # overlapping unpooling is only defined with one
    try:
        recorder = Recorder(
            spec,
            noise=noise,
            iterations=iterations,
            feedback_lr=feedback_lr,
            samples=samples,
            beta=beta,
            seed=seed,
        )
        for n in range(spec["n_batches"]):
            recorder.record_batch(f"b{n}", batch)
    finally:
        torch.set_num_threads(threads)
    np.savez(path, **recorder.arrays)


class Recorder:
    """A learner of the baseline, and everything that it computed so far by recorded name."""

    def __init__(self, spec, *, noise, iterations, feedback_lr, samples, beta, seed):
        self.spec, self.beta, self.iterations, self.samples = spec, beta, iterations, samples
        self.random = np.random.default_rng(seed)
        self.learner = LDRL(
            from_meta_spec(spec),
            tuple(spec["input_shape"]),
            noise=noise,
            iterations=iterations,
            feedback_lr=feedback_lr,
            forward_lr=0.05,
            beta=beta,
            samples=samples,
            weight_decay=1e-4,
            dtype=torch.float64,
            seed=seed,
        )
        self.names = [block["name"] for block in spec["blocks"]]
        self.modules = [block["module"] for block in spec["blocks"]]
        self.arrays = {
            "meta/spec": json.dumps(spec),
            "hp/layers": self.names,
            "hp/noise": (0, *noise),
            "hp/iterations": (0, *iterations),
            "hp/feedback_lr": (0, *feedback_lr),
            "hp/feedback_optimizer": "sgd",
            "hp/feedback_momentum": 0.9,
            "hp/feedback_weight_decay": 0.0,
            "hp/feedback_samples": samples,
            "hp/beta": beta,
            "hp/forward_lr": 0.05,
            "hp/forward_optimizer": "sgd",
            "hp/forward_momentum": 0.9,
            "hp/forward_weight_decay": 1e-4,
        }
        self.save_parameters("fwd", lambda p: p)
        self.save_parameters("fb", lambda p: p)

    def save(self, key, value):
        self.arrays[key] = (
            value.detach().numpy().copy() if torch.is_tensor(value) else np.asarray(value)
        )

    def blocks(self, side):
        """(module name, torch layer) of the forward blocks, or of the trained feedback maps."""
        blocks = self.learner.forward_blocks if side == "fwd" else self.learner.feedback_blocks
        modules = self.modules if side == "fwd" else self.modules[1:]
        return [(module, block.layer) for module, block in zip(modules, blocks, strict=True)]

    def save_parameters(self, prefix, read, side=None):
        for module, layer in self.blocks(side or prefix):
            for name, parameter in layer.named_parameters():
                self.save(f"{prefix}/{module}/{name}", read(parameter))

    def record_batch(self, batch, size):
        x = torch.from_numpy(self.random.normal(size=(size, *self.spec["input_shape"])))
        y = torch.from_numpy(self.random.integers(0, self.spec["classes"], size))
        h, indices = self.learner.activations(x)
        noise = [
            tuple(
                torch.from_numpy(
                    self.random.normal(size=(self.iterations[i], self.samples, *a.shape))
                )
                for a in (h[i + 1], h[i + 2])
            )
            for i in range(len(self.iterations))
        ]
        self.save(f"{batch}/x", x)
        self.save(f"{batch}/y", y)
        order = []
        for name, draws, count in zip(self.names[1:], noise, self.iterations, strict=True):
            for kind, drawn in zip(("dx", "dy"), draws, strict=True):
                self.save(f"{batch}/noise/{name}/{kind}", drawn)
            order += [
                f"{name}/i{k}/s{s}/{kind}"
                for k in range(count)
                for s in range(self.samples)
                for kind in ("dx", "dy")
            ]
        self.save(f"{batch}/noise_order", order)
        out = f"{batch}/out"
        self.save_alignment(f"{out}/align_before")
        before = [p.detach().clone() for p in self.learner.forward_blocks.parameters()]
        with self.watching_feedback() as seen:
            step = self.learner.step(x, y, noise)
        self.save_feedback(out, step, seen)
        self.save_forward(out, step, h, indices)
        after = [p.detach().clone() for p in self.learner.forward_blocks.parameters()]
        self.put_back(before)  # what follows is about the parameters of before the step
        self.save_alignment(f"{out}/align_after")
        self.save_comparisons(out, x, y, h, indices)
        self.put_back(after)

    def put_back(self, parameters):
        with torch.no_grad():
            for p, value in zip(self.learner.forward_blocks.parameters(), parameters, strict=True):
                p.copy_(value)

    @contextmanager
    def watching_feedback(self):
        """Yields lists by feedback map: (gradients, [distance, angle]) before each update."""
        seen = [[] for _ in self.learner.feedback_optimizers]
        for i, optimizer in enumerate(self.learner.feedback_optimizers):
            optimizer.step = self.watched(optimizer.step, i, seen[i])
        yield seen
        for optimizer in self.learner.feedback_optimizers:
            del optimizer.step

    def watched(self, step, i, seen):
        def watched_step():
            layer = self.learner.feedback_blocks[i].layer
            gradients = {name: p.grad.numpy().copy() for name, p in layer.named_parameters()}
            seen.append((gradients, self.weight_alignment(i)))
            step()

        return watched_step

    def weight_alignment(self, i):
        theta = self.learner.forward_blocks[i + 1].layer.weight
        omega = self.learner.feedback_blocks[i].layer.weight
        return alignment(theta, omega if theta.ndim == 4 else omega.T)

    def save_alignment(self, prefix):
        for i, module in enumerate(self.modules[1:]):
            self.save(f"{prefix}/{module}", self.weight_alignment(i))

    def save_feedback(self, out, step, seen):
        for i, (name, losses) in enumerate(zip(self.names[1:], step.feedback_losses, strict=True)):
            self.save(f"{out}/fb_loss/{name}", losses)
            for k, kind in enumerate(("fb_dist", "fb_angle")):
                self.save(f"{out}/{kind}/{name}", [found[k] for _, found in seen[i]])
            for parameter in seen[i][0][0]:
                self.save(
                    f"{out}/fb_grad/{self.modules[i + 1]}/{parameter}",
                    np.stack([gradients[parameter] for gradients, _ in seen[i]]),
                )
        self.save(f"{out}/fb_loss_total", sum(losses.sum() for losses in step.feedback_losses))
        self.save(f"{out}/fb_loss_avg", np.mean([losses.mean() for losses in step.feedback_losses]))
        self.save_parameters(f"{out}/fb_after", lambda p: p, "fb")
        state = {p: s for o in self.learner.feedback_optimizers for p, s in o.state.items()}
        self.save_parameters(f"{out}/fb_velocity", lambda p: state[p]["momentum_buffer"], "fb")

    def save_forward(self, out, step, h, indices):
        for i, name in enumerate(self.names):
            self.save(f"{out}/act/{name}", h[i + 1])
            self.save(f"{out}/target/{name}", step.targets[i])
            self.save(f"{out}/fwd_loss/{name}", step.local_losses[i])
            if indices[i] is not None:
                self.save(f"{out}/pool_idx/{name}", indices[i])
        self.save(f"{out}/fwd_loss_total", step.local_losses.sum())
        self.save(f"{out}/step_loss", step.loss)
        state = self.learner.forward_optimizer.state
        self.save_parameters(f"{out}/grad", lambda p: p.grad, "fwd")
        self.save_parameters(f"{out}/fwd_after", lambda p: p, "fwd")
        self.save_parameters(f"{out}/fwd_velocity", lambda p: state[p]["momentum_buffer"], "fwd")

    def save_comparisons(self, out, x, y, h, indices):
        """Backprop's gradients, and L-DRL's against them at the training beta and at .005."""
        parameters = list(self.learner.forward_blocks.parameters())
        logits = x
        for block in self.learner.forward_blocks:
            logits, _ = block(logits)
        loss = torch.nn.functional.cross_entropy(logits, y)
        reference = dict(zip(parameters, torch.autograd.grad(loss, parameters), strict=True))
        self.save(f"{out}/bp_loss", loss)
        self.save_parameters(f"{out}/bp_grad", lambda p: reference[p], "fwd")
        for name, beta in (("cmp", self.beta), ("cmp_beta0.005", 0.005)):
            self.learner.beta = beta
            targets = self.learner.targets(h, indices, y)
            outputs = [
                block(a)[0] for block, a in zip(self.learner.forward_blocks, h[:-1], strict=True)
            ]
            local = sum(
                0.5 * (o - t).square().flatten(1).sum(1).mean()
                for o, t in zip(outputs, targets, strict=True)
            )
            found = dict(zip(parameters, torch.autograd.grad(local, parameters), strict=True))
            self.save_parameters(
                f"{out}/{name}", lambda p, g=found, b=beta: alignment(g[p] / b, reference[p]), "fwd"
            )
        self.learner.beta = self.beta


def alignment(a, b):
    """[distance, angle in degrees], relative to the first argument."""
    a, b = a.detach().numpy().ravel(), b.detach().numpy().ravel()
    cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-8)
    return np.array(
        [np.linalg.norm(a - b) / np.linalg.norm(a), np.degrees(np.arccos(np.clip(cosine, -1, 1)))]
    )
