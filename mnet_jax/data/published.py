"""Finds and verifies the files that the authors of a data set publish.

Nothing is downloaded. Sizes and digests are the ones with which TFDS verifies its own downloads
(`tensorflow_datasets/url_checksums` and `datasets/imagenette/checksums.tsv`).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnet_jax.data.errors import DataError, reason

_MANUAL = Path("downloads", "manual")  # TFDS's folder for files that it cannot download


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of a data set, as published.

    Attributes:
      url: where it is published; the last part is its name.
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


def places(root: Path, directory: str | None) -> tuple[Path, ...]:
    """Returns the folders to search for published files, in `directory` or TFDS's data folder."""
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


def absent(
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
