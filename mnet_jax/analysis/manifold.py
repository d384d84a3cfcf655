"""Measures how much of a plane curve an activation function in n dimensions preserves.

The paper (arXiv 1801.04381, Fig. 1 and section 3.2) embeds a spiral x into n dimensions by a random
matrix T, applies a ReLU, and projects back by the pseudo-inverse: T^-1 ReLU(T x). With few
dimensions, parts of the spiral are mapped onto each other. With many, the spiral is bent, but
remains a curve. The paper gives neither the distribution of T nor numbers. This module defines
two distributions, and measures the loss in numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.analysis.choices import DIMENSIONS, Distribution
from mnet_jax.architectures.spec import Activation
from mnet_jax.ops import activate
from mnet_jax.validation import require, require_choice

Array = jax.Array

PLANE = 2
TURNS = 2.5
FEWEST_POINTS = 10
LARGEST_DIMENSION = 2**12


def spiral(count: int = 1000) -> np.ndarray:
    """Returns an Archimedean spiral of 2.5 turns, float32 [count, 2], from its centre outwards.

    The points are evenly spaced along the curve. Their mean square is 1, so the scale of T x is
    about that of a batch normalization's output.
    """
    require(count >= FEWEST_POINTS, "count", count, f"{FEWEST_POINTS} points or more")
    # The arc length of r = angle is about angle^2 / 2, except in the innermost turn.
    angle = 2 * np.pi * TURNS * np.sqrt(np.linspace(0, 1, count))
    return normalized(angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def normalized(points: np.ndarray) -> np.ndarray:
    """Shifts points [p, 2] to a mean of 0 and scales them to a mean square of 1; float32.

    Raises:
      ValueError: the shape is not [p, 2], there are too few points, they are not finite, or they
        are all the same.
    """
    points = np.asarray(points, np.float64)
    shape, legal = points.shape, f"[p, {PLANE}] with p {FEWEST_POINTS} or more"
    require(points.ndim == PLANE and shape[1] == PLANE, "points", f"shape {shape}", legal)
    require(shape[0] >= FEWEST_POINTS, "points", f"shape {shape}", legal)
    require(bool(np.isfinite(points).all()), "points", "not all finite", "finite numbers")
    centred = points - points.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    require(size > 0, "points", "all the same", "points that differ")
    return (centred / size).astype(np.float32)


def embedding(key: Array, dimensions: int, distribution: Distribution = "gaussian") -> Array:
    """Draws a random matrix T, float32 [dimensions, 2].

    Args:
      key: the key of the random numbers.
      dimensions: number of dimensions, n.
      distribution: `gaussian`: the elements are independent standard normal numbers. `orthogonal`:
        two orthonormal columns, uniformly distributed, times sqrt(n), so that the mean square of
        an element is 1, as with `gaussian`.

    Raises:
      ValueError: fewer than two dimensions, or another distribution.
    """
    require(dimensions >= PLANE, "dimensions", dimensions, f"{PLANE} or more")
    require_choice("distribution", distribution, Distribution)
    if distribution == "gaussian":
        return jax.random.normal(key, (dimensions, PLANE))
    columns = jax.random.orthogonal(key, dimensions)[:, :PLANE]
    return columns * jnp.sqrt(float(dimensions))


class Reconstruction(NamedTuple):
    """Points after `activation(T x)`, and their reconstructions in the plane.

    Attributes:
      embedded: the points after the activation function, [p, n].
      projected: `embedded`, mapped to the plane by the pseudo-inverse of T, [p, 2].
      read_out: the least-squares affine fit of the original points by `embedded`, [p, 2].
      area: factor by which the activation function scales a small area around each point, [p]: 1
        if the area is unchanged, 0 if it collapses to a line or a point. (With h-swish the factor
        can be above 1.)
    """

    embedded: Array
    projected: Array
    read_out: Array
    area: Array


def reconstruct(points: Array, matrix: Array, activation: Activation) -> Reconstruction:
    """Maps points [p, 2] by a matrix [n, 2] and an activation function, and reconstructs them."""
    before = points @ matrix.T
    embedded = activate(before, activation)
    return Reconstruction(
        embedded=embedded,
        projected=embedded @ jnp.linalg.pinv(matrix).T,
        read_out=_affine_fit(embedded, points),
        area=_area(_slopes(before, activation), matrix),
    )


def _affine_fit(inputs: Array, targets: Array) -> Array:
    """Fits the targets [p, 2] by an affine map of the inputs [p, n]; returns the fitted values."""
    design = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)
    return design @ jnp.linalg.lstsq(design, targets)[0]


def _slopes(x: Array, activation: Activation) -> Array:
    """Computes the derivative of the activation function elementwise."""
    return jax.vmap(jax.grad(lambda x: activate(x, activation)))(x.ravel()).reshape(x.shape)


def _area(slopes: Array, matrix: Array) -> Array:
    """Computes the area factor of each point, [p].

    The factor is sqrt(det J^T J / det T^T T) with J = diag(slopes) T. By the Cauchy-Binet formula,
    the determinants are sums over pairs of rows. No term is negative, so no digits cancel. If fewer
    than two rows have a nonzero slope, det J^T J is exactly zero.
    """
    x, y = matrix.T
    minors = (jnp.outer(x, y) - jnp.outer(y, x)) ** 2
    minors = jnp.fill_diagonal(minors, 0, inplace=False)  # not exactly 0 if computed with FMA
    squares = slopes**2
    return jnp.sqrt(((squares @ minors) * squares).sum(axis=1) / minors.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class InformationLoss:
    """How much of a manifold an activation function in n dimensions preserves, for many random T.

    Attributes:
      dimensions: n.
      projection_error: relative error of T^-1 activation(T x) after the best affine correction,
        [draws]. A relative error is the root mean square of the error divided by the root mean
        square of the points: 0 if the manifold is unchanged, 1 if it is lost.
      readout_error: relative error of the best affine map from all n dimensions, [draws].
      collapsed: share of points around which small areas collapse to a line or point, [draws].
    """

    dimensions: int
    projection_error: np.ndarray
    readout_error: np.ndarray
    collapsed: np.ndarray

    @property
    def relu_collapse(self) -> float:
        """The expected `collapsed` of a ReLU, for both distributions of T: (n + 1) / 2^n.

        The area around a point x does not collapse if at least two elements of T x are above zero.
        Each element is above zero with probability 1/2, independently of the others by the symmetry
        of both distributions.
        """
        return (self.dimensions + 1) / 2**self.dimensions


def measure_information_loss(
    points: np.ndarray,
    *,
    dimensions: Sequence[int] = DIMENSIONS,
    activation: Activation = "relu",
    distribution: Distribution = "gaussian",
    draws: int = 100,
    seed: int = 0,
) -> tuple[InformationLoss, ...]:
    """Measures how much of the points an activation function preserves, for many random T.

    Args:
      points: [p, 2]; the function `normalized` is applied to them first.
      dimensions: the numbers of dimensions n.
      activation: the activation function.
      distribution: distribution of T.
      draws: number of random T for each n.
      seed: the seed of the random numbers.

    Raises:
      ValueError: an argument is not legal.
    """
    require_choice("activation", activation, Activation)
    require(draws >= 1, "draws", draws, "1 or more")
    require(bool(dimensions), "dimensions", "", "one number or more")
    places = jnp.asarray(normalized(points))
    found = []
    for count in dimensions:
        require(
            PLANE <= count <= LARGEST_DIMENSION, "dimensions", count,
            f"{PLANE} to {LARGEST_DIMENSION}",
        )  # fmt: skip
        every = matrices(seed, count, draws, distribution)
        # One T after the other, so that memory does not grow with their number.
        errors = jax.lax.map(partial(_information_loss, places, activation=activation), every)
        projection, readout, collapsed = (np.asarray(values) for values in errors)
        found.append(
            InformationLoss(
                dimensions=count,
                projection_error=projection,
                readout_error=readout,
                collapsed=collapsed,
            )
        )
    return tuple(found)


def matrices(
    seed: int, dimensions: int, draws: int, distribution: Distribution = "gaussian"
) -> Array:
    """Returns the matrices T of `measure_information_loss`, [draws, dimensions, 2] float32."""
    key = jax.random.fold_in(jax.random.key(seed), dimensions)
    draw = partial(embedding, dimensions=dimensions, distribution=distribution)
    return jax.lax.map(draw, jax.random.split(key, draws))


def _information_loss(
    points: Array, matrix: Array, *, activation: Activation
) -> tuple[Array, Array, Array]:
    reconstruction = reconstruct(points, matrix, activation)
    corrected = _affine_fit(reconstruction.projected, points)
    return (
        _relative_error(corrected, points),
        _relative_error(reconstruction.read_out, points),
        jnp.mean(reconstruction.area == 0),
    )


def _relative_error(found: Array, points: Array) -> Array:
    return jnp.sqrt(((found - points) ** 2).sum(axis=1).mean() / (points**2).sum(axis=1).mean())
