"""How devices share the batch: one jit over a mesh of all processes' devices, or pmap."""

from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mnet_jax.training.step import Batch, EvalStep, TrainState, TrainStep, Tree
from mnet_jax.training.types import Parallelism
from mnet_jax.validation import require

BATCH_AXIS = "batch"


class Placement(Protocol):
    """Makes devices share the work: compiles functions for the devices, and puts values on them.

    A batch here is a dictionary of NumPy arrays [b, ...] with this process's b images (its
    `data.Shard`). The shapes on the devices depend on the implementation.

    Attributes:
      devices: the number of devices that share a batch.
    """

    devices: int

    def compile_train(self, step: TrainStep) -> TrainStep:
        """Compiles the pure train step for all devices, which get the same hyperparameters.

        The compiled step reuses the memory of the state it is given.
        """

    def compile_eval(self, step: EvalStep) -> EvalStep:
        """Compiles the pure eval step for all devices."""

    def put_state(self, state: TrainState) -> TrainState:
        """Puts a full copy of a state onto each device; every process must have the state."""

    def put_batch(self, batch: Batch) -> Batch:
        """Puts a NumPy batch onto the devices, an equal part on each device."""

    def resized(self, batch: Batch, images: int) -> Batch:
        """Returns the shapes on the devices that `batch` would have if it had `images` images."""

    def get(self, tree: Tree) -> Tree:
        """Returns the output of a compiled step, such as a state or metrics, without replicas."""


def placement(
    parallel: Parallelism,
    batch_size: int,
    devices: Sequence[jax.Device] | None = None,
    *,
    accumulate: int = 1,
    norm_groups: int = 1,
) -> Placement:
    """Makes a placement over some devices; by default over the devices of all processes.

    Args:
      parallel: `jit` for a `JitPlacement`, `pmap` for a `PmapPlacement`.
      batch_size: images per optimizer step.
      devices: the devices; None means all devices of all processes.
      accumulate: micro-batches per step; the devices share each micro-batch.
      norm_groups: normalization groups per step. With `pmap`, each device must have whole groups,
        or all devices must share one group.

    Raises:
      ValueError: the batch cannot be shared evenly.
    """
    # A process's share of a batch is contiguous, so its devices must be neighbours too.
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
    return JitPlacement(devices) if parallel == "jit" else PmapPlacement(devices)


class JitPlacement:
    """Shards the batch over a mesh; XLA partitions the step accordingly.

    Batch normalization sees the whole batch. The devices may belong to several processes. On the
    devices, a batch is [b, ...] with the images of all processes, sharded over b; a state is
    replicated.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        """Stores the devices; the first device gets the first part of a batch, and so on."""
        mesh = _mesh(devices)
        self.devices = len(devices)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))

    def compile_train(self, step: TrainStep) -> TrainStep:
        """See `Placement`."""
        replicated = self._replicated
        return jax.jit(step, donate_argnums=0, out_shardings=(replicated, replicated))

    def compile_eval(self, step: EvalStep) -> EvalStep:
        """See `Placement`."""
        return jax.jit(step, out_shardings=self._replicated)

    def put_state(self, state: TrainState) -> TrainState:
        """See `Placement`."""
        everywhere = self._replicated
        if everywhere.is_fully_addressable:
            return jax.device_put(state, everywhere)
        here = [d for d in everywhere.mesh.devices.flat if d.process_index == jax.process_index()]

        def put(x: jax.Array) -> jax.Array:
            if not x.is_fully_addressable:
                return x  # already on the devices
            copies = [jax.device_put(x, device) for device in here]
            return jax.make_array_from_single_device_arrays(x.shape, everywhere, copies)

        return jax.tree.map(put, state)

    def put_batch(self, batch: Batch) -> Batch:
        """See `Placement`."""
        return {
            name: jax.make_array_from_process_local_data(self._sharded, x)
            for name, x in batch.items()
        }

    def resized(self, batch: Batch, images: int) -> Batch:
        """See `Placement`."""
        return {name: _shaped(x, (images, *x.shape[1:])) for name, x in batch.items()}

    def get(self, tree: Tree) -> Tree:
        """See `Placement`. Returns the tree itself, as there is one copy."""
        return tree


class PmapPlacement:
    """Maps one step over the devices of this process; batches and states get a device axis.

    To average over the whole batch, the step and the model need `axis_name=BATCH_AXIS`. On d
    devices a batch is [d, b / d, ...]. Each array of a state is [d, ...], holding d equal copies.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        """Stores the devices; the first device gets the first part of a batch, and so on."""
        self.devices = len(devices)
        self._each = list(devices)
        self._stacked = NamedSharding(_mesh(devices), PartitionSpec(BATCH_AXIS))

    def compile_train(self, step: TrainStep) -> TrainStep:
        """See `Placement`."""
        return jax.pmap(
            step,
            axis_name=BATCH_AXIS,
            in_axes=(0, 0, None),
            donate_argnums=0,
            devices=self._each,
        )

    def compile_eval(self, step: EvalStep) -> EvalStep:
        """See `Placement`."""
        return jax.pmap(step, axis_name=BATCH_AXIS, devices=self._each)

    def put_state(self, state: TrainState) -> TrainState:
        """See `Placement`."""

        def put(x: jax.Array) -> jax.Array:
            return jax.device_put(jnp.broadcast_to(x, (self.devices, *x.shape)), self._stacked)

        return jax.tree.map(put, state)

    def put_batch(self, batch: Batch) -> Batch:
        """See `Placement`."""
        shared = {k: v.reshape(self.devices, -1, *v.shape[1:]) for k, v in batch.items()}
        return jax.device_put(shared, self._stacked)

    def resized(self, batch: Batch, images: int) -> Batch:
        """See `Placement`."""
        each = images // self.devices
        return {name: _shaped(x, (self.devices, each, *x.shape[2:])) for name, x in batch.items()}

    def get(self, tree: Tree) -> Tree:
        """See `Placement`. Returns the first device's copy."""
        return jax.tree.map(lambda x: x[0], tree)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def _shaped(x: jax.Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Returns a struct with the type and sharding of an array, and another shape."""
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=x.sharding)
