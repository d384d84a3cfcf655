"""One step of training and one of evaluation, as pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mnet_jax.training import metrics
from mnet_jax.training.hyperparameters import Hyperparameters, Scalar
from mnet_jax.training.microbatches import Tree, in_groups, mean_over, micro_batch
from mnet_jax.training.mixing import mix

SMALL = 2**14  # the most elements of an array that `all_finite` concatenates with others

Array: TypeAlias = jax.Array
Batch: TypeAlias = Mapping[str, Any]


class TrainState(flax.struct.PyTreeNode):
    """The state of training: everything that a step changes.

    Attributes:
      step: optimizer steps taken, int32.
      params: trainable parameters.
      batch_stats: running means and variances.
      opt_state: state of the Optax optimizer.
      average: exponential moving averages of `params` and `batch_stats`; None without averaging.
      dropout_key: the base key; each step folds the step number into this key.
    """

    step: Array
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    average: Tree | None
    dropout_key: Array

    @property
    def values(self) -> Tree:
        """The current variables, not averaged."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated(self) -> Tree:
        """The variables to evaluate and keep: the averages if there are any, else `values`."""
        return self.values if self.average is None else self.average

    def averaging(self) -> "TrainState":
        """Returns a state whose averages start at the current values.

        The averages are copies, because a step that donates the state's buffers must not get a
        buffer twice.
        """
        return self.replace(average=jax.tree.map(jnp.copy, self.values))


class TrackedState(TrainState):
    """A training state with statistics over earlier steps, such as how often weights oscillated.

    Attributes:
      tracked: see `make_train_step`'s argument `track`; a pytree of arrays.
    """

    tracked: Any


TrainStep: TypeAlias = Callable[
    [TrainState, Batch, Hyperparameters], tuple[TrainState, dict[str, Array]]
]
EvalStep: TypeAlias = Callable[[Tree, Batch], metrics.Sums]


def initial_state(
    variables: Mapping[str, Tree], optimizer: optax.GradientTransformation, dropout_key: Array
) -> TrainState:
    """Returns the state before the first step, without averages.

    Args:
      variables: the collections `params` and `batch_stats` of an initialized model.
      optimizer: the update rule.
      dropout_key: a key used for nothing else.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        average=None,
        dropout_key=dropout_key,
    )


def _warmed_up(decay: Scalar, step: Array) -> Array:
    """Returns the decay rate of averages in step `step`, as TensorFlow's `num_updates` makes it."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _averaged(average: Tree, values: Tree, kept: Scalar) -> Tree:
    """Returns the moving average after a step, of which `kept` is the share of the last one."""
    # In this form an average that equals its value stays exactly the same.
    return jax.tree.map(lambda a, v: v + kept * (a - v), average, values)


def _taught(
    losses: Array,
    logits: Array,
    images: Array,
    teacher: Callable[[Tree, Array], Array],
    hyperparams: Hyperparameters,
) -> Array:
    """Returns the losses [b] after the teacher has taken its part in them."""
    assert hyperparams.teacher is not None
    variables, weight, temperature = hyperparams.teacher
    own = metrics.distillation(logits, teacher(variables, images), temperature)
    return (1 - weight) * losses + weight * own


def all_finite(tree: Tree) -> Array:
    """Returns whether all floating-point numbers of a tree are finite.

    Small arrays are concatenated first, because each array adds a function for XLA to compile.
    """
    hyperparams = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))
    leaves = [number.ravel() for number in hyperparams]
    small = [leaf for leaf in leaves if leaf.size <= SMALL]
    large = [leaf for leaf in leaves if leaf.size > SMALL]
    return jnp.isfinite(optax.tree.norm([*large, jnp.concatenate(small)] if small else large))


def _either(first: Array, this: TrainState, that: TrainState) -> TrainState:
    """Returns `this` if `first` is true, else `that`."""
    return jax.tree.map(functools.partial(jnp.where, first), this, that)


