"""L-DRL and backprop in eager PyTorch: the formulas as written, for speed and parity comparisons.

A network is a chain of blocks, `h_0 = x`, `h_n = F_n(h_{n-1}; theta_n)`, and every block n >= 2
has a feedback map `G_n(.; omega_n)` back to the space of its input (Ernoult et al., ICML 2022,
arXiv 2201.13415):

    conv    F: conv -> activation -> max-pool         G: max-unpool -> activation -> transposed conv
    linear  F: [flatten ->] linear [-> activation]    G: [activation ->] linear [-> reshape]

The feedback loss is evaluated literally: each iteration runs F once and G three times. Activations
are NCHW. Nothing in a step waits for the device: losses come back as tensors on the device.

Overlapping pooling windows can send two values to one position of the unpooled plane. PyTorch keeps
the later one on CPU with one thread; with several threads and on a GPU either may win.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {None: lambda x: x, "elu": F.elu, "relu": F.relu, "tanh": torch.tanh}
Shape = tuple[int, ...]
Noise = Sequence[tuple[Tensor, Tensor]]


class Pool(NamedTuple):
    """A max-pool's window."""

    kernel: int
    stride: int
    padding: int = 0


class TorchBlockSpec(NamedTuple):
    """One block of the chain. `kernel`, `stride`, `padding`, `pool` are for kind "conv" only."""

    kind: str  # "conv" or "linear"
    features: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    activation: str | None = None
    pool: Pool | None = None
    flatten: bool = False
    bias: bool = True


Chain = Sequence[TorchBlockSpec]


def simple_vgg(classes: int = 10, channels: Shape = (128, 128, 256, 256, 512)) -> Chain:
    """3x3 conv -> ELU -> 2x2 max-pool for each entry of `channels`, then a linear classifier."""
    convs = (TorchBlockSpec("conv", c, 3, 1, 1, "elu", Pool(2, 2)) for c in channels)
    return *convs, TorchBlockSpec("linear", classes, flatten=True)


def lenet(classes: int = 10, channels: Shape = (32, 64), hidden: int = 512) -> Chain:
    """5x5 conv -> ELU -> overlapping 3/2/1 max-pool for each entry of `channels`, two linear."""
    convs = (TorchBlockSpec("conv", c, 5, 1, 2, "elu", Pool(3, 2, 1)) for c in channels)
    head = TorchBlockSpec("linear", hidden, activation="elu", flatten=True)
    return *convs, head, TorchBlockSpec("linear", classes)


def from_meta_spec(meta: dict) -> Chain:
    """The chain that a recorded case describes in its `meta/spec` (the parsed JSON).

    Raises ValueError for what this baseline has no block for (residual stages, average pools).
    """
    return tuple(_block_from_meta(block) for block in meta["blocks"])


def _block_from_meta(block: dict) -> TorchBlockSpec:
    kinds, pool = {"conv": "conv", "dense": "linear"}, block.get("pool")
    if block["kind"] not in kinds:
        raise ValueError(f"kind is {block['kind']!r}, allowed: {', '.join(kinds)}")
    if pool and pool["kind"] != "max":
        raise ValueError(f"pool is {pool['kind']!r}, allowed: max")
    fields = {key: block[key] for key in TorchBlockSpec._fields if key in block}
    window = pool and Pool(pool["kernel"], pool["stride"], pool["padding"])
    return TorchBlockSpec(**fields | {"kind": kinds[block["kind"]], "pool": window})


