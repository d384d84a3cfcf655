"""Writes files in the IDX format of MNIST."""

import gzip
import struct

import numpy as np


def write_idx(path, array, magic=None, declared=None):
    array = np.asarray(array, np.uint8)
    header = struct.pack(">I", 0x0800 | array.ndim if magic is None else magic)
    shape = array.shape if declared is None else declared
    path.write_bytes(
        gzip.compress(header + struct.pack(f">{len(shape)}I", *shape) + array.tobytes())
    )
