"""The kernels in C++: against NumPy in float64, and inside of whole networks."""

import platform
import shutil
import subprocess
from functools import partial
from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from depthwise_taps import needs_compiler
from small_networks import SMALL, images_of, mixed, model_and_variables, quick_jit, small_v2

from mnet_jax import models, ops
from mnet_jax.ops.native import compilation

pytestmark = [needs_compiler, pytest.mark.usefixtures("quickly_compiled")]
ACTIVATIONS = ("linear", "relu", "relu6", "hard_swish")


def act(u, activation):
    """As the papers define them."""
    return {
        "linear": u,
        "relu": np.maximum(u, 0),
        "relu6": np.minimum(np.maximum(u, 0), 6),
        "hard_swish": u * np.minimum(np.maximum(u + 3, 0), 6) / 6,
    }[activation]


def slope(u, activation):
    """Their derivatives."""
    return {
        "linear": np.ones_like(u),
        "relu": u > 0,
        "relu6": (u > 0) & (u < 6),
        "hard_swish": np.where(u <= -3, 0, np.where(u >= 3, 1, u / 3 + 0.5)),
    }[activation]


def extents(shape, sizes, stride, pads):
    """Rows and columns of what comes out."""
    return [
        (n + sum(pad) - size) // stride + 1 for n, size, pad in zip(shape, sizes, pads, strict=True)
    ]


def taps(shape, sizes, stride, pads):
    """For each tap of a window, which positions of the padded input it meets."""
    rows, columns = extents(shape, sizes, stride, pads)
    for i, j in product(*map(range, sizes)):
        yield (
            np.s_[:, i : i + stride * (rows - 1) + 1 : stride,
                  j : j + stride * (columns - 1) + 1 : stride],
            (i, j),
        )  # fmt: skip


def oracle(x, norm, kernel, activation, cotangents, window=None):
    """y, mean, var and the gradients of x, norm and kernel, in float64.

    `window` is (stride, ((top, bottom), (left, right))) of a depthwise or full convolution.
    """
    x, norm, kernel = (np.asarray(v, np.float64) for v in (x, norm, kernel))
    grad_y, grad_mean, grad_var = (np.asarray(v, np.float64) for v in cotangents)
    mean, scale, bias = norm
    u = (x - mean) * scale + bias
    z = act(u, activation)
    if window is None:
        y = z @ kernel
    else:
        stride, pads = window
        padded = np.pad(z, ((0, 0), *pads, (0, 0)))
        where = list(taps(x.shape[1:3], kernel.shape[:2], stride, pads))
        mixes = kernel.ndim == 4
        y = sum(
            padded[at] @ kernel[tap] if mixes else padded[at] * kernel[tap] for at, tap in where
        )
    axes = tuple(range(y.ndim - 1))
    count = y.size / y.shape[-1]
    g = grad_y + grad_mean / count + 2 * grad_var * (y - y.mean(axes)) / count
    if window is None:
        dz, dkernel = g @ kernel.T, np.tensordot(z, g, (axes, axes))
    else:
        dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
        for at, tap in where:
            dpadded[at] += g @ kernel[tap].T if mixes else g * kernel[tap]
            dkernel[tap] = (
                np.tensordot(padded[at], g, (axes, axes)) if mixes else (padded[at] * g).sum(axes)
            )
        (top, _), (left, _) = pads
        dz = dpadded[:, top : top + x.shape[1], left : left + x.shape[2]]
    du = dz * slope(u, activation)
    dnorm = np.stack([-(du * scale).sum(axes), (du * (x - mean)).sum(axes), du.sum(axes)])
    return y, y.mean(axes), y.var(axes), du * scale, dnorm, dkernel


def draw(shape, kernel, outputs):
    """x, norm, kernel and the three cotangents."""
    rng = np.random.default_rng(0)
    sizes = shape, (3, shape[-1]), kernel, outputs, outputs[-1:], outputs[-1:]
    return [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]


def check(x, norm, kernel, activation, cotangents, window=None):
    def layer(x, norm, kernel):
        pending = ops.Pending(x=x, norm=norm, activation=activation)
        options = {"lowering": "native", "statistics": True}
        if window is None:
            return tuple(ops.pointwise(pending, kernel, **options))
        stride, pads = window
        convolve = ops.full if kernel.ndim == 4 else ops.depthwise
        return tuple(convolve(pending, kernel, strides=stride, padding=pads, **options))

    @quick_jit
    def both(*arguments):
        outputs, pull = jax.vjp(layer, *arguments)
        return *outputs, *pull(tuple(cotangents))

    names = ("y", "mean", "var", "dx", "dnorm", "dkernel")
    wanted = oracle(x, norm, kernel, activation, cotangents, window)
    for name, got, want in zip(names, both(x, norm, kernel), wanted, strict=True):
        scale = max(np.abs(want).max(), 1e-3)
        np.testing.assert_allclose(got / scale, want / scale, atol=1e-5, rtol=0, err_msg=name)


