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


def test_shares_by_kind_are_those_of_v1s_table_2():
    """arXiv 1704.04861, Table 2, but for its 1.19 % of full convolutions' MAdds.

    With that its column is 99.29 %; with 1.91 % it is 100.01 %.
    """
    whole = cost.count(architectures.mobilenet_v1(), 224)
    weights = {  # the table leaves normalization out
        kind: sum(row.params - 2 * row.layer.outputs * row.layer.normalized for row in part.rows)
        for kind, part in whole.by_kind.items()
    }
    table = {
        "pointwise": (94.86, 74.59), "depthwise": (3.06, 1.06), "conv": (1.91, 0.02),
        "dense": (0.18, 24.33),
    }  # fmt: skip
    assert weights.keys() == table.keys()
    for kind, (madds, params) in table.items():
        assert round(100 * whole.by_kind[kind].madds / whole.madds, 2) == madds
        # Its total is without the classifier's 1000 biases, as near as its digits tell.
        assert abs(100 * weights[kind] / sum(weights.values()) - params) < 0.02


def test_a_batch_reads_the_weights_once():
    (row, *_) = cost.count(architectures.mobilenet_v2(), 64).rows
    assert row.moved_bytes(5) == row.weight_bytes + 5 * row.activation_bytes
    assert row.intensity(5) == 2 * 5 * row.madds / row.moved_bytes(5)
