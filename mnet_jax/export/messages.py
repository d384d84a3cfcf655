"""What native libraries print to standard error, past Python's `sys.stderr`."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

STANDARD_ERROR = 2


@contextlib.contextmanager
def kept_messages() -> Iterator[None]:
    """Keeps what is written to standard error, and shows it only if an exception is raised.

    LiteRT and its converter print to it which of their components they use.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = os.dup(STANDARD_ERROR)
        try:
            os.dup2(kept.fileno(), STANDARD_ERROR)
            yield
        except BaseException:
            kept.seek(0)
            os.write(before, kept.read())
            raise
        finally:
            os.dup2(before, STANDARD_ERROR)
            os.close(before)