def each_with_two_activations(*cases):
    """(activation, *case): for each case two activations in turn, the others if exhaustive."""
    return [
        pytest.param(
            activation, *case, marks=() if (j - i) % 4 in (0, 1) else pytest.mark.exhaustive
        )
        for i, case in enumerate(cases)
        for j, activation in enumerate(ACTIVATIONS)
    ]


@pytest.mark.parametrize(
    "activation, rows, inputs, outputs",
    # Whole tiles and vectors, and sizes that leave a rest of each kind.
    each_with_two_activations(
        (256, 32, 16), (333, 24, 96), (50, 27, 40), (5, 3, 1), (700, 160, 320), (9, 50, 80)
    ),
)
def test_pointwise_layers_and_their_gradients_equal_numpy(activation, rows, inputs, outputs):
    x, norm, kernel, *cotangents = draw((rows, inputs), (inputs, outputs), (rows, outputs))
    check(x, norm, kernel, activation, cotangents)


@pytest.mark.parametrize(
    "activation, shape, size, stride, pads",
    each_with_two_activations(
        ((2, 9, 11, 24), 3, 1, ((1, 1), (1, 1))),
        ((3, 12, 12, 32), 3, 2, ((0, 1), (0, 1))),
        ((2, 13, 7, 40), 5, 2, ((2, 2), (2, 2))),
        ((2, 8, 8, 7), 5, 1, ((0, 0), (0, 0))),
        ((5, 2, 3, 16), 5, 1, ((2, 2), (2, 2))),
        ((1, 7, 1, 16), 3, 2, ((1, 1), (1, 1))),
        ((2, 6, 5, 3), 3, 4, ((0, 0), (0, 0))),  # strides that leave rows out
        ((1, 2, 3, 17), 3, 1, ((5, 4), (7, 1))),  # whole windows of zeros
    ),
)
def test_depthwise_layers_and_their_gradients_equal_numpy(activation, shape, size, stride, pads):
    outputs = (shape[0], *extents(shape[1:3], (size, size), stride, pads), shape[3])
    x, norm, kernel, *cotangents = draw(shape, (size, size, shape[3]), outputs)
    check(x, norm, kernel, activation, cotangents, (stride, pads))


@pytest.mark.parametrize(
    "activation, shape, kernel, stride, pads",
    each_with_two_activations(
        ((2, 9, 11, 24), (3, 3, 24, 32), 1, ((1, 1), (1, 1))),
        ((3, 12, 12, 32), (3, 3, 32, 40), 2, ((0, 1), (0, 1))),
        ((2, 18, 16, 3), (3, 3, 3, 32), 2, ((1, 1), (1, 1))),  # a stem
        ((1, 13, 7, 40), (5, 3, 40, 7), 2, ((2, 2), (1, 1))),
        ((2, 3, 2, 16), (5, 5, 16, 3), 1, ((2, 2), (2, 2))),
        ((2, 9, 9, 1), (2, 2, 1, 17), 3, ((0, 0), (0, 0))),  # strides that leave rows out
        ((2, 6, 6, 16), (1, 1, 16, 20), 2, ((0, 0), (0, 0))),
        ((1, 2, 3, 5), (3, 3, 5, 4), 1, ((5, 4), (7, 1))),  # whole windows of zeros
    ),
)
def test_full_layers_and_their_gradients_equal_numpy(activation, shape, kernel, stride, pads):
    outputs = (shape[0], *extents(shape[1:3], kernel[:2], stride, pads), kernel[3])
    x, norm, weights, *cotangents = draw(shape, kernel, outputs)
    check(x, norm, weights, activation, cotangents, (stride, pads))


