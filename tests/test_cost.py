"""Bytes and multiply-adds of single layers, by hand."""

import numpy as np
from published import V3S, spec_of

from mnet_jax import architectures
from mnet_jax.analysis import cost


def test_bytes_of_a_layer_are_its_arrays():
    """The stem by hand: 3x3x3 kernels to 32 channels, two normalization vectors, two statistics."""
    spec = architectures.mobilenet_v1()
    wide, narrow = (
        cost.count(spec, (64, 96), activation_itemsize=itemsize).rows[0] for itemsize in (4, 2)
    )
    assert wide.weight_bytes == narrow.weight_bytes == 4 * (27 * 32 + 2 * 32 + 2 * 32)
    touched = np.zeros((64, 96, 3), np.float32).nbytes + np.zeros((32, 48, 32), np.float32).nbytes
    assert (wide.activation_bytes, narrow.activation_bytes) == (touched, touched // 2)


def test_bytes_and_madds_of_squeeze_and_excitation_by_hand():
    """Of V3-Small's first block: 16 channels to 8 and back, on one position."""
    rows = {row.layer.name: row for row in cost.count(spec_of(V3S, {}), 224).rows}
    reduce, expand = (rows[f"block_0/squeeze_excite/{part}"] for part in ("reduce", "expand"))
    assert (reduce.params, expand.params) == (16 * 8 + 8, 8 * 16 + 16)
    assert (reduce.madds, expand.madds) == (16 * 8, 8 * 16)
    assert reduce.statistics == expand.statistics == 0
    assert reduce.activation_bytes == 4 * (16 + 8)
