"""Runs trials in parallel, each in its own process, so that a crash affects one trial only.

`run` schedules the trials on a runner, which owns the worker processes: `LocalRunner` on this
machine, `RayRunner` on a Ray cluster.
"""

from mnet_jax.ablation.runners.local import LocalRunner
from mnet_jax.ablation.runners.machine import Slots, slots
from mnet_jax.ablation.runners.on_ray import RayRunner
from mnet_jax.ablation.runners.running import Message, Runner, run
from mnet_jax.ablation.runners.silence import Stalled
from mnet_jax.ablation.runners.work import Lost, Outcome, RunnerError, TrialFunction, train

__all__ = [
    "LocalRunner",
    "Lost",
    "Message",
    "Outcome",
    "RayRunner",
    "Runner",
    "RunnerError",
    "Slots",
    "Stalled",
    "TrialFunction",
    "run",
    "slots",
    "train",
]
