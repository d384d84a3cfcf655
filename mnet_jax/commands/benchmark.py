"""Compares the speed of this library with that of others; the libraries take turns in one run.

    python -m experiments.benchmark training --resolution 224 --batch-size 16
    python -m experiments.benchmark layers --model mobilenet_v2 --contender "XLA convolutions"
    python -m experiments.benchmark depthwise --write-table
    python -m experiments.benchmark depthwise inference training input compile

Timings on one machine vary, so compare the ratios and their ranges rather than single times.
"""

import dataclasses
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.text import Text

from mnet_jax import architectures, process, serialization
from mnet_jax.benchmark import machine, report
from mnet_jax.benchmark.cases import Case, CompileCase, InputCase, NetworkCase
from mnet_jax.benchmark.contenders import CONTENDERS, LOWERINGS, OURS, QUANTIZED, Contender
from mnet_jax.benchmark.photographs import HEIGHT, WIDTH, write_photographs
from mnet_jax.benchmark.suites import (
    FAMILY,
    Suite,
    depthwise_cases,
    layer_cases,
    network,
    network_cases,
    table_cases,
)
from mnet_jax.benchmark.timing import BenchmarkResult, compare
from mnet_jax.commands import terminal
from mnet_jax.commands.arguments import parse, refusals, refuse
from mnet_jax.commands.messages import invocation
from mnet_jax.commands.planning import require_directory
from mnet_jax.files import replace_file
from mnet_jax.options import recipes
from mnet_jax.training.stopping import Stop
from mnet_jax.validation import one_line, require

COMMAND = "benchmark"
SIZES = {  # the default (resolution, batch size) of each suite
    "depthwise": ((224, 16),),
    "layers": ((224, 16),),
    "inference": ((224, 1), (224, 16)),
    "training": ((224, 16), (32, 128)),
    "compile": ((224, 16),),
}
PHOTOGRAPHS = 300  # the number of photographs in the input suite
PHOTOGRAPH_BATCHES = 8  # more than the number of prefetched batches
TABLE_SIZES = ((224, 16), (224, 1))


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compares the speed of this library with that of others.

    The suites time depthwise convolutions, all layers of a network, inference, training steps, the
    input of images, and compilation. Names of suites may also be the first words,
    without --suite.
    """

    suite: tuple[Suite, ...] = ()
    """what to time; at least one suite"""
    model: tuple[Literal[*architectures.FACTORIES], ...] = FAMILY  # type: ignore[valid-type]
    """the networks"""
    contender: tuple[str, ...] = ()
    """implementations to time besides ours, by name; if not given, all that are installed, but not
    those of quantization-aware training"""
    resolution: int | None = None
    """side of the images in pixels; if not given, each suite has its own"""
    batch_size: int | None = None
    """images per batch; if not given, each suite has its own"""
    dataset: str = "digits"
    """the data set that the input suite times besides photographs"""
    rounds: int = 7
    """number of times that each contender is timed; the contenders take turns"""
    tune_allocator: bool = True
    """start every process with glibc's allocator set for speed, as the training commands do"""
    write_table: bool = False
    """only for depthwise: time each lowering, and write the table from which `auto` chooses"""
    results: Path = Path("results/benchmark")
    """directory for the tables (Markdown and JSON) and the pictures"""


def main(stop: Stop | None = None) -> None:
    """Reads the command line, runs the benchmarks and prints the results.

    Args:
      stop: receives the signals that interrupt the benchmarks.
    """
    arguments = parse(Arguments, COMMAND, leading="suite")
    console = terminal.console(150)
    stop = stop or Stop()
    with stop.raised(), tempfile.TemporaryDirectory() as photographs:
        try:
            _time(arguments, Path(photographs), console)
        except KeyboardInterrupt:
            whole = f"interrupted; completed suites are in {arguments.results}"
            refuse(COMMAND, whole, 128 + stop.number)


def _time(arguments: Arguments, photographs: Path, console: Console) -> None:
    with refusals(COMMAND, arguments):
        _require_legal(arguments)
        plan = {suite: _cases(suite, arguments, photographs) for suite in arguments.suite}
        contenders = _contenders(arguments)
    for contender in CONTENDERS:
        if contender.missing and not arguments.write_table:
            names = ", ".join(contender.missing)
            console.print(f"without {contender.name}: {names} is not installed")
    results = []
    for suite, cases in plan.items():
        if suite == "input":
            write_photographs(photographs, PHOTOGRAPHS)
        results.append(_run(suite, cases, contenders, arguments, console))
        _write(results, arguments.results)
        if arguments.write_table:
            _write_table(results[-1], cases, arguments.results, console)
    console.print(f"results in {arguments.results}")


def _require_legal(arguments: Arguments) -> None:
    require(bool(arguments.suite), "suite", "", ", ".join(get_args(Suite)))
    require(arguments.rounds >= 1, "rounds", arguments.rounds, "1 or more")
    for name in ("resolution", "batch_size"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, name, value, "1 or more")
    if arguments.write_table:
        others = [suite for suite in arguments.suite if suite != "depthwise"]
        require(not others, "suite", " ".join(others), "depthwise alone with --write-table")
        names = " ".join(arguments.contender)
        require(not names, "contender", names, "none with --write-table, which times our lowerings")
    require_directory("results", arguments.results)


