"""Runs trials in parallel, each in its own process, so that a crash affects one trial only.

`run` schedules the trials on a runner, which starts and ends the worker processes: `LocalRunner` on
this machine, `RayRunner` on a Ray cluster.

- `schedule`: the protocol `Runner`, the schedule, and the detection of hanging trials;
- `work`: one trial in its process, and how it can end;
- `local`: worker processes on this machine;
- `machine`: divides this machine's cores or accelerators among parallel trials;
- `on_ray`: worker processes on a Ray cluster.
"""

from mnet_jax.ablation.runners.local import LocalRunner
from mnet_jax.ablation.runners.machine import Slots, slots
from mnet_jax.ablation.runners.on_ray import RayRunner
from mnet_jax.ablation.runners.schedule import Message, Runner, TrialStalled, run
from mnet_jax.ablation.runners.work import Outcome, RunnerError, TrialFunction, TrialLost, train

__all__ = [
    "LocalRunner",
    "Message",
    "Outcome",
    "RayRunner",
    "Runner",
    "RunnerError",
    "Slots",
    "TrialFunction",
    "TrialLost",
    "TrialStalled",
    "run",
    "slots",
    "train",
]
