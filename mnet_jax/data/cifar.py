"""Reads CIFAR-10 and CIFAR-100 from their archives for C programs ("binary version").

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), and
https://www.cs.toronto.edu/~kriz/cifar.html. A record is one label byte (in CIFAR-100 two: coarse,
then fine) and 3,072 bytes of pixels: the red, green and blue planes, each row by row. The archives
for Python are not read: they are pickles, which can execute code.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnet_jax.data.archive import members
from mnet_jax.data.errors import DataError
from mnet_jax.data.published import PublishedFile

SHAPE = (32, 32, 3)
_PLANES = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """The storage format of CIFAR-10 or CIFAR-100.

    Attributes:
      file: the archive.
      folder: the folder in the archive that holds all members.
      splits: the member names of each split, in order.
      records: the number of records of each split.
      names_file: the member with the class names, one a line.
      labels: the number of label bytes before a record's pixels; the last one is the class.
      class_names: indexed by label.
    """

    file: PublishedFile
    folder: str
    splits: dict[str, tuple[str, ...]]
    records: dict[str, int]
    names_file: str
    labels: int
    class_names: tuple[str, ...]


CIFAR10 = Cifar(
    file=PublishedFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size_bytes=170052171,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    folder="cifar-10-batches-bin",
    splits={
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    records={"train": 50_000, "test": 10_000},
    names_file="batches.meta.txt",
    labels=1,
    class_names=tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
    ),
)
CIFAR100 = Cifar(
    file=PublishedFile(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size_bytes=168513733,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    folder="cifar-100-binary",
    splits={"train": ("train.bin",), "test": ("test.bin",)},
    records={"train": 50_000, "test": 10_000},
    names_file="fine_label_names.txt",
    labels=2,
    class_names=tuple(
        """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
        butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
        crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
        kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
        mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
        plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
        skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
        woman worm""".split()  # noqa: SIM905
    ),
)


def read_cifar(path: Path, cifar: Cifar) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads images uint8 [n, 32, 32, 3] and labels uint8 [n] of each split from an archive.

    Raises:
      DataError: the archive cannot be read, lacks a member, or has unexpected records or class
        names.
    """
    names = [*(name for split in cifar.splits.values() for name in split), cifar.names_file]
    wanted = {f"{cifar.folder}/{name}": name for name in names}
    most = max(cifar.records.values()) * (cifar.labels + _PIXELS)
    found = {wanted[name]: content for name, content in members(path, wanted.__contains__, most)}
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{path}: lacks {', '.join(missing)} in {cifar.folder}/")
    lines = found[cifar.names_file].decode(errors="replace").split()
    if tuple(lines) != cifar.class_names:
        raise DataError(f"{path}: {cifar.names_file} names other classes than CIFAR's")
    return {
        split: _records(path, split, b"".join(found[name] for name in parts), cifar)
        for split, parts in cifar.splits.items()
    }


def _records(path: Path, split: str, content: bytes, cifar: Cifar) -> tuple[np.ndarray, np.ndarray]:
    size, count = cifar.labels + _PIXELS, cifar.records[split]
    if len(content) != count * size:
        raise DataError(
            f"{path}: {split} has {len(content)} bytes, legal: {count} records of {size}"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    labels = records[:, cifar.labels - 1]
    largest = int(np.max(labels))
    if largest >= len(cifar.class_names):
        raise DataError(f"{path}: got label {largest}, legal: 0 to {len(cifar.class_names) - 1}")
    planes = records[:, cifar.labels :].reshape(-1, *_PLANES)
    return planes.transpose(0, 2, 3, 1), labels
