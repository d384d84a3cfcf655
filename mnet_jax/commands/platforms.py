"""Checks that JAX finds the platform in JAX_PLATFORMS: `python -m experiments.platforms`.

The check initializes the platform, which reserves an accelerator's memory. So commands that do not
compute in their own process run the check in a subprocess.
"""

import os
import subprocess
import sys

from mnet_jax.process import SHARED_DEVICE

VARIABLE = "JAX_PLATFORMS"
ALWAYS_THERE = "cpu"


def refusal() -> str | None:
    """Returns one line that says what is wrong with JAX_PLATFORMS; None if nothing is wrong."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    import jax

    try:
        jax.devices()
    except Exception:  # also an AssertionError without a message, if a plugin is not installed
        jax.config.update("jax_platforms", None)
        there = {ALWAYS_THERE, *(device.platform for device in jax.devices())}
        return f"{VARIABLE}: got {given!r}, legal: {', '.join(sorted(there))}"
    return None


def require_platform() -> None:
    """Raises ValueError if, in a subprocess, JAX does not find the platform in JAX_PLATFORMS."""
    if os.environ.get(VARIABLE) in (None, "", ALWAYS_THERE):
        return
    command = [sys.executable, "-m", "mnet_jax.commands.platforms"]
    done = subprocess.run(
        command, env=os.environ | SHARED_DEVICE, capture_output=True, text=True, check=False
    )
    if done.stdout:
        raise ValueError(done.stdout.strip())


if __name__ == "__main__":
    sys.stdout.write(refusal() or "")
