"""The IDX format of MNIST and Fashion-MNIST: a big-endian magic number and sizes, then bytes.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from mnet_jax.data.disk import size_of
from mnet_jax.data.errors import DataError, reason

MOST_BYTES = 2**28  # unpacked; the largest file of these sets has 47 million
_UINT8 = 0x08  # the type code of unsigned bytes, the third byte of the magic


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Args:
      path: the `.gz` file.
      rank: required number of dimensions: 3 for images [n, h, w], 1 for labels [n].

    Raises:
      DataError: the file is missing, not gzip, truncated, far too large, or not an IDX file of
        bytes with this rank and the declared size.
    """
    if not size_of(path):
        raise DataError(f"{path}: cannot be read as gzip: it is empty")
    try:
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as gzip: {reason(error)}") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path}: unpacks to more than {MOST_BYTES} bytes, legal: up to that")
    header = 4 * (1 + rank)
    if len(content) < header:
        raise DataError(f"{path}: got {len(content)} bytes, an IDX header has {header}")
    magic, *shape = (int(field) for field in np.frombuffer(content[:header], ">u4"))
    expected = _UINT8 << 8 | rank
    if magic != expected:
        raise DataError(f"{path}: got magic {magic:#010x}, legal: {expected:#010x}")
    count = len(content) - header
    # Python integers: a product of hostile sizes must not wrap around.
    declared = 1
    for size in shape:
        declared *= size
    if count != declared or not declared:
        raise DataError(
            f"{path}: got {count} bytes of data, its header {shape} declares {declared}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_labelled(images: Path, labels: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads a pair of files: images uint8 [n, h, w, 1] and labels uint8 [n] below `num_classes`.

    Raises:
      DataError: a file is one that `read_idx` refuses, the two counts differ, or a label is out of
        range.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise DataError(f"{labels}: got {len(classes)} labels for {len(pixels)} images of {images}")
    if classes.max() >= num_classes:
        raise DataError(f"{labels}: got label {classes.max()}, legal: 0 to {num_classes - 1}")
    return pixels[..., None], classes