@contextmanager
def cuda_precision(*, tf32: bool) -> Iterator[None]:
    """Allow (or forbid) TF32 in float32 matmuls and convolutions and let cuDNN autotune, within.

    These switches are PyTorch's, for the whole process; they are put back at the end.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    try:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = tf32, tf32, True
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


class ForwardBlock(nn.Module):
    """F_n. Shapes leave out the batch; `conv_shape` is the plane that enters the pool."""

    def __init__(self, spec: TorchBlockSpec, input_shape: Shape):
        super().__init__()
        if spec.kind not in ("conv", "linear"):
            raise ValueError(f"kind is {spec.kind!r}, allowed: 'conv', 'linear'")
        if spec.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {spec.activation!r}, allowed: {list(ACTIVATIONS)}")
        self.spec, self.input_shape = spec, input_shape
        if spec.kind == "linear":
            self.layer = nn.Linear(prod(input_shape), spec.features, spec.bias)
            self.conv_shape = self.output_shape = (spec.features,)
            return
        window = spec.kernel, spec.stride, spec.padding
        self.layer = nn.Conv2d(input_shape[0], spec.features, *window, bias=spec.bias)
        plane = _slide(input_shape[1:], *window)
        self.conv_shape = spec.features, *plane
        self.output_shape = spec.features, *(_slide(plane, *spec.pool) if spec.pool else plane)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, *input_shape) -> h (B, *output_shape) and the positions of the pooled maxima."""
        h = self.layer(x.flatten(1) if self.spec.flatten else x)
        h = ACTIVATIONS[self.spec.activation](h)
        if self.spec.pool is None:
            return h, None
        return F.max_pool2d(h, *self.spec.pool, return_indices=True)


class FeedbackBlock(nn.Module):
    """G_n, the mirror of `block` with parameters of its own; the parametric map comes last."""

    def __init__(self, block: ForwardBlock):
        super().__init__()
        spec = self.spec = block.spec
        self.input_shape, self.conv_shape = block.input_shape, block.conv_shape
        if spec.kind == "linear":
            self.layer = nn.Linear(spec.features, prod(self.input_shape), spec.bias)
            return
        k, s, p = spec.kernel, spec.stride, spec.padding
        back = tuple(n * s - 2 * p + k - 1 for n in self.conv_shape[1:])
        if back != self.input_shape[1:]:
            raise ValueError(f"a {k}/{s}/{p} conv maps {self.input_shape[1:]} back to {back}")
        self.layer = nn.ConvTranspose2d(
            spec.features, self.input_shape[0], k, s, p, output_padding=s - 1, bias=spec.bias
        )

    def forward(self, y: Tensor, indices: Tensor | None) -> Tensor:
        """y (B, *output_shape), positions of the same shape -> x_hat (B, *input_shape)."""
        if self.spec.pool is not None:
            y = F.max_unpool2d(y, indices, *self.spec.pool, output_size=self.conv_shape[1:])
        x_hat = self.layer(ACTIVATIONS[self.spec.activation](y))
        return x_hat.unflatten(1, self.input_shape) if self.spec.flatten else x_hat


