"""Contenders on JAX: this library, straightforward Flax, and Keras on the JAX backend.

Each contender takes a case, and returns a function that runs the case once and waits for the
result. A case is a whole network, a single convolution (alone, or as a layer of a network), or the
input pipeline.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax import lax

from mnet_jax import architectures, data, models, ops
from mnet_jax.architectures.shapes import Heads
from mnet_jax.benchmark.cases import DepthwiseCase, InputCase, LayerCase, NetworkCase, Run
from mnet_jax.benchmark.contenders import LEARNING_RATE, MOMENTUM, SEEDS
from mnet_jax.config import Sgd, TrainingConfig
from mnet_jax.models.attention import attend
from mnet_jax.training import metrics, optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.step import TrackedState, TrainState, initial_state, make_train_step

_TRAINING = TrainingConfig(
    optimizer=Sgd(momentum=MOMENTUM),
    learning_rate=LEARNING_RATE,
    weight_decay=0.0,
    label_smoothing=0.0,
    ema_decay=0.0,
)


def ours(case: NetworkCase | LayerCase | DepthwiseCase | InputCase) -> Run:
    """Runs this library as its commands do, with native kernels where they can be compiled.

    For inference, batch normalization is folded.
    """
    lowering = ops.best_lowering()
    if isinstance(case, InputCase):
        return _input(case)
    if isinstance(case, DepthwiseCase):
        return _depthwise(case, lowering)
    if isinstance(case, LayerCase):
        return _layer(case, lowering, ops.pointwise)
    model = models.MobileNet(spec=case.spec, lowering=lowering)
    if case.program == "inference":
        infer, params = models.fuse(model, random_variables(case.spec))
        return _compiled(infer, params, batch_of(case)["image"])
    return _network(case, model.apply)


def seeds_together(case: NetworkCase) -> Run:
    """Trains networks of several seeds, each on its own batch, in one step."""
    model = models.MobileNet(spec=case.spec, lowering=ops.best_lowering())
    return training(case, model.apply, seeds=SEEDS)


def xla_convolutions(case: NetworkCase | LayerCase | DepthwiseCase) -> Run:
    """Computes all layers with XLA's convolutions, as `flax.linen.Conv` does.

    Depthwise layers are grouped convolutions, pointwise layers 1x1 convolutions.
    """
    if isinstance(case, DepthwiseCase):
        return _depthwise(case, "grouped")
    if isinstance(case, LayerCase):
        return _layer(case, "grouped", _pointwise_as_convolution)

    def as_convolution(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        pointwise = isinstance(context.module, models.PointwiseConv)
        if not (pointwise and context.method_name == "convolve"):
            return call(*args, **kwargs)
        kernel = context.module.variables["params"]["kernel"]
        return _pointwise_as_convolution(args[0], kernel, **kwargs)

    model = models.MobileNet(spec=case.spec, lowering="grouped")

    def apply(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(as_convolution):
            return model.apply(*args, **kwargs)

    return _network(case, apply)


def keras(case: NetworkCase) -> Run:
    """Runs the network of `keras.applications` on the JAX backend, jitted as a pure function."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    from mnet_jax.weights.keras import APPLICATIONS

    options: dict[str, Any] = {"include_preprocessing": False} if "_v3" in case.spec.name else {}
    application = getattr(keras.applications, APPLICATIONS[case.spec.name])(
        weights=None,
        classifier_activation=None,
        input_shape=(case.resolution, case.resolution, 3),
        **options,
    )
    trainable = [v.value for v in application.trainable_variables]
    others = [v.value for v in application.non_trainable_variables]
    batch = batch_of(case)

    if case.program == "inference":

        @jax.jit
        def infer(trainable: Any, others: Any, images: jax.Array) -> jax.Array:
            return application.stateless_call(trainable, others, images, training=False)[0]

        return lambda: jax.block_until_ready(infer(trainable, others, batch["image"]))

    update = optax.sgd(LEARNING_RATE, MOMENTUM)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any, batch: Any) -> Any:
        trainable, others, moments = state

        def loss_of(trainable: Any) -> Any:
            logits, new = application.stateless_call(
                trainable, others, batch["image"], training=True
            )
            return jnp.mean(metrics.cross_entropy(logits, batch["label"])), new

        (_, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        changes, moments = update.update(gradients, moments, trainable)
        return optax.apply_updates(trainable, changes), others, moments

    return _stepping(step, (trainable, others, update.init(trainable)), batch)


def grouped(case: DepthwiseCase) -> Run:
    """Runs the lowering `grouped`, XLA's grouped convolution."""
    return _depthwise(case, "grouped")


def shifted(case: DepthwiseCase) -> Run:
    """Runs the lowering `shifted`, a sum over the taps of the kernel."""
    return _depthwise(case, "shifted")


def native(case: DepthwiseCase) -> Run:
    """Runs the native kernels; compiles them first if necessary."""
    if jax.default_backend() != "cpu":
        raise ops.NativeError("lowering: native is for CPUs")
    return _depthwise(case, "native")


def _network(case: NetworkCase, apply: Callable[..., Any]) -> Run:
    if case.program == "training":
        return training(case, apply)
    variables, images = random_variables(case.spec), batch_of(case)["image"]
    return _compiled(lambda v, x: apply(v, x, train=False), variables, images)


def training(
    case: NetworkCase,
    apply: Callable[..., Any],
    *,
    seeds: int | None = None,
    variables: Mapping[str, Any] | None = None,
    track: Callable[[Any, Any], Any] | None = None,
    tracked: Any = None,
) -> Run:
    """Returns a training step of one network, or of `seeds` networks under `vmap`.

    Args:
      case: the network, the resolution and the batch size.
      apply: the `apply` of the network's module.
      seeds: the number of networks; None for one network without `vmap`.
      variables: the first variables; by default those of `random_variables`.
      track: see `make_train_step`.
      tracked: the first value of `TrackedState.tracked`, if there is a `track`.
    """
    update = optimizer.make(StaticRecipe.of(_TRAINING))
    hyperparams = Hyperparameters.of(_TRAINING)

    @partial(jax.jit, donate_argnums=0)  # avoids copies
    def state_of(variables: Any, key: jax.Array) -> TrainState:
        return initial_state(variables, update(hyperparams), key)

    step = make_train_step(apply, update, track=track)
    state = state_of(variables or random_variables(case.spec), jax.random.key(0))
    if track:
        state = TrackedState(**vars(state), tracked=tracked)
    batch = batch_of(case)
    if seeds:
        step = jax.vmap(step, in_axes=(0, 0, None))
        state, batch = jax.tree.map(lambda x: jnp.stack([x] * seeds), (state, batch))
    call = jax.jit(step, donate_argnums=0).lower(state, batch, hyperparams).compile()
    return _stepping(lambda state, batch: call(state, batch, hyperparams)[0], state, batch)


def _stepping(step: Callable[[Any, Any], Any], state: Any, batch: Any) -> Run:
    def run() -> Any:
        nonlocal state
        state = jax.block_until_ready(step(state, batch))
        return state

    return run


def batch_of(case: NetworkCase) -> dict[str, jax.Array]:
    """Returns a batch of random images and labels."""
    rng = np.random.default_rng(0)
    shape = (case.batch_size, case.resolution, case.resolution, 3)
    image = rng.uniform(-1, 1, shape).astype(np.float32)
    label = rng.integers(0, case.spec.head.num_classes, case.batch_size).astype(np.int32)
    return {"image": jnp.asarray(image), "label": jnp.asarray(label)}


def random_variables(spec: architectures.NetworkSpec) -> dict[str, Any]:
    """Returns random finite variables; their values do not affect the time."""
    rng = np.random.default_rng(0)
    flat = {
        name: np.ones(shape, np.float32)
        if name.endswith(("var", "scale"))
        else rng.normal(0.0, 0.05, shape).astype(np.float32)
        for name, shape in architectures.variable_shapes(spec).items()
    }
    return jax.device_put(traverse_util.unflatten_dict(flat, sep="/"))


def _depthwise(case: DepthwiseCase, lowering: ops.Lowering) -> Run:
    """Runs a depthwise convolution alone, or its gradients."""
    strides = (case.stride, case.stride)
    x, kernel = _normal(*case.shape), _normal(case.kernel, case.kernel, case.shape[3])

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.depthwise_conv(x, kernel, strides, "SAME", lowering)

    g = jnp.ones(jax.eval_shape(forward, x, kernel).shape, jnp.float32)
    programs: dict[str, Callable[..., Any]] = {
        "forward": lambda x, kernel, g: forward(x, kernel),
        "input gradient": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g)[0],
        "kernel gradient": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g)[1],
        "both gradients": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g),
    }
    return _compiled(programs[case.derivative], x, kernel, g)


