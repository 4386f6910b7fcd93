"""Training over a mesh of devices: the batch along one axis, the feedback maps along the other.

Data-parallel: every device holds a part of the batch. Nothing in the rules says so: the batch carries
a sharding, and XLA puts an all-reduce wherever a sum runs over the batch, one per feedback iteration.

Layer-parallel: the feedback maps do not see each other, so each device trains those of its own
blocks, and only what they have become is exchanged, once per step. A step then takes no less than
its dearest block: 2.5 times less than before for the default network, whose second block has 40 % of
the work, on however many devices. Both axes together go beyond that.

Seeds: runs that differ in their seeds are divided among devices, and have nothing to exchange.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

DATA, LAYERS = "data", "layers"
SEEDS = "seeds"
"""The only axis of a mesh that runs are divided among, each as a whole."""


def make_mesh(data: int, layers: int) -> Mesh | None:
    """A mesh of data x layers devices, the first ones of all processes; None for a single device.

    Raises:
      ValueError: there are fewer devices, or some process would have none to work on.
    """
    wanted, there, processes = data * layers, jax.device_count(), jax.process_count()
    if wanted > there or (processes > 1 and wanted != there):
        allowed = f"a product of {there}" if processes > 1 else f"a product of at most {there}"
        raise ValueError(
            f"config.data_parallel is {data} and config.layer_parallel is {layers}; "
            f"allowed: {allowed}, the number of devices"
        )
    if there == 1 or (wanted == 1 and processes == 1):
        return None
    devices = np.array(jax.devices()[:wanted]).reshape(data, layers)
    return Mesh(devices, (DATA, LAYERS), axis_types=(AxisType.Auto,) * 2)


def axis_size(mesh: Mesh | None, axis: str) -> int:
    """Number of devices along an axis; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape[axis]


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """A copy on every device of the mesh; None, JAX's own choice, without one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def placement(mesh: Mesh | None) -> Sharding:
    """`replicated`, or JAX's own choice by name: where restored arrays go, wherever they were saved."""
    return replicated(mesh) or SingleDeviceSharding(jax.devices()[0])


def on_own_device(tree: Any) -> Any:
    """Arrays that every device has, as arrays of this process's first device alone: what is computed of them
    waits for nobody else."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def divided(mesh: Mesh, axes: Sequence[str] = (DATA,)) -> NamedSharding:
    """The leading axis divided along axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(tuple(axes)))


def split_batch(mesh: Mesh | None, arrays: Any, axes: Sequence[str] = (DATA,)) -> Any:
    """Inside `jit`: says that the leading axis of all arrays is divided along the mesh."""
    if mesh is None:
        return arrays
    return jax.lax.with_sharding_constraint(arrays, divided(mesh, axes))


def put(mesh: Mesh | None, arrays: Any) -> Any:
    """Host arrays, the same in every process, as a copy on every device of the mesh."""
    if mesh is None:
        return jax.device_put(arrays)
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, sharding, lambda index: a[index]), arrays
    )


def put_share(mesh: Mesh, arrays: Any) -> Any:
    """Host arrays, of which every process has its share along the leading axis (see `data_share`), as
    arrays divided along the mesh."""
    place = partial(jax.make_array_from_process_local_data, divided(mesh))
    return jax.tree.map(place, arrays)


def data_share(mesh: Mesh | None) -> tuple[int, int]:
    """(which, of how many) equal parts of a batch this process reads.

    Processes whose devices stand at the same place along the data axis read the same part.

    Raises:
      ValueError: some process's devices would need part of another one's.
    """
    processes = jax.process_count()
    if mesh is None or processes == 1:
        return 0, 1
    data, layers = mesh.devices.shape
    shares = min(data, processes)
    if max(data, processes) % shares:
        raise ValueError(
            f"config.data_parallel is {data}; allowed: a multiple or a divisor of {processes}, the "
            "number of processes"
        )
    first = [d.process_index for d in mesh.devices.flat].index(jax.process_index())
    return first // layers * shares // data, shares