def make_train_step(
    apply: Callable[..., Any],
    optimizer: Callable[[Hyperparameters], optax.GradientTransformation],
    *,
    axis_name: str | None = None,
    skips: bool = False,
    accumulate: int = 1,
    norm_groups: int = 1,
    ema_warmup: bool = True,
    teacher: Callable[[Tree, Array], Array] | None = None,
    penalty: Callable[[Tree], Array] | None = None,
    track: Callable[[Any, Tree], Any] | None = None,
) -> TrainStep:
    """Returns the training step, a pure function (state, batch, hyperparams) -> (state, metrics).

    Args:
      apply: a Linen module's `apply`.
      optimizer: maps hyperparameters to the update rule.
      axis_name: the pmap axis over which gradients and metrics are averaged, if any.
      skips: whether to skip the update of a step whose loss or gradients are not finite, or whose
        loss is above `Hyperparameters.loss_limit`. A skipped step changes only the step number.
      accumulate: micro-batches over which gradients are averaged, as in
        `TrainingConfig.accumulate`; each micro-batch also updates the running statistics.
      norm_groups: normalization groups of each micro-batch, over all devices of the axis; see
        `TrainingConfig.norm_groups`. With more than one, statistics are not pooled over devices, so
        the model must not have an `axis_name`.
      ema_warmup: whether averages forget faster in early steps, as in `TrainingConfig.ema_warmup`.
      teacher: maps `Teacher.variables` and images to logits, in inference; None without
        distillation. The metric `loss` includes the teacher's part.
      penalty: maps the variables to a number that is added to the loss, multiplied by
        `Hyperparameters.penalty_weight`; the metric `loss` is without it.
      track: maps `TrackedState.tracked` and the variables after the step to the new `tracked`.
        The states must then be `TrackedState`s.

    The batch is `image` [b, h, w, 3] and `label` [b]. The metrics are `loss` and `accuracy`, means
    over the batch, and `finite`, whether the loss and all gradients are finite. In a mixed batch,
    accuracy counts only each image's own label.
    """

    def train_step(
        state: TrainState, batch: Batch, hyperparams: Hyperparameters
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.dropout_key, state.step)
        if axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        groups = norm_groups // jax.lax.axis_size(axis_name) if axis_name else norm_groups
        apply_groups = in_groups(apply, max(groups, 1))

        def gradients_of(
            batch_stats: Tree, batch: Batch, key: Array
        ) -> tuple[Tree, tuple[Tree, Array, Array]]:
            def loss_of(params: Tree) -> tuple[Array, tuple[Array, Array, Tree]]:
                mixed = mix(batch, key, hyperparams.mixing)
                logits, updates = apply_groups(
                    {"params": params, "batch_stats": batch_stats},
                    mixed.images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": key},
                )
                losses = mixed.losses(logits, hyperparams.label_smoothing)
                if teacher is not None:
                    losses = _taught(losses, logits, mixed.images, teacher, hyperparams)
                loss = total = jnp.mean(losses)
                if penalty is not None:
                    assert hyperparams.penalty_weight is not None
                    variables = {"params": params, "batch_stats": batch_stats}
                    total += hyperparams.penalty_weight * penalty(variables)
                return total, (loss, logits, updates["batch_stats"])

            (_, (loss, logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                state.params
            )
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
            return batch_stats, (gradients, loss, accuracy)

        batch_stats, (gradients, loss, accuracy) = mean_over(
            gradients_of, state.batch_stats, batch, key, accumulate
        )
        if axis_name:
            gradients, loss, accuracy = jax.lax.pmean((gradients, loss, accuracy), axis_name)
            if norm_groups > 1:
                batch_stats = jax.lax.pmean(batch_stats, axis_name)
        update = optimizer(hyperparams).update
        changes, opt_state = update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        step = state.step + 1
        new = state.replace(step=step, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if state.average is not None:
            decay = hyperparams.ema_decay
            kept = _warmed_up(decay, step) if ema_warmup else decay
            new = new.replace(average=_averaged(state.average, new.values, kept))
        if track is not None:
            assert isinstance(state, TrackedState)
            new = new.replace(tracked=track(state.tracked, new.values))
        finite = jnp.isfinite(loss) & all_finite(gradients)
        if skips:
            limit = jnp.inf if hyperparams.loss_limit is None else hyperparams.loss_limit
            new = _either(finite & (loss <= limit), new, state.replace(step=step))
        return new, {"loss": loss, "accuracy": accuracy, "finite": finite}

    return train_step


def make_eval_step(
    apply: Callable[..., Any], *, axis_name: str | None = None, accumulate: int = 1
) -> EvalStep:
    """Returns the evaluation step, a pure function (variables, batch) -> sums.

    The batch is `image` [b, h, w, 3], `label` [b] and `mask` [b]. The sums are those of
    `metrics.masked_sums`.

    Args:
      apply: a Linen module's `apply`.
      axis_name: the pmap axis over which the sums are pooled, if any.
      accumulate: number of micro-batches, so that a batch that fits in training also fits here.
    """

    def sums_of(variables: Tree, batch: Batch) -> metrics.Sums:
        logits = apply(variables, batch["image"], train=False)
        return metrics.masked_sums(logits, batch["label"], batch["mask"])

    def eval_step(variables: Tree, batch: Batch) -> metrics.Sums:
        if accumulate == 1:
            sums = sums_of(variables, batch)
        else:
            parts = jax.lax.map(
                lambda i: sums_of(variables, micro_batch(batch, i, accumulate)),
                jnp.arange(accumulate),
            )
            sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)
        return jax.lax.psum(sums, axis_name) if axis_name else sums

    return eval_step
