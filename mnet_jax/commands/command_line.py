"""The commands as programs: `mnet <name>`, and `python -m experiments.<name>` in a clone.

This module imports nothing slow, so signals are handled from a program's first line on. The module
of the command, whose import takes a while, is imported later.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from mnet_jax.commands import entry
from mnet_jax.commands.messages import REFUSED, say
from mnet_jax.training.stopping import INTERRUPTED, TERMINATED, Stop

USAGE = "usage: mnet COMMAND [FLAGS]; mnet COMMAND --help lists the flags"


def run(name: str) -> None:
    """Runs a command with the arguments in `sys.argv`, and exits the process."""
    command = COMMANDS[name]
    with entry.command(name, resumable=command.resumable, terminated=command.terminated) as stop:
        command.call(stop)


def main() -> None:
    """Runs the command whose name is the first word after `mnet`.

    The other words are the command's arguments. Without a command, or with --help, prints the list
    of commands.
    """
    _, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
        sys.stdout.write("\n".join([USAGE, "", *lines, ""]))
        return
    name, *arguments = words
    if name not in COMMANDS:
        say(f"mnet: got {name!r}, legal: {', '.join(COMMANDS)}")
        sys.exit(REFUSED)
    sys.argv = [f"mnet {name}", *arguments]  # `messages.program` expects this form
    run(name)


def _ablate(stop: Stop) -> None:
    from mnet_jax.commands import ablate

    ablate.main(stop)


def _activations(stop: Stop) -> None:
    from mnet_jax.commands import activations

    activations.main()


def _benchmark(stop: Stop) -> None:
    from mnet_jax.commands import benchmark

    benchmark.main(stop)


def _bottlenecks(stop: Stop) -> None:
    from mnet_jax.commands import bottlenecks

    bottlenecks.main()


def _convert(stop: Stop) -> None:
    from mnet_jax.commands import convert

    convert.main()


def _cost(stop: Stop) -> None:
    from mnet_jax.commands import cost

    cost.main(stop)


def _evaluate(stop: Stop) -> None:
    from mnet_jax.commands import evaluate

    evaluate.main()


def _export(stop: Stop) -> None:
    from mnet_jax.commands import export

    export.main()


def _features(stop: Stop) -> None:
    from mnet_jax.commands import features

    features.main()


def _manifold(stop: Stop) -> None:
    from mnet_jax.commands import manifold

    manifold.main()


def _quantize(stop: Stop) -> None:
    from mnet_jax.commands import quantize

    quantize.main()


def _train(stop: Stop) -> None:
    from mnet_jax.commands import train

    train.main_alone(stop)


@dataclass(frozen=True, kw_only=True)
class Command:
    """How a command of `mnet` is described, called and ended.

    Attributes:
      summary: what the command does, in a few words.
      call: imports and runs the command. Its argument is the `Stop` that receives the signals. If
        the command does not use this argument, a signal ends the process immediately.
      resumable: whether entering the command again continues its work after an interruption.
      terminated: the exit code after SIGTERM.
    """

    summary: str
    call: Callable[[Stop], None]
    resumable: bool = False
    terminated: int = TERMINATED


COMMANDS = {
    "ablate": Command(
        summary="trains all combinations of the given values with several seeds, and compares them",
        call=_ablate,
        resumable=True,
        terminated=INTERRUPTED,
    ),
    "train": Command(summary="trains one network", call=_train, resumable=True),
    "evaluate": Command(
        summary="classifies images with a trained model, or measures its accuracy", call=_evaluate
    ),
    "convert": Command(
        summary="converts another library's weights to a saved model", call=_convert
    ),
    "cost": Command(
        summary="prints the parameters, multiply-adds and bytes of networks layer by layer",
        call=_cost,
    ),
    "benchmark": Command(
        summary="compares the speed of this library with that of others", call=_benchmark
    ),
    "manifold": Command(
        summary="measures how much of a spiral survives a non-linearity (V2, Fig. 1)",
        call=_manifold,
    ),
    "bottlenecks": Command(
        summary="measures how much of each bottleneck of trained networks survives a non-linearity",
        call=_bottlenecks,
    ),
    "activations": Command(
        summary="counts dead units and dead depthwise kernels of trained networks",
        call=_activations,
    ),
    "quantize": Command(
        summary="quantizes trained networks by one method after the other, and finds bad layers",
        call=_quantize,
    ),
    "export": Command(
        summary="writes a trained network for other programs, and runs each file", call=_export
    ),
    "features": Command(
        summary="draws depthwise kernels and feature maps of a trained network", call=_features
    ),
}