def test_statistics_of_many_positions_are_exact_to_the_last_digits():
    x = np.random.default_rng(0).normal(3, 1, (100_000, 16)).astype(np.float32)
    pending = ops.Pending(x=jnp.asarray(x))
    got = ops.pointwise(pending, jnp.eye(16), lowering="native", statistics=True)
    np.testing.assert_allclose(got.mean, x.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(got.var, x.astype(np.float64).var(0), rtol=1e-5)


def test_what_is_not_finite_stays_so():
    x = jnp.ones((1, 5, 5, 20)).at[0, 2, 2, 3].set(jnp.nan).at[0, 2, 2, 4].set(jnp.inf)
    y = ops.depthwise_conv(x, jnp.ones((3, 3, 20)), lowering="native")
    window = np.zeros((5, 5), bool)
    window[1:4, 1:4] = True
    assert (np.isnan(y[0, :, :, 3]) == window).all()
    assert (np.isposinf(y[0, :, :, 4]) == window).all()
    assert np.isfinite(np.delete(y, (3, 4), axis=3)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_hides_nothing_that_is_not_finite(activation):
    x = jnp.ones((9, 20)).at[3, 5].set(jnp.nan)
    norm = jnp.zeros((3, 20)).at[1].set(1)
    pending = ops.Pending(x=x, norm=norm, activation=activation)
    y = ops.pointwise(pending, jnp.ones((20, 4)), lowering="native").y
    finish = ops.Finish(bias=jnp.zeros(4), activation=activation)
    z = ops.pointwise(ops.Pending(x=x), jnp.ones((20, 4)), lowering="native", finish=finish).y
    for found in (y, z):
        assert (np.isnan(found) == (np.arange(9) == 3)[:, None]).all()


def from_panels(x, kernel, **options):
    """A pointwise convolution whose kernel is given by its panels."""
    return ops.pointwise(x, ops.pack(kernel), **options)


@pytest.mark.parametrize(
    "activation, convolve, shape, kernel, window",
    each_with_two_activations(
        *(
            (convolve, shape, kernel, None)
            for convolve in (ops.pointwise, from_panels)
            for shape, kernel in [
                ((13, 40), (40, 24)),
                ((2, 7, 7, 27), (27, 70)),
                ((3, 17, 11, 32), (32, 160)),  # more rows than are few
                ((1, 1, 1, 5), (5, 1)),
            ]
        ),
        (ops.depthwise, (2, 9, 7, 40), (3, 3, 40), (1, ((1, 1), (1, 1)))),
        (ops.depthwise, (2, 9, 7, 7), (5, 5, 7), (1, ((2, 2), (2, 2)))),
        (ops.depthwise, (2, 8, 14, 32), (3, 3, 32), (2, ((0, 1), (0, 1)))),
        (ops.depthwise, (1, 11, 23, 16), (5, 5, 16), (2, ((2, 2), (2, 2)))),
        (ops.depthwise, (1, 7, 13, 16), (3, 3, 16), (3, ((1, 1), (1, 1)))),
        (ops.depthwise, (1, 2, 3, 16), (5, 5, 16), (1, ((5, 4), (7, 4)))),  # windows of zeros
        (ops.full, (2, 9, 7, 5), (3, 3, 5, 24), (1, ((1, 1), (1, 1)))),
    ),
)
def test_a_bias_and_an_activation_on_the_way_out_equal_numpy(
    activation, convolve, shape, kernel, window
):
    outputs = (*shape[:-1], kernel[-1])
    options = {}
    if window:
        stride, pads = window
        outputs = (shape[0], *extents(shape[1:3], kernel[:2], stride, pads), kernel[-1])
        options = {"strides": stride, "padding": pads}
    x, _, weights, cotangent, _, bias = draw(shape, kernel, outputs)

    @quick_jit
    def both(*arguments):
        def layer(x, weights, bias):
            finish = ops.Finish(bias=bias, activation=activation)
            pending = ops.Pending(x=x)
            return convolve(pending, weights, lowering="native", finish=finish, **options).y

        y, pull = jax.vjp(layer, *arguments)
        return y, *pull(cotangent)

    identity = np.zeros((3, shape[-1]))
    identity[1] = 1
    nothing = np.zeros(outputs[-1])
    u = oracle(x, identity, weights, "linear", (cotangent, nothing, nothing), window)[0] + bias
    g = cotangent * slope(u, activation)
    *_, dx, _, dkernel = oracle(x, identity, weights, "linear", (g, nothing, nothing), window)
    wanted = (act(u, activation), dx, dkernel, g.sum(tuple(range(g.ndim - 1))))
    for got, want in zip(both(x, weights, bias), wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)


def test_second_derivatives_are_those_of_the_composition():
    x, norm, kernel, *_ = draw((2, 5, 5, 8), (3, 3, 8), (2, 5, 5, 8))

    def energy(lowering, x, norm, kernel):
        pending = ops.Pending(x=x, norm=norm, activation="hard_swish")
        y, mean, var = ops.depthwise(pending, kernel, lowering=lowering, statistics=True)
        return (y**3).sum() + (mean**2).sum() + (var**2).sum()

    def curvature(lowering):
        first = jax.grad(partial(energy, lowering), argnums=(0, 1, 2))
        return quick_jit(jax.grad(lambda *a: sum((g**2).sum() for g in first(*a)), (0, 1, 2)))

    got, want = (curvature(lowering)(x, norm, kernel) for lowering in ("native", "shifted"))
    for one, other in zip(got, want, strict=True):
        scale = jnp.abs(other).max()
        chex.assert_trees_all_close(one / scale, other / scale, atol=1e-5)


def test_the_gradient_of_images_is_computed_where_it_is_wanted_only():
    x, _, kernel, *_ = draw((2, 8, 8, 3), (3, 3, 3, 16), (2, 4, 4, 16))

    def energy(x, kernel):
        y, mean, var = ops.full(
            ops.Pending(x=x), kernel, strides=2, lowering="native", statistics=True
        )
        return (y**3).sum() + (mean**2).sum() + var.sum()

    grad_kernel = jax.jit(jax.grad(energy, argnums=1))
    grad_both = jax.jit(jax.grad(energy, argnums=(0, 1)))
    chex.assert_trees_all_equal(grad_kernel(x, kernel), grad_both(x, kernel)[1])
    images = "tensor<2x8x8x3xf32>"
    results = [
        line.rsplit("->", 1)[1]
        for gradient in (grad_kernel, grad_both)
        for line in gradient.lower(x, kernel).as_text().splitlines()
        if "mnet_full_backward" in line
    ]
    assert [images in result for result in results] == [False, True]


def test_vmap_is_a_loop():
    x, _, kernel, *_ = draw((3, 2, 6, 6, 8), (3, 3, 3, 8), (8,))
    call = partial(ops.depthwise_conv, lowering="native")
    chex.assert_trees_all_close(
        jax.vmap(call)(x, kernel), jnp.stack([call(*pair) for pair in zip(x, kernel, strict=True)])
    )


@pytest.mark.parametrize(
    "x, kernel, options",
    [
        (jnp.ones((1, 8, 8, 4), jnp.bfloat16), jnp.ones((3, 3, 4)), {}),
        (jnp.ones((1, 8, 8, 4)), jnp.ones((7, 7, 4)), {}),
        (jnp.ones((1, 8, 8, 4)), jnp.ones((3, 5, 4)), {}),
        (jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4)), {"dilation": 2}),
        (jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4)), {"strides": (1, 2)}),
    ],
)
def test_what_has_no_kernel_is_shifted(x, kernel, options):
    native_, shifted = (
        ops.depthwise_conv(x, kernel, lowering=lowering, **options)
        for lowering in ("native", "shifted")
    )
    assert native_.dtype == x.dtype
    chex.assert_trees_all_equal(native_, shifted)


