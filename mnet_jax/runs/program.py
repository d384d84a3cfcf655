"""The compiled functions of a run, shared by runs that differ only in seed and hyperparameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mnet_jax import models, ops
from mnet_jax.architectures import NetworkSpec
from mnet_jax.models.types import Quantization
from mnet_jax.quantization import qat
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.memory import MemoryCheckedStep
from mnet_jax.training.placement import BATCH_AXIS, Placement, placement
from mnet_jax.training.step import (
    EvalStep,
    TrackedState,
    TrainState,
    TrainStep,
    initial_state,
    make_eval_step,
    make_train_step,
)


@dataclass(frozen=True, kw_only=True)
class Program:
    """The compiled functions with which a run trains and evaluates.

    Attributes:
      model: the network.
      initial_state: maps the seed and the first step's hyperparameters to the state before the
        first step; `Placement.put_state` copies it to the devices.
      train_step: (state, batch, hyperparams) -> (state, metrics), on the devices.
      eval_step: (variables, batch) -> sums, on the devices.
      placement: how the devices share the work.
    """

    model: models.MobileNet
    initial_state: Callable[[int, Hyperparameters], TrainState]
    train_step: TrainStep
    eval_step: EvalStep
    placement: Placement


@lru_cache(maxsize=8)  # in a sweep, trials with the same program may alternate with others
def program_of(
    spec: NetworkSpec,
    structure: StaticRecipe,
    batch_size: int,
    resolution: int,
    quantization: Quantization | None = None,
    *,
    dampens: bool = False,
    teacher: models.MobileNet | None = None,
) -> Program:
    """Returns a run's program, compiled once in a process for all seeds and hyperparameters.

    Args:
      spec: the network.
      structure: the training settings that are compiled.
      batch_size: images per step, over all devices.
      resolution: side of the evaluated images, in pixels.
      quantization: how kernels and activations are rounded; None for a network in floating point.
      dampens: whether the oscillation of quantized kernels is dampened; see `quantization.qat`.
      teacher: the teacher's network; None without distillation.

    Raises:
      ValueError: the devices cannot share the batch evenly.
    """
    accumulate, norm_groups = structure.accumulate, structure.norm_groups
    place = placement(
        structure.parallel, batch_size, accumulate=accumulate, norm_groups=norm_groups
    )
    axis_name = BATCH_AXIS if structure.parallel == "pmap" else None
    model = models.MobileNet(
        spec=spec,
        dtype=jnp.dtype(structure.precision),
        lowering=ops.best_lowering() if structure.lowering == "auto" else structure.lowering,
        axis_name=axis_name if norm_groups == 1 else None,
        frozen=structure.frozen,
        remat=structure.remat,
        drop_path=structure.drop_path,
        quantization=quantization,
    )
    parts = ["stem", *(f"block_{i}" for i in range(len(spec.blocks))), "head"]
    update = optimizer.make(structure, parts)
    if teacher:
        teacher = teacher.clone(dtype=model.dtype, lowering=model.lowering)
    train_step = make_train_step(
        model.apply,
        update,
        axis_name=axis_name,
        skips=structure.skips,
        accumulate=accumulate,
        norm_groups=norm_groups,
        ema_warmup=structure.ema_warmup,
        teacher=partial(_logits_of, teacher) if teacher else None,
        penalty=partial(qat.dampening, model) if dampens else None,
        track=partial(qat.update_oscillation, model) if quantization else None,
    )
    eval_step = make_eval_step(model.apply, axis_name=axis_name, accumulate=accumulate)
    return Program(
        model=model,
        initial_state=_initializer(model, update, resolution, averages=structure.averages),
        train_step=MemoryCheckedStep(
            place.compile_train(train_step),
            place.resized,
            batch_size,
            multiple=accumulate * math.lcm(place.devices, norm_groups),
        ),
        eval_step=place.compile_eval(eval_step),
        placement=place,
    )


def _logits_of(teacher: models.MobileNet, variables: Any, images: jax.Array) -> jax.Array:
    logits = teacher.apply(variables, images, train=False)
    assert isinstance(logits, jax.Array)
    return logits


def run_keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a seed's key into one for the initial weights and one for dropout and mixing."""
    init_key, dropout_key = jax.random.split(key)
    return init_key, dropout_key


def _initializer(
    model: models.MobileNet,
    update: Callable[[Hyperparameters], optax.GradientTransformation],
    resolution: int,
    *,
    averages: bool,
) -> Callable[[int, Hyperparameters], TrainState]:
    """Returns a compiled function from the seed and hyperparameters to the first state.

    The function runs once for each trial and draws dozens of random arrays. XLA takes longer to
    optimize the function than to run it. Without optimization the state is ready in a third of the
    time.
    """

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def state_of(key: jax.Array, hyperparams: Hyperparameters) -> TrainState:
        image = jnp.zeros((1, resolution, resolution, 3))
        init_key, dropout_key = run_keys(key)
        variables = model.init(init_key, image, train=False)
        state = initial_state(variables, update(hyperparams), dropout_key)
        if model.quantization:
            state = TrackedState(**vars(state), tracked=qat.oscillation(model, variables))
        return state.averaging() if averages else state

    return lambda seed, hyperparams: state_of(jax.random.key(seed), hyperparams)