def _contenders(arguments: Arguments) -> list[Contender]:
    if arguments.write_table:
        return [*LOWERINGS]
    every = (*CONTENDERS, *QUANTIZED)
    names = [contender.name for contender in every]
    for name in arguments.contender:
        require(name in names, "contender", name, ", ".join(names))
    chosen = (OURS, *(arguments.contender or (contender.name for contender in CONTENDERS)))
    return [contender for contender in every if contender.name in chosen and not contender.missing]


def _cases(suite: Suite, arguments: Arguments, photographs: Path) -> list[Case]:
    """Returns the cases that a suite times.

    Raises:
      ValueError: the images do not fit a network.
    """
    given = (arguments.resolution, arguments.batch_size)
    if suite == "input":
        return _input_cases(arguments.dataset, photographs)
    sizes = dict.fromkeys(
        (given[0] or resolution, given[1] or batch_size)
        for resolution, batch_size in (TABLE_SIZES if arguments.write_table else SIZES[suite])
    )
    if suite == "layers":
        return [
            case
            for side, batch_size in sizes
            for case in layer_cases([network(n, side) for n in arguments.model], side, batch_size)
        ]
    if suite == "depthwise":
        make = table_cases if arguments.write_table else depthwise_cases
        return [case for size in sizes for case in make(arguments.model, *size)]
    if suite == "compile":
        networks = network_cases("training", arguments.model, sizes)
        return [
            CompileCase(network=network, cached=cached)
            for network in networks
            if isinstance(network, NetworkCase)
            for cached in (False, True)
        ]
    return network_cases(suite, arguments.model, sizes)


def _input_cases(dataset: str, photographs: Path) -> list[Case]:
    """Returns cases for the input pipeline, and for the training step that consumes the images.

    There is one pair of cases for the data set, and one pair for a folder of photographs.
    """
    config = recipes.baseline(dataset).config(10)
    data = dataclasses.replace(config.data, name=dataset)
    step = NetworkCase(
        program="training",
        spec=config.spec,
        resolution=data.resolution,
        batch_size=data.batch_size,
    )
    imagenet = recipes.baseline("imagenet2012").data
    decoding = InputCase(
        data=dataclasses.replace(imagenet, name="folder", directory=str(photographs)),
        batches=PHOTOGRAPH_BATCHES,
        one_core=True,
        title=f"JPEGs of {WIDTH}x{HEIGHT} at",
    )
    large = network_cases("training", ["mobilenet_v2"], [SIZES["training"][0]])
    return [InputCase(data=data), step, decoding, *large]


def _run(
    suite: Suite,
    cases: list[Case],
    contenders: list[Contender],
    arguments: Arguments,
    console: Console,
) -> BenchmarkResult:
    """Times a suite and prints its table."""
    environment = process.timing_settings(tune_allocator=arguments.tune_allocator)
    before = machine.measure(environment)
    with console.status(suite) as status:
        comparisons = compare(
            cases,
            contenders,
            arguments.rounds,
            environment,
            lambda line: status.update(Text(line)),
        )
    result = BenchmarkResult(
        suite=suite,
        machine=machine.better(before, machine.measure(environment)),
        environment=_environment(contenders, environment),
        comparisons=tuple(comparisons),
    )
    for table in report.to_tables(result):
        console.print(table)
    for line in report.captions(result):
        console.print(line, style="dim")
    return result


def _environment(contenders: list[Contender], changes: Mapping[str, str]) -> dict[str, str]:
    """Returns the versions of Python and of the packages, the processor, and the settings."""
    from importlib.metadata import version

    packages = {"jax": None, "flax": None} | dict.fromkeys(
        p for c in contenders for p in c.packages
    )
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "processor": f"{os.cpu_count()} x {platform.machine()}",
        **changes,
    }


def _write(results: list[BenchmarkResult], directory: Path) -> None:
    from mnet_jax.plots import benchmark  # here: Matplotlib takes a second

    replace_file(directory / "benchmark.md", report.to_markdown(results).encode())
    for result in results:
        plain = serialization.to_plain(result)
        text = json.dumps(plain, indent=1, allow_nan=False) + "\n"
        replace_file(directory / f"{result.suite}.json", text.encode())
        if any(comparison.madds for comparison in result.comparisons):
            replace_file(directory / f"{result.suite}.png", benchmark.to_png(result))


def _write_table(
    result: BenchmarkResult, cases: list[Case], results: Path, console: Console
) -> None:
    """Writes this device's table of lowerings where `auto` reads it, and a copy to `results`."""
    from mnet_jax.benchmark.table import table_from  # here: it imports JAX
    from mnet_jax.ops import choice

    command = shlex.join([*invocation(COMMAND), *sys.argv[1:]])
    device = choice.present_device()
    table = table_from(result, cases, command, device)
    text = json.dumps(serialization.to_plain(table), indent=1, allow_nan=False) + "\n"
    replace_file(choice.path_in(results, device[1]), text.encode())
    try:
        path = choice.path_in(choice.users_directory(), device[1])
        replace_file(path, text.encode())
    except OSError as error:
        line = f"auto does not follow the table: {one_line(error)}"
    else:
        line = f"auto follows {path} on this device"
    console.print(line, soft_wrap=True)
