"""How devices share the batch: one jit over a mesh, of all processes' devices, or pmap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mnet_jax.training.step import Batch, TrainState, Tree
from mnet_jax.training.types import Parallelism
from mnet_jax.validation import require

BATCH_AXIS = "batch"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How devices share the work.

    Attributes:
      devices: how many share a batch.
      compile_train: makes the pure train step run on all devices, reusing the state's memory; its
        numbers are the same on each.
      compile_eval: the same for the pure eval step.
      put_state: a state onto the devices; every process has the same.
      put_batch: a NumPy batch onto the devices: this process's share of it (`data.Shard`).
      resized: the shapes of a batch on the devices, but for another number of images.
      get: what the compiled steps returned, one copy: a state for a checkpoint, or metrics.
    """

    devices: int
    compile_train: Callable[[Callable], Callable]
    compile_eval: Callable[[Callable], Callable]
    put_state: Callable[[TrainState], TrainState]
    put_batch: Callable[[Batch], Batch]
    resized: Callable[[Batch, int], Batch]
    get: Callable[[Tree], Tree]


def placement(
    parallel: Parallelism,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    accumulate: int = 1,
    norm_groups: int = 1,
) -> Placement:
    """A placement over some devices, or all of all processes.

    `jit` shards the batch over a mesh and leaves the rest to the compiler, so that batch
    normalization sees the whole batch. `pmap` maps one step over devices; the step must then be
    made with `axis_name=BATCH_AXIS`, as must the model.

    Args:
      parallel: which of the two.
      batch_size: images per optimizer step.
      devices: over which.
      accumulate: micro-batches of a step, each of which the devices share.
      norm_groups: of the step; by `pmap`, a device has whole groups or all share the one.

    Raises:
      ValueError: the batch cannot be shared evenly.
    """
    # A process's devices are neighbours, as the images of its share of a batch are.
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    count = len(devices)
    alone = parallel == "jit" or jax.process_count() == 1
    require(alone, "parallel", parallel, f"jit for a run in {jax.process_count()} processes")
    legal = f"multiples of the {count} devices" + (
        f" times {accumulate} micro-batches" if accumulate > 1 else ""
    )
    require(batch_size % (count * accumulate) == 0, "batch_size", batch_size, legal)
    whole = parallel == "jit" or norm_groups == 1 or norm_groups % count == 0
    require(whole, "norm_groups", norm_groups, f"by pmap 1 or multiples of the {count} devices")
    return _jit_placement(devices) if parallel == "jit" else _pmap_placement(devices)


def _jit_placement(devices: list[jax.Device]) -> Placement:
    mesh = jax.sharding.Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
    return Placement(
        devices=len(devices),
        compile_train=lambda step: jax.jit(
            step, donate_argnums=0, out_shardings=(replicated, replicated)
        ),
        compile_eval=lambda step: jax.jit(step, out_shardings=replicated),
        put_state=lambda state: _replicated(state, replicated),
        put_batch=lambda batch: {
            name: jax.make_array_from_process_local_data(sharded, x) for name, x in batch.items()
        },
        resized=lambda batch, images: _shapes(batch, lambda x: (images, *x.shape[1:])),
        get=lambda tree: tree,
    )


def _replicated(state: TrainState, everywhere: NamedSharding) -> TrainState:
    """A state of this process's, which is every other's too, onto all devices."""
    if everywhere.is_fully_addressable:
        return jax.device_put(state, everywhere)
    here = [d for d in everywhere.mesh.devices.flat if d.process_index == jax.process_index()]

    def put(x: jax.Array) -> jax.Array:
        if not x.is_fully_addressable:
            return x  # it is there
        copies = [jax.device_put(x, device) for device in here]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

    return jax.tree.map(put, state)


def _pmap_placement(devices: list[jax.Device]) -> Placement:
    count = len(devices)
    stacked = NamedSharding(
        jax.sharding.Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,)),
        PartitionSpec(BATCH_AXIS),
    )

    def put_state(state: TrainState) -> TrainState:
        return jax.tree.map(
            lambda x: jax.device_put(jnp.broadcast_to(x, (count, *x.shape)), stacked), state
        )

    def put_batch(batch: Batch) -> Batch:
        shared = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        return jax.device_put(shared, stacked)

    return Placement(
        devices=len(devices),
        compile_train=lambda step: jax.pmap(
            step, axis_name=BATCH_AXIS, in_axes=(0, 0, None), donate_argnums=0, devices=devices
        ),
        compile_eval=lambda step: jax.pmap(step, axis_name=BATCH_AXIS, devices=devices),
        put_state=put_state,
        put_batch=put_batch,
        resized=lambda batch, images: _shapes(
            batch, lambda x: (count, images // count, *x.shape[2:])
        ),
        get=lambda tree: jax.tree.map(lambda x: x[0], tree),
    )


def _shapes(batch: Batch, shape: Callable[[Any], tuple[int, ...]]) -> Batch:
    return {
        name: jax.ShapeDtypeStruct(shape(x), x.dtype, sharding=x.sharding)
        for name, x in batch.items()
    }
