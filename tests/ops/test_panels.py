"""The order of a kernel's numbers for the native kernels: nothing is lost, and only reordered."""

import jax
import numpy as np
import pytest

from mnet_jax import ops


# Panels have 48 columns. Behind the whole ones is nothing, a rest of 16 or 32, or one with zeros.
@pytest.mark.parametrize(
    "inputs, outputs", [(1, 1), (7, 17), (40, 48), (3, 50), (5, 80), (12, 144), (2, 191)]
)
def test_panels_are_whole_columns_one_after_the_other(inputs, outputs):
    kernel = np.arange(1.0, inputs * outputs + 1, dtype=np.float32).reshape(inputs, outputs)
    panels = np.asarray(ops.pack(jax.numpy.asarray(kernel)))
    np.testing.assert_array_equal(ops.unpack(panels, inputs, outputs), kernel)
    assert panels.size == inputs * -(-outputs // 16) * 16
    whole = outputs // 48
    for i in range(whole):
        panel = panels[i * inputs * 48 : (i + 1) * inputs * 48].reshape(inputs, 48)
        np.testing.assert_array_equal(panel, kernel[:, i * 48 : (i + 1) * 48])
    rest = panels[whole * inputs * 48 :].reshape(inputs, -1)
    np.testing.assert_array_equal(rest[:, : outputs - whole * 48], kernel[:, whole * 48 :])
    assert not rest[:, outputs - whole * 48 :].any(), "what rounds it up is zero"


@pytest.mark.parametrize("lowering", ["auto", "shifted"])
def test_a_pointwise_convolution_takes_panels_on_every_lowering(lowering):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 5, 12), (12, 50)))
    finish = ops.Finish(bias=jax.numpy.ones(50), activation="relu")
    y = ops.pointwise(ops.Pending(x=x), ops.pack(kernel), lowering=lowering, finish=finish).y
    np.testing.assert_allclose(y, np.maximum(x @ kernel + 1, 0), rtol=0, atol=1e-5)


def test_panels_of_another_kernel_are_refused():
    x, finish = ops.Pending(x=np.zeros((2, 3), np.float32)), ops.Finish(bias=np.zeros(20))
    with pytest.raises(ValueError, match="kernel: got 95, legal: 96 numbers in panels of 3 x 20"):
        ops.pointwise(x, np.zeros(95, np.float32), finish=finish)
    with pytest.raises(ValueError, match=r"kernel: got \(96,\), legal: \[c, n\]"):
        ops.pointwise(x, np.zeros(96, np.float32))