def _layer(case: LayerCase, lowering: ops.Lowering, pointwise: Callable[..., Any]) -> Run:
    """Runs a layer as `models` does; `pointwise` is `ops.pointwise` or a replacement for it."""
    if case.heads:
        return _attention(case, case.heads)
    channels = case.shape[3]
    convolve = _convolution(case, pointwise)

    def forward(norm: jax.Array | None, x: jax.Array, kernel: jax.Array) -> tuple:
        pending = ops.Pending(x=x, norm=norm, activation=case.activation or "linear")
        return tuple(convolve(pending, kernel, lowering=lowering, statistics=True))

    norm = jnp.zeros((3, channels)).at[1].set(1)  # mean, scale, bias
    x, kernel = _normal(*case.shape), _normal(*case.kernel_shape)
    given: tuple[Any, ...] = (norm, x) if case.activation else (None, x)
    if case.direction == "forward":
        return _compiled(forward, *given, kernel)
    # Not inside a jit, so that the forward pass's residuals are arguments of the backward pass.
    if case.activation:
        results, pull = jax.vjp(forward, *given, kernel)
    else:
        results, pull = jax.vjp(partial(forward, *given), kernel)
    return _compiled(lambda pull, g: pull(g), pull, jax.tree.map(jnp.ones_like, results))


