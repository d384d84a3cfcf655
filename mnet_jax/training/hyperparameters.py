"""The training settings of a config: those compiled into a training step, and the step's arguments.

Runs that differ only in the arguments share one executable.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from mnet_jax.config import Optimizer, Sgd, TrainingConfig
from mnet_jax.models.types import Remat
from mnet_jax.ops.types import Lowering
from mnet_jax.training.types import Parallelism, Precision

Scalar: TypeAlias = jax.Array | np.float32 | float


@dataclass(frozen=True, kw_only=True)
class StaticRecipe:
    """The training settings that are compiled into the training step.

    Attributes:
      optimizer: the kind of update rule.
      nesterov: whether the update rule uses Nesterov momentum.
      clips: whether gradients are clipped by their global norm.
      scales_by_depth: whether `optimizer.scale_by_depth` scales the updates.
      averages: whether moving averages of the variables are kept, and evaluated in their place.
      ema_warmup: whether averages forget faster in early steps, as in `TrainingConfig`; False
        without averages.
      mixing: how batches are mixed: `mixup`, `cutmix`, both or neither.
      skips: whether updates of diverged steps are skipped.
      decay_depthwise, frozen, precision, parallel, lowering, accumulate, norm_groups, remat,
        drop_path: as in `TrainingConfig`.
    """

    optimizer: type[Optimizer]
    nesterov: bool
    clips: bool
    scales_by_depth: bool
    averages: bool
    ema_warmup: bool
    mixing: tuple[str, ...]
    skips: bool
    decay_depthwise: bool
    frozen: int
    precision: Precision
    parallel: Parallelism
    lowering: Lowering
    accumulate: int
    norm_groups: int
    remat: Remat
    drop_path: float

    @classmethod
    def of(cls, config: TrainingConfig) -> "StaticRecipe":
        """Returns the settings of a config that are compiled."""
        rule = config.optimizer
        return cls(
            optimizer=type(rule),
            nesterov=isinstance(rule, Sgd) and rule.nesterov,
            clips=config.clip_norm > 0,
            scales_by_depth=config.frozen > 0 or config.depth_decay != 1.0,
            averages=config.ema_decay > 0,
            ema_warmup=config.ema_warmup and config.ema_decay > 0,
            mixing=tuple(_alphas(config)),
            skips=config.on_divergence == "skip",
            decay_depthwise=config.decay_depthwise,
            frozen=config.frozen,
            precision=config.precision,
            parallel=config.parallel,
            lowering=config.lowering,
            accumulate=config.accumulate,
            norm_groups=config.norm_groups,
            remat=config.remat,
            drop_path=config.drop_path,
        )


class Teacher(NamedTuple):
    """The arguments of a step with knowledge distillation; see `config.Distillation`.

    Attributes:
      variables: variables of the teacher, on the devices.
      weight: weight of the teacher in the loss.
      temperature: number by which logits are divided.
    """

    variables: Any
    weight: Scalar
    temperature: Scalar


class Hyperparameters(NamedTuple):
    """The training settings that a compiled step takes as arguments.

    All are float32 scalars, except the teacher's variables.

    Attributes:
      learning_rate: the learning rate of one step.
      weight_decay, clip_norm, label_smoothing, ema_decay, depth_decay: as in `TrainingConfig`.
      mixing: the alphas of the methods in `StaticRecipe.mixing`, by name.
      rule: the numbers in `TrainingConfig.optimizer`, by field name.
      loss_limit: if `StaticRecipe.skips`, the update of a step with a higher loss is skipped; None
        for no limit.
      penalty_weight: the weight of the penalty that is added to the loss; None without a penalty.
      teacher: the teacher's variables and their part in the loss; None without a teacher.
    """

    learning_rate: Scalar
    weight_decay: Scalar
    clip_norm: Scalar
    label_smoothing: Scalar
    ema_decay: Scalar
    depth_decay: Scalar
    mixing: Mapping[str, Scalar]
    rule: Mapping[str, Scalar]
    loss_limit: Scalar | None = None
    penalty_weight: Scalar | None = None
    teacher: Teacher | None = None

    @classmethod
    def of(cls, config: TrainingConfig) -> "Hyperparameters":
        """Returns the hyperparameters of a config, with the peak learning rate.

        `optimizer.hyperparams` returns the hyperparameters of each step.
        """
        rule = dataclasses.asdict(config.optimizer)
        return cls(
            learning_rate=np.float32(config.learning_rate),
            weight_decay=np.float32(config.weight_decay),
            clip_norm=np.float32(config.clip_norm),
            label_smoothing=np.float32(config.label_smoothing),
            ema_decay=np.float32(config.ema_decay),
            depth_decay=np.float32(config.depth_decay),
            mixing=_alphas(config),
            rule={k: np.float32(v) for k, v in rule.items() if not isinstance(v, bool)},
        )


def _alphas(config: TrainingConfig) -> dict[str, np.float32]:
    """Returns the alphas of the mixing methods in use, by name."""
    alphas = {"mixup": config.mixup, "cutmix": config.cutmix}
    return {name: np.float32(alpha) for name, alpha in alphas.items() if alpha > 0}