def assign(costs: Sequence[float], groups: int) -> tuple[tuple[int, ...], ...]:
    """Divides jobs among groups: the dearest first, each to the group that has least to do, or fewest jobs.

    Returns:
      The jobs' positions by group; some groups are empty where there are more groups than jobs.
    """
    loads, given = [0.0] * groups, [[] for _ in range(groups)]
    for job in sorted(range(len(costs)), key=lambda j: -costs[j]):
        group = min(range(groups), key=lambda n: (loads[n], len(given[n])))
        loads[group] += costs[job]
        given[group].append(job)
    return tuple(tuple(sorted(jobs)) for jobs in given)


def speedup_bound(costs: Sequence[float], groups: int) -> float:
    """How many times faster all jobs are done by so many groups: the whole cost by that of the busiest."""
    costs = costs if sum(costs) else [1.0] * len(costs)  # nobody has said what they cost
    return sum(costs) / max(sum(costs[j] for j in jobs) for jobs in assign(costs, groups))


def on_each_part(
    mesh: Mesh, f: Callable[[jax.Array, Any, Any], Any], divided: Any, whole: Any
) -> Any:
    """f(number of the part, divided, whole), by each device on its part of the batch alone: the leading axis of
    all arrays of `divided`. What it returns must be the same on all; `mean_of_parts` makes it so.

    No device then asks another for anything but what f says. XLA, left to divide a batch of batches, gathers it.
    """
    context = jax.sharding.get_abstract_mesh()  # inside `each_in_its_group`

    def body(number: jax.Array, divided: Any, whole: Any) -> Any:
        return f(number[0], divided, whole)

    return jax.shard_map(
        body,
        mesh=mesh if context.empty else context,
        in_specs=(PartitionSpec(DATA), PartitionSpec(DATA), PartitionSpec()),
        out_specs=PartitionSpec(),
        axis_names={DATA},
        check_vma=False,
    )(jnp.arange(mesh.shape[DATA]), divided, whole)


def seeds_mesh(seeds: int) -> Mesh | None:
    """As many devices of this process as shorten the way for so many runs; None for a single one."""
    devices = jax.local_devices()
    each = -(-seeds // len(devices))
    used = devices[: -(-seeds // each)]
    return Mesh(np.array(used), (SEEDS,)) if len(used) > 1 else None


def on_shares_of_seeds(
    mesh: Mesh, f: Callable[..., Any], is_divided: Sequence[bool]
) -> Callable[..., Any]:
    """f, by each device on its share of the leading axis of the arguments that are divided, and of all
    results. The others are whole on every device. Nothing is exchanged."""
    specs = tuple(PartitionSpec(SEEDS) if divided else PartitionSpec() for divided in is_divided)
    return jax.shard_map(
        f, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(SEEDS), check_vma=False
    )


def mean_of_parts(tree: Any) -> Any:
    """Inside `on_each_part`: the mean over all parts, one exchange."""
    return jax.lax.pmean(tree, DATA)


def each_in_its_group(
    mesh: Mesh, jobs: Sequence[Callable[[Any], Any]], costs: Sequence[float], args: Any
) -> list[Any]:
    """[job(args) for job in jobs], each computed by one group of devices along the axis of layers.

    What a group has not computed it fills with zeros; one sum over the groups then gives everybody
    everything. It is exact, and the only exchange between the groups.
    """
    shapes = [jax.eval_shape(job, args) for job in jobs]

    def branch(own: tuple[int, ...]) -> Callable[[Any], list[Any]]:
        def run(args: Any) -> list[Any]:
            return [
                job(args)
                if n in own
                else jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[n])
                for n, job in enumerate(jobs)
            ]

        return run

    branches = [branch(own) for own in assign(costs, mesh.shape[LAYERS])]

    def body(group: jax.Array, args: Any) -> list[Any]:
        return jax.lax.psum(jax.lax.switch(group[0], branches, args), LAYERS)

    # The group's number is data, not `axis_index`, which XLA refuses while the other axis is automatic.
    return jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(PartitionSpec(LAYERS), PartitionSpec()),
        out_specs=PartitionSpec(),
        axis_names={LAYERS},
        check_vma=False,
    )(jnp.arange(mesh.shape[LAYERS]), args)
