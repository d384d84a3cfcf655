"""Optax optimizers and schedules, configured as the papers define them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib

from mnet_jax.config import (
    AdamW,
    Constant,
    Cosine,
    Lamb,
    Muon,
    RmsProp,
    Sgd,
    TrainingConfig,
)
from mnet_jax.training.hyperparameters import Hyperparameters, Scalar, StaticRecipe


def learning_rate(config: TrainingConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns a function from the step, counted from 0, to the learning rate.

    The rate rises linearly to the peak during the warm-up, and then follows the config's schedule.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    rest = max(config.epochs * steps_per_epoch - warmup, 1)
    schedule, peak = config.schedule, config.learning_rate
    if isinstance(schedule, Constant):
        course = optax.constant_schedule(peak)
    elif isinstance(schedule, Cosine):
        course = optax.cosine_decay_schedule(peak, rest)
    else:
        every = max(round(schedule.every_epochs * steps_per_epoch), 1)
        course = optax.exponential_decay(peak, every, schedule.factor, staircase=True)
    if warmup == 0:
        return course
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), course], [warmup])


def hyperparams(
    config: TrainingConfig, steps_per_epoch: int, *, penalty: float = 0.0
) -> Callable[[int], list[Hyperparameters]]:
    """Returns a function from an epoch, counted from 1, to the hyperparameters of its steps.

    The rates of an epoch are computed here, all at once, so the compiled step contains no schedule.

    Args:
      config: the training settings.
      steps_per_epoch: optimizer steps in each epoch.
      penalty: the weight of the penalty (see `make_train_step`) at the end of the run. The weight
        rises from 0 to this value as half a cosine. 0 means no penalty.
    """
    rates = jax.jit(jax.vmap(learning_rate(config, steps_per_epoch)))
    others = Hyperparameters.of(config)

    def of_epoch(epoch: int) -> list[Hyperparameters]:
        steps = np.arange((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch, dtype=np.int32)
        of_steps = [others._replace(learning_rate=rate) for rate in np.asarray(rates(steps))]
        if not penalty:
            return of_steps
        done = steps / (config.epochs * steps_per_epoch)
        weights = (penalty * (1 - np.cos(np.pi * done)) / 2).astype(np.float32)
        pairs = zip(of_steps, weights, strict=True)
        return [of_step._replace(penalty_weight=weight) for of_step, weight in pairs]

    return of_epoch


def decay_mask(params: optax.Params, *, depthwise: bool) -> optax.Params:
    """Returns a tree of booleans: whether weight decay applies to each parameter.

    Weight decay applies to kernels, never to scales and biases. It applies to depthwise kernels
    (the only kernels with three axes, [kh, kw, c]) only if `depthwise` is true. The V1 paper
    (section 3.2) found it important to put little or no weight decay on depthwise kernels, which
    have so few parameters.
    """
    return jax.tree.map(lambda p: p.ndim in ((2, 3, 4) if depthwise else (2, 4)), params)


def scale_by_depth(
    parts: Sequence[str], *, frozen: int, depth_decay: Scalar
) -> optax.GradientTransformation:
    """Scales updates by depth for fine-tuning: zero for frozen parts, smaller near the input.

    Args:
      parts: the top-level names of the parameters, from input to output. Parameters with another
        name get no update.
      frozen: the number of leading parts that get no update.
      depth_decay: the ratio of each part's factor to the next part's factor; the last part has the
        factor 1 (arXiv 1801.06146, section 3.2).
    """
    factors = {
        part: 0.0 if i < frozen else depth_decay ** (len(parts) - 1 - i)
        for i, part in enumerate(parts)
    }

    def scale(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        return {
            part: optax.tree.scale(factors.get(part, 0.0), tree) for part, tree in updates.items()
        }

    return optax.stateless(scale)


def make(
    structure: StaticRecipe, parts: Sequence[str] = ()
) -> Callable[[Hyperparameters], optax.GradientTransformation]:
    """Returns a run's update rule as a function of its hyperparameters, which may be traced.

    The gradient is clipped first. Then weight decay is added to it as L2 regularization; in AdamW,
    LAMB and Muon weight decay is decoupled. Last, the update is scaled by depth.

    Args:
      structure: the training settings that are compiled.
      parts: as in `scale_by_depth`; needed if updates are scaled by depth.
    """

    def update_of(hyperparams: Hyperparameters) -> optax.GradientTransformation:
        rule = _rule(structure, hyperparams)
        if structure.clips:
            rule = optax.chain(optax.clip_by_global_norm(hyperparams.clip_norm), rule)
        if not structure.scales_by_depth:
            return rule
        depth = scale_by_depth(parts, frozen=structure.frozen, depth_decay=hyperparams.depth_decay)
        return optax.chain(rule, depth)

    return update_of


def is_orthogonalized(params: optax.Params) -> optax.Params:
    """Returns a tree of booleans: whether Muon orthogonalizes the update of each parameter.

    It does so for the matrices [in, out] between two hidden layers; see `config.Muon`.
    """

    def is_hidden_matrix(path: tuple[Any, ...], p: jax.Array) -> bool:
        return p.ndim == 2 and not any(getattr(key, "key", None) == "classifier" for key in path)

    return jax.tree_util.tree_map_with_path(is_hidden_matrix, params)


def orthogonalize(momentum: Scalar, update_rms: Scalar) -> optax.GradientTransformation:
    """Turns gradients [m, n] into Nesterov momentum whose singular values are all about 1, scaled.

    The factor `update_rms * sqrt(max(m, n))` gives the update about the same root mean square as
    AdamW's, whatever its shape (arXiv 2502.16982, equation 4). The singular values are those that
    five steps of Newton and Schulz's iteration reach, with Jordan's coefficients.
    """

    def matrices(updates: optax.Updates) -> optax.Updates:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

    def scaled(update: jax.Array) -> jax.Array:
        return update_rms * math.sqrt(max(update.shape)) * update

    return optax.chain(
        optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=matrices),
        optax.stateless(lambda updates, params: jax.tree.map(scaled, updates)),
    )


def _rule(structure: StaticRecipe, hyperparams: Hyperparameters) -> optax.GradientTransformation:
    rule, decay = hyperparams.rule, hyperparams.weight_decay

    def rate(count: jax.Array) -> Scalar:
        """A schedule that returns the step's learning rate and ignores its argument.

        It is a function, not a number, so that Optax keeps a count in the optimizer's state.
        """
        del count
        return hyperparams.learning_rate

    def mask(params: optax.Params) -> optax.Params:
        return decay_mask(params, depthwise=structure.decay_depthwise)

    l2 = optax.add_decayed_weights(decay, mask)
    if structure.optimizer is Sgd:
        return optax.chain(
            l2, optax.sgd(rate, momentum=rule["momentum"], nesterov=structure.nesterov)
        )
    if structure.optimizer is RmsProp:
        update = optax.rmsprop(
            rate,
            decay=rule["decay"],
            eps=rule["epsilon"],
            initial_scale=rule["initial_square"],
            eps_in_sqrt=True,
            momentum=rule["momentum"],
        )
        return optax.chain(l2, update)
    betas = rule["beta1"], rule["beta2"]
    if structure.optimizer is Lamb:
        return optax.lamb(rate, *betas, eps=rule["epsilon"], weight_decay=decay, mask=mask)
    adamw = optax.adamw(rate, *betas, eps=rule["epsilon"], weight_decay=decay, mask=mask)
    if structure.optimizer is AdamW:
        return adamw
    assert structure.optimizer is Muon
    of_matrices = optax.chain(
        orthogonalize(rule["momentum"], rule["update_rms"]),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    return optax.partition({True: of_matrices, False: adamw}, is_orthogonalized)