def _attention(case: LayerCase, heads: Heads) -> Run:
    """Runs the products of attention as `models` does, or their gradients."""
    context = (case.shape[0], *heads.key_size, case.shape[3] * heads.keys // heads.queries)
    inputs = _normal(*case.shape), _normal(*context), _normal(*context)
    forward = partial(attend, heads=heads.queries, key_heads=heads.keys)
    if case.direction == "forward":
        return _compiled(forward, *inputs)
    y, pull = jax.vjp(forward, *inputs)
    return _compiled(lambda pull, g: pull(g), pull, jnp.ones_like(y))


def _convolution(case: LayerCase, pointwise: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the layer's convolution, a function of an `ops.Pending` feature map and a kernel."""
    if case.kind == "pointwise":
        return pointwise
    return partial(ops.depthwise if case.kind == "depthwise" else ops.full, strides=case.stride)


def _pointwise_as_convolution(
    x: ops.Pending, kernel: jax.Array, *, statistics: bool, lowering: ops.Lowering = "grouped"
) -> ops.Convolved:
    """Applies a 1x1 convolution as Flax does: with XLA's convolution, not as a matrix product."""
    y = lax.conv_general_dilated(
        x.value(), kernel[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return ops.with_statistics(y) if statistics else ops.Convolved(y)


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _compiled(program: Callable[..., Any], *arguments: Any) -> Run:
    call = jax.jit(program).lower(*arguments).compile()
    return lambda: jax.block_until_ready(call(*arguments))


def _input(case: InputCase) -> Run:
    if case.one_core:
        if not hasattr(os, "sched_setaffinity"):
            raise OSError("this system cannot hold a process to one core")
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # later threads inherit this
    batches = iter(data.train_batches(data.load(case.data).train, case.data, seed=0))

    def run() -> None:
        for _ in range(case.batches):
            next(batches)

    return run
