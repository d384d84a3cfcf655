"""Whether JAX finds the platform that JAX_PLATFORMS names: `python -m experiments.platforms`.

Asking starts the platform, which takes an accelerator's memory, so commands that do not compute
themselves ask in a process of its own.
"""

import os
import subprocess
import sys

from mnet_jax.process import SHARED_DEVICE

VARIABLE = "JAX_PLATFORMS"
ALWAYS_THERE = "cpu"


def refusal() -> str | None:
    """What is wrong with JAX_PLATFORMS, in one line; None if it is not set or JAX starts."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    import jax

    try:
        jax.devices()
    except Exception:  # an AssertionError without a word, where a plugin is not installed
        jax.config.update("jax_platforms", None)
        there = {ALWAYS_THERE, *(device.platform for device in jax.devices())}
        return f"{VARIABLE}: got {given!r}, legal: {', '.join(sorted(there))}"
    return None


def require_platform() -> None:
    """Raises ValueError if JAX_PLATFORMS names what is not there; asks in another process."""
    if os.environ.get(VARIABLE) in (None, "", ALWAYS_THERE):
        return
    command = [sys.executable, "-m", "experiments.platforms"]
    done = subprocess.run(
        command, env=os.environ | SHARED_DEVICE, capture_output=True, text=True, check=False
    )
    if done.stdout:
        raise ValueError(done.stdout.strip())


if __name__ == "__main__":
    sys.stdout.write(refusal() or "")
