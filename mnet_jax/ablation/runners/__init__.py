"""Where trials run: side by side, each in a process of its own.

`run` is what all ways have in common. A crew has the workers: `LocalCrew` on this machine,
`RayCrew` on a cluster. A trial that crashes takes nothing with it.
"""

from mnet_jax.ablation.runners.local import LocalCrew
from mnet_jax.ablation.runners.machine import Slots, slots
from mnet_jax.ablation.runners.on_ray import RayCrew
from mnet_jax.ablation.runners.running import Crew, Message, run
from mnet_jax.ablation.runners.silence import Silent
from mnet_jax.ablation.runners.work import CrewError, Lost, Outcome, TrialFunction, train

__all__ = [
    "Crew",
    "CrewError",
    "LocalCrew",
    "Lost",
    "Message",
    "Outcome",
    "RayCrew",
    "Silent",
    "Slots",
    "TrialFunction",
    "run",
    "slots",
    "train",
]
