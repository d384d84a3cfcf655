"""Finds, verifies and reads the files that the authors of data sets publish: MNIST and CIFAR.

Nothing is downloaded. Sizes and digests are the ones with which TFDS verifies its own downloads
(`tensorflow_datasets/url_checksums` and `datasets/imagenette/checksums.tsv`). The readers trust no
file: they check the sizes that a file declares.

MNIST and Fashion-MNIST are in the IDX format: a big-endian magic number and sizes, then bytes. A
record of CIFAR is one label byte (in CIFAR-100 two: coarse, then fine) and 3,072 bytes of pixels:
the red, green and blue planes, each row by row. CIFAR's archives for C programs ("binary version")
are read. Those for Python are not: they are pickles, which can execute code.

Sources: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats;
A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), and
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import hashlib
import math
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnet_jax.data.disk import size_of
from mnet_jax.data.types import DataError, reason

_MANUAL = Path("downloads", "manual")  # TFDS's folder for files that it cannot download


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a data set, as published.

    Attributes:
      url: where the file is published; the last part of the URL is the file's name.
      size_bytes: the file's size.
      sha256: the file's digest, hexadecimal.
    """

    url: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name on disk."""
        return self.url.rpartition("/")[2]


def search_folders(root: Path, directory: str | None) -> tuple[Path, ...]:
    """Returns the folders to search for published files.

    They are `directory` (None means TFDS's data folder `root`) and its folder `downloads/manual`.
    """
    base = root if directory is None else Path(directory).expanduser()
    return base, base / _MANUAL


def find_published(files: Iterable[PublishedFile], folders: Iterable[Path]) -> list[Path] | None:
    """Returns the paths of all `files` in the first of `folders` that has them all, else None."""
    wanted = list(files)
    for folder in folders:
        paths = [folder / file.name for file in wanted]
        if all(path.is_file() for path in paths):
            return paths
    return None


def missing_files(
    name: str, files: Iterable[PublishedFile], folders: Iterable[Path], root: Path
) -> DataError:
    """Returns the error for a set that is neither prepared nor available as published files."""
    wanted = list(files)
    names = ", ".join(file.name for file in wanted)
    source = wanted[0].url if len(wanted) == 1 else f"them from {wanted[0].url.rpartition('/')[0]}"
    return DataError(
        f"{name} is not prepared in {root}, and no {names} in {', '.join(map(str, folders))}; "
        f"fetch {source} and give the folder as directory, or on a machine with TensorFlow and a "
        f"network, run: tfds build {name} --file_format=array_record --data_dir={root}"
    )


def verify(path: Path, file: PublishedFile) -> None:
    """Raises DataError unless `path` has the size and the digest of the published file."""
    try:
        size = path.stat().st_size
        if size != file.size_bytes:
            raise DataError(
                f"{path}: got {size} bytes, legal: the {file.size_bytes} of {file.url}; "
                "fetch it again"
            )
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error
    if digest != file.sha256:
        raise DataError(
            f"{path}: got SHA-256 {digest}, legal: {file.sha256} of {file.url}; fetch it again"
        )


def read_members(
    path: Path, wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each wanted regular file in a gzipped tar archive.

    Nothing is written to disk, so the names of members can do no harm. Links and devices are
    skipped.

    Args:
      path: the archive.
      wanted: maps the name of a member to whether to read this member.
      most_bytes: the size limit of a member; a larger one is refused before it is read.

    Raises:
      DataError: the archive cannot be read, or a wanted member is too large.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if not member.isreg() or not wanted(member.name):
                    continue
                if member.size > most_bytes:
                    raise DataError(
                        f"{path}: {member.name} has {member.size} bytes, legal: up to {most_bytes}"
                    )
                content = archive.extractfile(member)
                assert content is not None  # because it is a regular file
                yield member.name, content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as tar.gz: {reason(error)}") from error


_MOST_IDX_BYTES = 2**28  # unpacked; the largest file of these sets has 47 million
_IDX_UINT8 = 0x08  # the type code of unsigned bytes, the third byte of the magic number


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Args:
      path: the `.gz` file.
      rank: required number of dimensions: 3 for images [n, h, w], 1 for labels [n].

    Raises:
      DataError: the file is missing, not gzip, truncated or far too large, is not an IDX file of
        bytes with this rank, or does not have the size that its header declares.
    """
    if not size_of(path):
        raise DataError(f"{path}: cannot be read as gzip: it is empty")
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST_IDX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as gzip: {reason(error)}") from error
    if len(content) > _MOST_IDX_BYTES:
        raise DataError(f"{path}: unpacks to more than {_MOST_IDX_BYTES} bytes, legal: up to that")
    header = 4 * (1 + rank)
    if len(content) < header:
        raise DataError(f"{path}: got {len(content)} bytes, an IDX header has {header}")
    magic, *shape = (int(field) for field in np.frombuffer(content[:header], ">u4"))
    expected = _IDX_UINT8 << 8 | rank
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
      DataError: `read_idx` refuses a file, the numbers of images and labels differ, or a label is
        out of range.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise DataError(f"{labels}: got {len(classes)} labels for {len(pixels)} images of {images}")
    _require_labels(labels, classes, num_classes)
    return pixels[..., None], classes


def _require_labels(path: Path, labels: np.ndarray, num_classes: int) -> None:
    largest = int(np.max(labels))
    if largest >= num_classes:
        raise DataError(f"{path}: got label {largest}, legal: 0 to {num_classes - 1}")


CIFAR_SHAPE = (32, 32, 3)
_CIFAR_PLANES = (3, 32, 32)  # red, green, blue; row by row
_CIFAR_PIXEL_BYTES = math.prod(CIFAR_SHAPE)


@dataclass(frozen=True, kw_only=True)
class Cifar:
    """The storage format of CIFAR-10 or CIFAR-100.

    Attributes:
      file: the archive.
      folder: the folder in the archive that holds all members.
      splits: the member names of each split, in order.
      records: the number of records of each split.
      names_file: the member with the class names, one per line.
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
    most = max(cifar.records.values()) * (cifar.labels + _CIFAR_PIXEL_BYTES)
    found = {
        wanted[name]: content for name, content in read_members(path, wanted.__contains__, most)
    }
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{path}: lacks {', '.join(missing)} in {cifar.folder}/")
    lines = found[cifar.names_file].decode(errors="replace").split()
    if tuple(lines) != cifar.class_names:
        raise DataError(f"{path}: {cifar.names_file} names other classes than CIFAR's")
    return {
        split: _read_records(path, split, b"".join(found[name] for name in parts), cifar)
        for split, parts in cifar.splits.items()
    }


def _read_records(
    path: Path, split: str, content: bytes, cifar: Cifar
) -> tuple[np.ndarray, np.ndarray]:
    size, count = cifar.labels + _CIFAR_PIXEL_BYTES, cifar.records[split]
    if len(content) != count * size:
        raise DataError(
            f"{path}: {split} has {len(content)} bytes, legal: {count} records of {size}"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    labels = records[:, cifar.labels - 1]
    _require_labels(path, labels, len(cifar.class_names))
    planes = records[:, cifar.labels :].reshape(-1, *_CIFAR_PLANES)
    return planes.transpose(0, 2, 3, 1), labels
