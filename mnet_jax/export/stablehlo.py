"""StableHLO files, as `jax.export` writes them, for batches of any size on CPUs, GPUs and TPUs."""

import jax
import jax.numpy as jnp

from mnet_jax.export.network import Network

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(network: Network) -> bytes:
    """Returns a file that `jax.export.deserialize` reads.

        program = jax.export.deserialize(bytearray(file))
        logits = program.call(images)

    The format has no place for metadata. The weights are constants of the program.
    """
    side = network.resolution
    (batch,) = jax.export.symbolic_shape("batch")
    kind = jnp.uint8 if network.takes_pixels else jnp.float32
    exported = jax.export.export(jax.jit(network.logits), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, side, side, 3), kind)
    )
    return bytes(exported.serialize())