NETWORKS = (
    {"mixed": lambda **_: mixed()}
    | SMALL
    | {"v2 expansion shortcuts": partial(small_v2, shortcut="expansion", bottleneck="relu6")}
)


# By default the network of every kind of block, of which test_lowerings.py has NumPy's numbers.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "mixed" else pytest.mark.exhaustive)
        for name in NETWORKS
    ],
)
def test_networks_train_and_infer_as_with_other_lowerings(name):
    spec = NETWORKS[name](dropout=0.0)
    images, labels = images_of(8, 32, 32, 3), jnp.arange(8) % spec.head.num_classes
    _, variables = model_and_variables(spec)

    def results(lowering):
        model = models.MobileNet(spec=spec, lowering=lowering)

        @quick_jit
        def step(variables):
            def loss_of(params):
                logits, updates = model.apply(
                    variables | {"params": params}, images, train=True, mutable=["batch_stats"]
                )
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return losses.mean(), (logits, updates)

            (loss, aux), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
            return loss, *aux, gradients["head"], model.apply(variables, images, train=False)

        return step(variables)

    # Rounding grows through so many normalizations of so few images, and a few activations near
    # their corners fall to the other side.
    found = (jax.device_get(results(lowering)) for lowering in ("native", "shifted"))
    for got, want in zip(*map(jax.tree.leaves, found), strict=True):
        assert np.linalg.norm(got - want) <= 5e-2 * np.linalg.norm(want) + 1e-4


# Processors without AVX2, with it, and with AVX-512: the kernels have code for each.
@pytest.mark.parametrize(
    "compiler, processor",
    [
        ("g++", "x86-64"),
        ("g++", "skylake-avx512"),
        ("clang++", "haswell"),
        pytest.param("g++", "haswell", marks=pytest.mark.exhaustive),
        pytest.param("clang++", "x86-64", marks=pytest.mark.exhaustive),
        pytest.param("clang++", "skylake-avx512", marks=pytest.mark.exhaustive),
    ],
)
def test_they_compile_without_a_warning(compiler, processor):
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")
    if platform.machine() != "x86_64":
        pytest.skip("the processors are x86-64")
    command = [compiler, *compilation.FLAGS, f"-march={processor}", "-Werror", "-fsyntax-only"]
    sources = [compilation.DIRECTORY / unit for unit in compilation.UNITS]
    command += [*compilation.includes(), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
