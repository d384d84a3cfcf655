"""Divides this machine's CPU cores or accelerators among parallel trials."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from mnet_jax import process
from mnet_jax.validation import require

PROBE = "import jax; devices = jax.local_devices(); print(devices[0].platform, len(devices))"
PROBE_SECONDS = 120
THREADS = "PJRT_NPROC"  # the number of threads that XLA's CPU client uses for a computation
# The environment variable that limits which accelerators a JAX process sees.
VISIBLE = {"gpu": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1"}  # the topology of a process's chips, by their number


@dataclass(frozen=True, kw_only=True)
class Slots:
    """A division of a machine's resources into slots.

    A slot is a share of the CPU cores or accelerators. It runs one trial at a time.

    Attributes:
      environments: the environment variables for the process in each slot.
    """

    environments: tuple[Mapping[str, str], ...]


def slots(trials: int, cores: int | None, devices: int) -> Slots:
    """Divides this machine into slots, each of which runs one trial at a time.

    There are as many slots as the cores or accelerators allow, at most `trials`.

    Args:
      trials: the number of trials, one or more.
      cores: CPU cores of each trial, on a machine without accelerators; None divides all cores
        among the trials.
      devices: accelerators of each trial, on a machine with accelerators.

    Raises:
      ValueError: the machine has fewer cores or accelerators than one trial needs.
    """
    platform, count = _accelerators()
    if count:
        require(1 <= devices <= count, "devices_per_trial", devices, f"1 to {count}")
        legal = "none, as trials are given accelerators"
        require(cores is None, "cores_per_trial", cores, legal)
        places = min(count // devices, trials)
        return Slots(
            environments=tuple(
                {}
                if devices == count
                else _visible(platform, range(i * devices, (i + 1) * devices))
                for i in range(places)
            ),
        )
    have = process.usable_cores()
    require(devices == 1, "devices_per_trial", devices, "1, as there are no accelerators")
    require(cores is None or 1 <= cores <= have, "cores_per_trial", cores, f"1 to {have}")
    places = min(have // cores if cores else have, trials)
    each = cores or have // places
    return Slots(environments=({THREADS: str(each)},) * places)


def _accelerators() -> tuple[str, int]:
    """Returns the platform and the number of accelerators; ("cpu", 0) if JAX can use none.

    A process that lists the accelerators occupies them until it exits. So a subprocess lists them.
    """
    installed = importlib.util.find_spec("jax_plugins") or importlib.util.find_spec("libtpu")
    if not (installed or entry_points(group="jax_plugins")):
        return "cpu", 0
    try:
        found = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=True,
        )  # fmt: skip
        platform, count = found.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return "cpu", 0
    return (platform, int(count)) if platform != "cpu" else ("cpu", 0)


def _visible(platform: str, devices: range) -> dict[str, str]:
    """Returns the environment variables that make a process see these accelerators only."""
    name = VISIBLE.get(platform, VISIBLE["gpu"])
    named = os.environ.get(name, "")
    known = named.split(",") if named else [str(i) for i in range(devices.stop)]
    settings = {name: ",".join(known[i] for i in devices)}
    if platform == "tpu" and len(devices) in TPU_BOUNDS:
        settings |= {
            "TPU_CHIPS_PER_HOST_BOUNDS": TPU_BOUNDS[len(devices)],
            "TPU_HOST_BOUNDS": "1,1,1",
        }
    return settings
