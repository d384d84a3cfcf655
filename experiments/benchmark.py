"""Times a network with our lowerings against the obvious ones, in one run, in turn.

    python -m experiments.benchmark --resolution 224 --batch-size 16

The obvious lowerings are what a Flax user writes first: a grouped convolution for the depthwise
layers and a 1x1 convolution for the pointwise ones. Machines are noisy, so read the ratios.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.arguments import parse, refusals, single_values, with_axes
from experiments.planning import require_fit
from mnet_jax import architectures
from mnet_jax.ablation.axes import ARCHITECTURE_AXES, with_values
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.validation import require

COMMAND = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Times inference and training steps with our lowerings against the obvious ones."""

    resolution: int = 224
    """side of the images in pixels"""
    batch_size: int = 16
    """images per step"""
    input_stride: int = 4
    """product of the first two strides; 1 for images of 32 pixels and below"""
    repeats: int = 7
    """how often each is timed, in turn, after one run that is not"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One variant of one program: seconds of each repeat, and of compiling it."""

    seconds: list[float]
    compile_seconds: float


def main() -> None:
    """Reads the command line, times and prints."""
    arguments = parse(with_axes(Arguments, ARCHITECTURE_AXES), COMMAND)
    with refusals(COMMAND, arguments):
        require(arguments.repeats >= 1, "repeats", arguments.repeats, "1 or more")
        config = _config(arguments)
        require_fit(config)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(_heading(config), highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("program")
    table.add_column("lowerings")
    for column in ("median ms", "min", "max", "compile s", "obvious / ours"):
        table.add_column(column, justify="right")
    for program, variants in _programs(config).items():
        timings = _timed(variants, arguments.repeats)
        ratio = statistics.median(
            obvious / ours
            for ours, obvious in zip(
                timings["ours"].seconds, timings["obvious"].seconds, strict=True
            )
        )
        for name, timing in timings.items():
            milliseconds = [1000 * s for s in timing.seconds]
            table.add_row(
                program,
                name,
                *(f"{f(milliseconds):.1f}" for f in (statistics.median, min, max)),
                f"{timing.compile_seconds:.1f}",
                f"{ratio:.1f}" if name == "ours" else "",
            )
    console.print(table)


def _config(arguments: Any) -> RunConfig:
    spec = architectures.mobilenet_v2()
    values = single_values(arguments, ARCHITECTURE_AXES)
    config = with_values(RunConfig(spec=spec), values)
    spec = architectures.transforms.with_input_stride(config.spec, arguments.input_stride)
    data = DataConfig(resolution=arguments.resolution, batch_size=arguments.batch_size)
    return RunConfig(spec=spec, data=data, training=TrainingConfig())


def _heading(config: RunConfig) -> str:
    from mnet_jax.run import environment

    software = ", ".join(f"{name} {value}" for name, value in environment().items())
    spec, data = config.spec, config.data
    return (
        f"{spec.name}, width {spec.width:g}, {data.resolution} pixels, batch {data.batch_size}, "
        f"float32\n{software}\n"
    )


def _programs(config: RunConfig) -> dict[str, dict[str, Callable[[], Any]]]:
    """Each program in each variant, as a function that makes the compiled call."""
    programs: dict[str, Callable[..., Any]] = {
        "inference": _inference,
        "training step": _training_step,
    }
    return {
        program: {
            "ours": functools.partial(make, config, obvious=False),
            "obvious": functools.partial(make, config, obvious=True),
        }
        for program, make in programs.items()
    }


def _apply_of(config: RunConfig, *, obvious: bool) -> Callable[..., Any]:
    """The network's apply, with the obvious lowerings if wanted."""
    from flax import linen as nn
    from jax import lax

    from mnet_jax import models

    def as_convolution(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if not isinstance(context.module, models.PointwiseConv):
            return call(*args, **kwargs)
        kernel = context.module.variables["params"]["kernel"][None, None]
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(args[0], kernel, (1, 1), "VALID", dimension_numbers=layout)

    model = models.MobileNet(spec=config.spec, lowering="grouped" if obvious else "auto")
    if not obvious:
        return model.apply

    def apply(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(as_convolution):
            return model.apply(*args, **kwargs)

    return apply


def _first(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and a batch; their values do not matter for the time."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mnet_jax import models

    rng, size = np.random.default_rng(0), config.data.resolution
    model = models.MobileNet(spec=config.spec)
    image = jnp.zeros((1, size, size, 3))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    variables = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.0, 0.1, s.shape).astype(s.dtype)), shapes["params"]
    )
    statistics = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes["batch_stats"])
    batch = {
        "image": rng.uniform(-1, 1, (config.data.batch_size, size, size, 3)).astype(np.float32),
        "label": rng.integers(0, 1000, config.data.batch_size).astype(np.int32),
    }
    return {"params": variables, "batch_stats": statistics}, jax.device_put(batch)


def _inference(config: RunConfig, *, obvious: bool) -> Callable[[], Any]:
    import jax

    apply = _apply_of(config, obvious=obvious)
    variables, batch = _first(config)
    compiled = jax.jit(lambda v, x: apply(v, x, train=False)).lower(variables, batch["image"])
    call = compiled.compile()
    return lambda: jax.block_until_ready(call(variables, batch["image"]))


def _training_step(config: RunConfig, *, obvious: bool) -> Callable[[], Any]:
    import jax

    from mnet_jax.training import optimizer
    from mnet_jax.training.step import initial_state, make_train_step

    variables, batch = _first(config)
    update = optimizer.make(config.training, steps_per_epoch=100)
    step = make_train_step(
        _apply_of(config, obvious=obvious), update, label_smoothing=0.1, ema_decay=0.99
    )
    state = initial_state(variables, update, jax.random.key(0))
    call = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run() -> None:
        nonlocal state
        state, _ = call(state, batch)
        jax.block_until_ready(state)

    return run


def _timed(variants: dict[str, Callable[[], Callable[[], Any]]], repeats: int) -> dict[str, Timing]:
    """The variants in turn, so that what else the machine does meets them alike."""
    calls, compile_seconds = {}, {}
    for name, make in variants.items():
        start = time.perf_counter()
        calls[name] = make()
        compile_seconds[name] = time.perf_counter() - start
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(seconds=seconds[name], compile_seconds=compile_seconds[name]) for name in calls
    }


if __name__ == "__main__":
    main()
