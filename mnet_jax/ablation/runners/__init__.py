"""Where trials run: side by side, each in a process of its own.

`run` is common to all of them. A runner has the workers: `LocalRunner` on this machine,
`RayRunner` on a cluster. A trial that crashes takes nothing with it.
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
