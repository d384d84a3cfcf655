"""Optax optimizers and schedules as the papers mean them."""

import jax
import optax

from mnet_jax.config import AdamW, Constant, Cosine, RmsProp, Sgd, TrainingConfig


def learning_rate(config: TrainingConfig, steps_per_epoch: int) -> optax.Schedule:
    """The rate at each step, counted from 0: a linear warm-up to the peak, then the schedule."""
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


def decayed(params: optax.Params, *, depthwise: bool) -> optax.Params:
    """A tree of booleans: which parameters weight decay touches.

    Kernels do, scales and biases never. Depthwise kernels, the only ones with three axes
    [kh, kw, c], do if `depthwise`; they have so few parameters that the V1 paper, section 3.2,
    found it important to leave them alone.
    """
    return jax.tree.map(lambda p: p.ndim in ((2, 3, 4) if depthwise else (2, 4)), params)


def make(config: TrainingConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """The update rule of a run. Weight decay is L2 on the gradient, but decoupled in AdamW."""
    rate = learning_rate(config, steps_per_epoch)

    def mask(params: optax.Params) -> optax.Params:
        return decayed(params, depthwise=config.decay_depthwise)

    rule = config.optimizer
    if isinstance(rule, AdamW):
        return optax.adamw(
            rate,
            b1=rule.beta1,
            b2=rule.beta2,
            eps=rule.epsilon,
            weight_decay=config.weight_decay,
            mask=mask,
        )
    if isinstance(rule, Sgd):
        update = optax.sgd(rate, momentum=rule.momentum, nesterov=rule.nesterov)
    else:
        assert isinstance(rule, RmsProp)
        update = optax.rmsprop(
            rate,
            decay=rule.decay,
            eps=rule.epsilon,
            initial_scale=rule.initial_square,
            eps_in_sqrt=True,
            momentum=rule.momentum,
        )
    return optax.chain(optax.add_decayed_weights(config.weight_decay, mask), update)
