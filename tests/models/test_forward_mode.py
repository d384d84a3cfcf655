"""Forward-mode derivatives of networks in the lowering that has them, against reverse mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import model_and_variables, quick_jit, random_like, small_v3
from tiny_network import make_short_spec

IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


def loss_of(model, variables, train):
    """The loss as a function of the parameters."""

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, IMAGES, train=train, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )  # fmt: skip
        return jnp.sum(jnp.sin(logits)), logits

    return loss


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("spec", [make_short_spec(), small_v3()], ids=["v2", "v3"])
def test_forward_and_reverse_mode_agree(spec, train):
    """For a direction v and a cotangent w: w . (J v) = (J' w) . v."""
    model, variables = model_and_variables(spec, lowering="grouped")
    params = variables["params"]
    direction = random_like(params, seed=1)

    @quick_jit
    def both(params, direction, weights):
        logits_of = lambda params: loss_of(model, variables, train)(params)[1]  # noqa: E731
        logits, tangent = jax.jvp(logits_of, (params,), (direction,))
        (gradient,) = jax.vjp(logits_of, params)[1](weights)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, direction)
        return jnp.sum(tangent * weights), sum(jax.tree.leaves(products)), logits

    weights = np.random.default_rng(2).normal(size=(3, spec.head.num_classes)).astype(np.float32)
    forward, reverse, _ = both(params, direction, weights)
    assert float(forward) == pytest.approx(float(reverse), rel=1e-3)


def test_the_hessian_equals_reverse_over_reverse_mode():
    """In forward mode over reverse mode, as `jax.hessian` computes it."""
    model, variables = model_and_variables(make_short_spec(), lowering="grouped")
    params = variables["params"]
    loss = loss_of(model, variables, train=False)

    def of_scale(scale):  # of the stem's normalization: passes through every layer
        stem = {**params["stem"], "norm": {**params["stem"]["norm"], "scale": scale}}
        return loss({**params, "stem": stem})[0]

    scale = params["stem"]["norm"]["scale"]
    hessian = quick_jit(jax.hessian(of_scale))(scale)
    assert hessian.shape == (8, 8)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-2, atol=1e-2)
    wanted = quick_jit(jax.jacrev(jax.grad(of_scale)))(scale)  # reverse over reverse
    np.testing.assert_allclose(hessian, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lowering", ["auto", "shifted"])
def test_other_lowerings_name_the_one_that_has_it(lowering):
    model, variables = model_and_variables(make_short_spec(), lowering=lowering)
    loss = loss_of(model, variables, train=False)
    with pytest.raises(TypeError, match=r"^lowering: got '\w+', legal: 'grouped' for forward-mode"):
        jax.jit(jax.jacfwd(lambda params: loss(params)[0]))(variables["params"])
