"""Depthwise convolution and its gradients as explicit loops over taps in float64."""

import shutil
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import quick_jit

from mnet_jax.ops import depthwise_conv
from mnet_jax.ops.native import compilation

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, compilation.COMPILERS)), reason="there is no C++ compiler"
)
LOWERINGS = ("grouped", "shifted", "auto", pytest.param("native", marks=needs_compiler))


def _pads(padding, sizes, reaches, strides):
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + reach - n, 0)
            for n, reach, s in zip(sizes, reaches, strides, strict=True)
        ]
        return tuple((t // 2, t - t // 2) for t in totals)
    return padding


def oracle(x, kernel, strides, padding, g=None, dilation=(1, 1)):
    """The output in float64, or for an output gradient g those of x and the kernel."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    (kh, kw), (sh, sw), (dh, dw) = kernel.shape[:2], strides, dilation
    reaches = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    pads = _pads(padding, x.shape[1:3], reaches, strides)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = ((padded.shape[1 + a] - reaches[a]) // strides[a] + 1 for a in (0, 1))
    y, dx, dk = np.zeros((len(x), h, w, x.shape[3])), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(kh):
        for j in range(kw):
            top, left = dh * i, dw * j
            tap = np.s_[:, top : top + (h - 1) * sh + 1 : sh, left : left + (w - 1) * sw + 1 : sw]
            y += padded[tap] * kernel[i, j]
            if g is not None:
                dx[tap] += np.asarray(g, np.float64) * kernel[i, j]
                dk[i, j] = (padded[tap] * np.asarray(g, np.float64)).sum((0, 1, 2))
    if g is None:
        return y
    (top, _), (left, _) = pads
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dk


def arrays(shape, kernel, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    return (
        jnp.asarray(rng.normal(size=shape), dtype),
        jnp.asarray(rng.normal(size=(*size, shape[3])), dtype),
    )


def check(x, kernel, strides, padding, lowering, tolerance=2e-5, dilation=(1, 1)):
    """Compares the output and both gradients, relative to the largest value that is expected."""

    @quick_jit
    def both(x, kernel, g):
        call = partial(
            depthwise_conv, strides=strides, padding=padding, lowering=lowering, dilation=dilation
        )
        y, pull = jax.vjp(call, x, kernel)
        return y, *pull(g)

    output = oracle(x, kernel, strides, padding, dilation=dilation)
    g = jnp.asarray(np.cos(np.arange(output.size)).reshape(output.shape), x.dtype)
    y, dx, dk = both(x, kernel, g)
    want = (output, *oracle(x, kernel, strides, padding, g, dilation))
    for got, expected in zip((y, dx, dk), want, strict=True):
        assert got.dtype == x.dtype
        scale = max(np.abs(expected).max(), 1e-3)
        chex.assert_shape(got, expected.shape)
        chex.assert_trees_all_close(
            np.asarray(got, np.float64) / scale, expected / scale, atol=tolerance, rtol=0
        )