def _slide(plane: Shape, kernel: int, stride: int, padding: int) -> Shape:
    """The plane of a window's positions on `plane`."""
    out = tuple((n + 2 * padding - kernel) // stride + 1 for n in plane)
    if min(out) < 1:
        raise ValueError(f"a {kernel}/{stride}/{padding} window does not fit a plane of {plane}")
    return out


class Precision:
    """Where and in what a step runs; bfloat16 means autocast around float32 parameters."""

    def __init__(self, device: torch.device | str, dtype: torch.dtype):
        allowed = torch.float32, torch.float64, torch.bfloat16
        if dtype not in allowed:
            raise ValueError(f"dtype is {dtype}, allowed: {', '.join(map(str, allowed))}")
        self.device, self.mixed = torch.device(device), dtype == torch.bfloat16
        self.dtype = torch.float32 if self.mixed else dtype  # of parameters, targets and losses

    def autocast(self) -> torch.autocast:
        """A fresh context: leaving it drops the cached copies of weights that then change."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)


def build_blocks(
    spec: Chain, shape: Shape, seed: int, precision: Precision
) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Forward blocks 1..L and feedback blocks 2..L with PyTorch's default initialisation.

    `shape` is the images', (C, H, W). The global generator is left as it was.
    """
    forward, shape = nn.ModuleList(), tuple(shape)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        for block in spec:
            forward.append(ForwardBlock(block, shape))
            shape = forward[-1].output_shape
        feedback = nn.ModuleList(map(FeedbackBlock, forward[1:]))
    to = precision.device, precision.dtype
    return forward.to(*to), feedback.to(*to)


class Backprop:
    """Mean cross-entropy, one ordinary gradient, SGD with momentum.

    Args as in `LDRL`; the same seed gives the same initial forward parameters.
    """

    def __init__(
        self,
        spec: Chain,
        input_shape: Shape,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        self.precision = Precision(device, dtype)
        self.forward_blocks, _ = build_blocks(spec, input_shape, seed, self.precision)
        self.optimizer = _sgd(self.forward_blocks, lr, momentum, weight_decay)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update on images x (B, C, H, W) and labels y (B,). Returns the loss before it."""
        self.optimizer.zero_grad()
        with self.precision.autocast():
            h = x
            for block in self.forward_blocks:
                h, _ = block(h)
        loss = F.cross_entropy(h.to(self.precision.dtype), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class LDRLStep(NamedTuple):
    """What one step computed, all of it still on the device."""

    feedback_losses: tuple[Tensor, ...]  # of blocks 2..L: (iterations,)
    targets: tuple[Tensor, ...]  # of blocks 1..L: (B, *output_shape)
    local_losses: Tensor  # (L,)

    @property
    def loss(self) -> Tensor:
        """Local losses and the feedback losses of all iterations, summed."""
        return torch.cat((self.local_losses, *self.feedback_losses)).sum()


class LDRL:
    """Difference target propagation whose feedback weights learn backprop's targets.

    Args:
        spec, input_shape: the blocks in forward order, (C, H, W).
        noise, iterations, feedback_lr: of the feedback maps of blocks 2..L, in forward order (one
            entry stands for all): noise scale sigma, updates per batch, learning rate.
        forward_lr, weight_decay: of the one SGD over all forward parameters.
        beta: step of the output target.
        samples: noise samples per image and iteration.
        momentum: of every SGD, forward and feedback.
        dtype: float32, float64, or bfloat16 (autocast; parameters stay float32).
        seed: of the initial parameters and of the noise.

    Raises:
        ValueError: a tuple of another length, a block that does not fit, an unsupported dtype.
    """

    def __init__(
        self,
        spec: Chain,
        input_shape: Shape,
        *,
        noise: Sequence[float],
        iterations: Sequence[int],
        feedback_lr: Sequence[float],
        forward_lr: float,
        beta: float,
        samples: int = 1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ):
        self.precision = Precision(device, dtype)
        blocks = build_blocks(spec, input_shape, seed, self.precision)
        self.forward_blocks, self.feedback_blocks = blocks
        count = len(self.feedback_blocks)
        self.sigmas = _per_block("noise", noise, count)
        self.iterations = _per_block("iterations", iterations, count)
        self.beta, self.samples = beta, samples
        self.generator = torch.Generator(self.precision.device).manual_seed(seed)
        self.forward_optimizer = _sgd(self.forward_blocks, forward_lr, momentum, weight_decay)
        rates = _per_block("feedback_lr", feedback_lr, count)
        pairs = zip(self.feedback_blocks, rates, strict=True)
        self.feedback_optimizers = [_sgd(block, lr, momentum, 0.0) for block, lr in pairs]

    def step(self, x: Tensor, y: Tensor, noise: Noise | None = None) -> LDRLStep:
        """One training step on images x (B, C, H, W) and labels y (B,), both on the device.

        `noise` replays unscaled N(0, 1) draws instead of fresh ones: for each of the blocks 2..L a
        pair (dx, dy) of shapes (iterations, samples, B, *shape of the block's input / output).
        """
        h, indices = self.activations(x)
        feedback_losses = tuple(
            self.train_feedback(i, h[i + 1], h[i + 2], indices[i + 1], noise and noise[i])
            for i in range(len(self.feedback_blocks))
        )
        targets = self.targets(h, indices, y)
        return LDRLStep(feedback_losses, targets, self.train_forward(h, targets))

    @torch.no_grad()
    def activations(self, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """`h_0 = x, h_1, ..., h_L` and the pool positions of blocks 1..L (None without a pool)."""
        h, indices = [x], []
        with self.precision.autocast():
            for block in self.forward_blocks:
                output, positions = block(h[-1])
                h.append(output)
                indices.append(positions)
        return h, indices

    def train_feedback(
        self, i: int, x: Tensor, y: Tensor, indices: Tensor | None, noise: tuple | None = None
    ) -> Tensor:
        """All updates of feedback block i, where y = F(x). Returns the losses, (iterations,)."""
        losses = torch.zeros(self.iterations[i], dtype=self.precision.dtype, device=x.device)
        for k in range(self.iterations[i]):
            e, u = (noise[0][k], noise[1][k]) if noise else (self._draw(x), self._draw(y))
            self.feedback_optimizers[i].zero_grad()
            loss = self.feedback_loss(i, x, y, indices, e, u)
            loss.backward()
            self.feedback_optimizers[i].step()
            losses[k] = loss.detach()
        return losses

    def feedback_loss(
        self, i: int, x: Tensor, y: Tensor, indices: Tensor | None, e: Tensor, u: Tensor
    ) -> Tensor:
        """`mean_b[-2 <dx, dr>_b + ||dr_y||^2_b]`, averaged over the samples.

        `indices` are the clean pass's; e (samples, *x.shape) and u (samples, *y.shape) are the
        unscaled draws. Samples are extra rows of one batch.
        """
        forward, feedback = self.forward_blocks[i + 1], self.feedback_blocks[i]
        dx, dy = self.sigmas[i] * e, self.sigmas[i] * u
        repeated = indices
        if indices is not None:
            repeated = indices.expand(len(u), *indices.shape).flatten(0, 1)
        with self.precision.autocast():
            r = feedback(y, indices)
            with torch.no_grad():
                noisy, noisy_indices = forward((x + dx).flatten(0, 1))
            dr = feedback(noisy, noisy_indices).reshape(dx.shape) - r
            dr_y = feedback((y + dy).flatten(0, 1), repeated).reshape(dx.shape) - r
        inner = torch.sum(dx * dr, dtype=self.precision.dtype)
        square = torch.sum(dr_y.square(), dtype=self.precision.dtype)
        return (square - 2 * inner) / (len(e) * len(x))

    @torch.no_grad()
    def targets(
        self, h: list[Tensor], indices: list[Tensor | None], labels: Tensor
    ) -> tuple[Tensor, ...]:
        """`t_L = h_L + beta (onehot - softmax(h_L))`, `t_{n-1} = h_{n-1} + G_n(t_n) - G_n(h_n)`."""
        logits = h[-1].to(self.precision.dtype)
        onehot = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
        targets = [logits + self.beta * (onehot - logits.softmax(1))]
        with self.precision.autocast():
            for i in reversed(range(len(self.feedback_blocks))):
                feedback, positions = self.feedback_blocks[i], indices[i + 1]
                shift = feedback(targets[0], positions) - feedback(h[i + 2], positions)
                targets.insert(0, h[i + 1].to(self.precision.dtype) + shift)
        return tuple(targets)

    def train_forward(self, h: list[Tensor], targets: tuple[Tensor, ...]) -> Tensor:
        """One update of theta on `sum_n 0.5 mean_b ||F_n(h_{n-1}) - t_n||^2_b`. Losses: (L,)."""
        self.forward_optimizer.zero_grad()
        with self.precision.autocast():
            outputs = [block(x)[0] for block, x in zip(self.forward_blocks, h[:-1], strict=True)]
        errors = (output - t for output, t in zip(outputs, targets, strict=True))
        losses = torch.stack([0.5 * error.square().sum() / len(error) for error in errors])
        losses.sum().backward()
        self.forward_optimizer.step()
        return losses.detach()

    def _draw(self, like: Tensor) -> Tensor:
        """Unscaled draws (samples, *like.shape), in the precision of the activations."""
        shape, generator = (self.samples, *like.shape), self.generator
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _sgd(module: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Fused: one pass over the parameters. Decay joins the gradient before the momentum."""
    options = {"momentum": momentum, "weight_decay": weight_decay, "fused": True}
    return torch.optim.SGD(module.parameters(), lr, **options)


def _per_block(name: str, values: Sequence, count: int) -> tuple:
    """`values` with one entry for each of `count` feedback maps; a single entry stands for all."""
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} entries, allowed: 1 or {count}")
    return tuple(values) * (count if len(values) == 1 else 1)
