"""What a non-linearity in n dimensions leaves of a manifold in the plane: V2's Fig. 1.

The paper (arXiv 1801.04381, Fig. 1 and section 3.2) embeds a spiral x by a random matrix T in n
dimensions, applies a ReLU, and projects back: T^-1 ReLU(T x), by the pseudo-inverse. With few
dimensions parts of the spiral fall onto each other; with many it survives, bent. The paper states
neither the distribution of T nor any number; here are both.
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
    """An Archimedean spiral of two and a half turns, float32 [count, 2], from its middle outwards.

    Its points are evenly spaced along the curve and their mean square is 1: T x is then about as
    large as what a batch normalization gives.
    """
    require(count >= FEWEST_POINTS, "count", count, f"{FEWEST_POINTS} points or more")
    # The arc of r = angle grows with angle^2 / 2 but for its innermost turn.
    angle = 2 * np.pi * TURNS * np.sqrt(np.linspace(0, 1, count))
    return normalized(angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def normalized(points: np.ndarray) -> np.ndarray:
    """Points [p, 2] around their mean and with a mean square of 1, float32.

    Raises:
      ValueError: they are not that, too few, or all the same.
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
    """A random T, float32 [dimensions, 2].

    `gaussian`: independent standard normal numbers. `orthogonal`: two orthonormal columns, of all
    such pairs alike, times the root of `dimensions`, so that a number's mean square is 1 here too.

    Raises:
      ValueError: fewer than two dimensions, or another distribution.
    """
    require(dimensions >= PLANE, "dimensions", dimensions, f"{PLANE} or more")
    require_choice("distribution", distribution, Distribution)
    if distribution == "gaussian":
        return jax.random.normal(key, (dimensions, PLANE))
    columns = jax.random.orthogonal(key, dimensions)[:, :PLANE]
    return columns * jnp.sqrt(float(dimensions))


class Passage(NamedTuple):
    """Points that went through `activation(T x)`.

    Attributes:
      embedded: [p, n], after the non-linearity.
      projected: T^-1 of it by the pseudo-inverse, [p, 2].
      read_out: the best affine map of it back to the points, by least squares, [p, 2].
      area: by how much the non-linearity shrinks a small area around each point, [p]: 1 for none,
        0 where the area falls onto a line or a point. (h-swish may also enlarge it.)
    """

    embedded: Array
    projected: Array
    read_out: Array
    area: Array


def pass_through(points: Array, matrix: Array, activation: Activation) -> Passage:
    """Points [p, 2] through a matrix [n, 2] and a non-linearity, and back."""
    before = points @ matrix.T
    embedded = activate(before, activation)
    return Passage(
        embedded=embedded,
        projected=embedded @ jnp.linalg.pinv(matrix).T,
        read_out=_affine_fit(embedded, points),
        area=_area(_slopes(before, activation), matrix),
    )


def _affine_fit(inputs: Array, targets: Array) -> Array:
    """What comes nearest to the targets [p, 2] of all affine maps of the inputs [p, n]."""
    design = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], axis=1)
    return design @ jnp.linalg.lstsq(design, targets)[0]


def _slopes(x: Array, activation: Activation) -> Array:
    """The non-linearity's derivative, elementwise."""
    return jax.vmap(jax.grad(lambda x: activate(x, activation)))(x.ravel()).reshape(x.shape)


def _area(slopes: Array, matrix: Array) -> Array:
    """sqrt(det J^T J / det T^T T) of J = diag(slopes) T at each point: [p].

    By Cauchy and Binet the determinants are sums over pairs of rows, of positive numbers alone:
    nothing cancels, and where fewer than two rows have a slope the sum is zero exactly.
    """
    x, y = matrix.T
    minors = (jnp.outer(x, y) - jnp.outer(y, x)) ** 2
    minors = jnp.fill_diagonal(minors, 0, inplace=False)  # a fused product and sum leaves a trace
    squares = slopes**2
    return jnp.sqrt(((squares @ minors) * squares).sum(axis=1) / minors.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Survival:
    """What is left of a manifold in so many dimensions, for each of many random T.

    Attributes:
      dimensions: n.
      projection_error: of T^-1 y, root mean square after the best affine correction, over the
        points' own size; [draws]. 0: the manifold is as it was. 1: nothing of it is left.
      readout_error: the same of the best affine map from all n dimensions; [draws].
      collapsed: share of the points around which an area has fallen onto a line or a point;
        [draws].
    """

    dimensions: int
    projection_error: np.ndarray
    readout_error: np.ndarray
    collapsed: np.ndarray

    @property
    def relu_collapse(self) -> float:
        """The share that collapses under a ReLU, over all T of either distribution.

        A point keeps its area where two rows of T x or more are above zero. Each is with
        probability 1/2 and, by the symmetry of both distributions, independently of the others:
        (n + 1) / 2^n.
        """
        return (self.dimensions + 1) / 2**self.dimensions


def survey(
    points: np.ndarray,
    *,
    dimensions: Sequence[int] = DIMENSIONS,
    activation: Activation = "relu",
    distribution: Distribution = "gaussian",
    draws: int = 100,
    seed: int = 0,
) -> tuple[Survival, ...]:
    """Sends points through many random T of each number of dimensions.

    Args:
      points: [p, 2]; see `normalized`.
      dimensions: those of the embeddings.
      activation: the non-linearity.
      distribution: of T.
      draws: number of T of each number of dimensions.
      seed: of the random numbers.

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
        errors = jax.lax.map(partial(_survival, places, activation=activation), every)
        projection, readout, collapsed = (np.asarray(values) for values in errors)
        found.append(
            Survival(
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
    """The random T of `survey`, float32 [draws, dimensions, 2]; each is one `embedding`."""
    key = jax.random.fold_in(jax.random.key(seed), dimensions)
    draw = partial(embedding, dimensions=dimensions, distribution=distribution)
    return jax.lax.map(draw, jax.random.split(key, draws))


def _survival(
    points: Array, matrix: Array, *, activation: Activation
) -> tuple[Array, Array, Array]:
    passage = pass_through(points, matrix, activation)
    corrected = _affine_fit(passage.projected, points)
    return (
        _relative_error(corrected, points),
        _relative_error(passage.read_out, points),
        jnp.mean(passage.area == 0),
    )


def _relative_error(found: Array, points: Array) -> Array:
    return jnp.sqrt(((found - points) ** 2).sum(axis=1).mean() / (points**2).sum(axis=1).mean())
