"""The directory of the programs that JAX compiles for the tests."""

import os
import shutil
import tempfile
import time
import zlib

KEPT_BYTES = 2**30


def kept_programs(config):
    """The compiled programs of earlier runs, a directory that `pytest --cache-clear` removes.

    None where pytest keeps nothing: with `-p no:cacheprovider`, or in a read-only checkout.
    """
    try:
        directory = config.cache.mkdir("xla")
        remove_unusable_programs(directory)
    except (AttributeError, OSError):
        return None
    return directory


def programs_of_this_run(config):
    directory = tempfile.mkdtemp(prefix="mnet_jax-compiled-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    return directory


def remove_unusable_programs(directory):
    """Removes compiled programs that are not whole, or all if they take too much room.

    A process that is killed can leave half a program, of which JAX would warn in every later run.
    """
    checked = directory / "checked"  # was touched when all older programs were whole
    since, now = checked.stat().st_mtime if checked.exists() else 0, time.time()
    programs = {path: path.stat() for path in directory.glob("*-cache")}
    too_large = sum(status.st_size for status in programs.values()) > KEPT_BYTES
    for path, status in programs.items():
        if too_large or (status.st_mtime >= since and not is_whole(path)):
            path.unlink(missing_ok=True)
    checked.touch()
    os.utime(checked, (now, now))


def is_whole(path):
    """Whether a file that JAX compressed has its end.

    JAX compresses by zlib, or by zstandard where that package is installed. The programs of
    zstandard are not kept.
    """
    try:
        zlib.decompress(path.read_bytes())
    except zlib.error:
        return False
    return True
