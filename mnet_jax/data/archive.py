"""Reads members of a gzipped tar archive that is not trusted."""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mnet_jax.data.errors import DataError, reason


def members(
    path: Path, wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each wanted regular file in a gzipped tar archive.

    Nothing is written to disk, so the names of members can do no harm. Links and devices are
    skipped.

    Args:
      path: the archive.
      wanted: whether to read the member of a name.
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
