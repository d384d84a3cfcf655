"""V2's Fig. 1 against what algebra says of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line

from mnet_jax.analysis import manifold

pytestmark = pytest.mark.usefixtures("quickly_compiled")
KEY = jax.random.key(3)


def test_the_spirals_points_are_evenly_spaced_centred_and_of_size_one():
    points = manifold.spiral(2000)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)[200:]  # but for the innermost turn
    assert steps.max() / steps.min() < 1.1
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((points**2).sum(axis=1).mean(), 1, rtol=1e-5)


@pytest.mark.parametrize("distribution", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("dimensions", [2, 3, 5, 8])
def test_a_relu_lets_as_many_neighbourhoods_fall_as_the_binomial_says(distribution, dimensions):
    """A point keeps its area where at least two of n independent fair coins fall on heads."""
    (found,) = manifold.measure_information_loss(
        manifold.spiral(200), dimensions=[dimensions], distribution=distribution, draws=400
    )
    expected = (1 + dimensions) / 2**dimensions
    # The points of one T are dependent, the T are not: five standard errors of their mean.
    spread = found.collapsed.std() / np.sqrt(len(found.collapsed))
    assert abs(found.collapsed.mean() - expected) < 5 * spread + 1e-3
    assert found.relu_collapse == expected


@pytest.mark.parametrize("distribution", ["gaussian", "orthogonal"])
def test_without_a_non_linearity_nothing_is_lost(distribution):
    for found in manifold.measure_information_loss(
        manifold.spiral(100), activation="linear", distribution=distribution, draws=10
    ):
        assert found.projection_error.max() < 1e-3
        assert found.readout_error.max() < 1e-3
        assert not found.collapsed.any()


def test_orthogonal_columns_are_orthogonal_and_as_long_as_gaussian_ones_are_on_average():
    matrix = np.asarray(manifold.embedding(KEY, 30, "orthogonal"))
    np.testing.assert_allclose(matrix.T @ matrix, 30 * np.eye(2), atol=1e-4)
    gaussian = np.asarray(manifold.matrices(0, 30, 500))
    np.testing.assert_allclose((gaussian**2).mean(), 1, rtol=0.05)


@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_swish"])
def test_the_area_is_the_jacobians(activation):
    """By differentiation of the whole map, and NumPy's singular values."""
    points, matrix = jnp.asarray(manifold.spiral(50)), 2 * manifold.embedding(KEY, 4)
    area = manifold.reconstruct(points, matrix, activation).area

    def embed(x):
        return manifold.reconstruct(x[None], matrix, activation).embedded[0]

    jacobians = np.asarray(jax.jit(jax.vmap(jax.jacfwd(embed)))(points), np.float64)
    for jacobian, found in zip(jacobians, np.asarray(area), strict=True):
        expected = np.prod(np.linalg.svd(jacobian, compute_uv=False))
        whole = np.prod(np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False))
        np.testing.assert_allclose(found, expected / whole, rtol=1e-4, atol=1e-5)


def test_the_way_back_is_numpys_pseudo_inverse_and_least_squares():
    points, matrix = manifold.spiral(60), np.asarray(manifold.embedding(KEY, 5))
    reconstruction = manifold.reconstruct(jnp.asarray(points), jnp.asarray(matrix), "relu")
    embedded = np.maximum(points @ matrix.T, 0)
    back = embedded @ np.linalg.pinv(matrix).T
    np.testing.assert_allclose(reconstruction.projected, back, rtol=1e-4, atol=1e-5)
    design = np.column_stack([embedded, np.ones(60)])
    fitted = design @ np.linalg.lstsq(design, points, rcond=None)[0]
    np.testing.assert_allclose(reconstruction.read_out, fitted, rtol=1e-3, atol=1e-4)


def test_a_draw_does_not_depend_on_how_many_follow_and_seeds_differ():
    few, many, other = (
        manifold.measure_information_loss(
            manifold.spiral(50), dimensions=[5], draws=draws, seed=seed
        )[0]
        for draws, seed in ((3, 0), (6, 0), (3, 1))
    )
    np.testing.assert_array_equal(few.collapsed, many.collapsed[:3])
    assert not np.array_equal(few.collapsed, other.collapsed)


def test_what_is_not_legal_is_refused_in_one_line():
    spiral = manifold.spiral(20)
    for call, *message in (
        (lambda: manifold.normalized(np.zeros((20, 3))), "points", "(20, 3)", "[p, 2]"),
        (lambda: manifold.normalized(np.zeros((20, 2))), "points", "differ"),
        (lambda: manifold.normalized(np.full((20, 2), np.nan)), "points", "finite"),
        (lambda: manifold.spiral(3), "count", "3"),
        (lambda: manifold.measure_information_loss(spiral, dimensions=[1]), "dimensions", "1"),
        (lambda: manifold.measure_information_loss(spiral, dimensions=[]), "dimensions"),
        (lambda: manifold.measure_information_loss(spiral, draws=0), "draws", "0"),
        (
            lambda: manifold.measure_information_loss(spiral, activation="tanh"),
            "activation",
            "tanh",
            "relu6",
        ),
        (
            lambda: manifold.measure_information_loss(spiral, distribution="cauchy"),
            "distribution",
            "gaussian",
        ),
    ):
        one_line(ValueError, call, *message)
