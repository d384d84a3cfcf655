"""Members of a gzipped tar file, without trusting what it says of them."""

import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from mnet_jax.data.errors import DataError, reason


def members(
    path: Path, wanted: Callable[[str], bool], most_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the regular files in the archive that are `wanted`.

    Nothing is written, so a member's name leads nowhere; links and devices are passed over.

    Args:
      path: the archive.
      wanted: by a member's name.
      most_bytes: what one may have; a larger one is refused before it is read.

    Raises:
      DataError: the archive cannot be read, or a member is too large.
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
                assert content is not None  # as it is a regular file
                yield member.name, content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as tar.gz: {reason(error)}") from error
