"""Measures how much of a manifold a non-linearity in n dimensions preserves: V2's Fig. 1.

    python -m experiments.manifold
    python -m experiments.manifold --activation hard_swish --distribution orthogonal
    python -m experiments.manifold --points mine.csv --dimensions 2 4 8

`python -m experiments.bottlenecks` does this measurement in a trained network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mnet_jax.analysis.choices import DIMENSIONS, Distribution
from mnet_jax.architectures.spec import Activation
from mnet_jax.commands import terminal
from mnet_jax.commands.arguments import parse, refusals
from mnet_jax.commands.planning import MAX_SEED, require_directory
from mnet_jax.files import replace_file
from mnet_jax.statistics import formatting
from mnet_jax.validation import one_line, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from mnet_jax.analysis.manifold import InformationLoss

COMMAND = "manifold"
PICTURE = "manifold.png"
MAX_DRAWS = 100_000
MAX_POINTS = 100_000


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measures how much of a spiral a non-linearity in n dimensions preserves: V2's Fig. 1.

    A random matrix T maps the spiral from the plane to n dimensions. The non-linearity is applied
    there, and the result is mapped back.
    """

    activation: Activation = "relu"
    """the non-linearity"""
    dimensions: tuple[int, ...] = DIMENSIONS
    """the values of n; by default those of the paper"""
    distribution: Distribution = "gaussian"
    """distribution of the random matrix T"""
    draws: int = 100
    """number of random T for each n"""
    seed: int = 0
    """seed of the random T"""
    points: Path | None = None
    """a .csv or .npy file with two columns of points, used instead of the spiral"""
    results: Path = Path("results/manifold")
    """directory for the picture"""


def main() -> None:
    """Reads the command line, measures, draws and prints."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        _require_legal(arguments)
        points = _points(arguments.points)
        losses = _measure(points, arguments)
    console.print(_table(losses, arguments))
    console.print(f"means over {arguments.draws} random T, {formatting.HALVES}", style="dim")
    path = arguments.results / PICTURE
    replace_file(path, _picture(points, losses, arguments))
    console.print(f"drawn in {path}")


def _require_legal(arguments: Arguments) -> None:
    """Raises ValueError for illegal arguments; does only the checks that do not need JAX."""
    require(0 <= arguments.seed <= MAX_SEED, "seed", arguments.seed, f"from 0 to {MAX_SEED}")
    require(1 <= arguments.draws <= MAX_DRAWS, "draws", arguments.draws, f"1 to {MAX_DRAWS:,}")
    given = arguments.dimensions
    require(len({*given}) == len(given), "dimensions", " ".join(map(str, given)), "each once")
    require_directory("results", arguments.results)


def _points(path: Path | None) -> "np.ndarray":
    """Returns the points of a file, or the spiral if `path` is None.

    Raises:
      ValueError: the file cannot be read, or has too many points.
    """
    import numpy as np

    from mnet_jax.analysis import manifold

    if path is None:
        return manifold.spiral()
    require(path.suffix in (".csv", ".npy"), "points", str(path), "a file of .csv or .npy")
    require(path.is_file(), "points", str(path), "a file that exists")
    try:
        loaded = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",")
        points = np.asarray(loaded, np.float64)
    except (OSError, ValueError, EOFError) as error:
        reason = one_line(error)
        raise ValueError(
            f"points: {path} cannot be read as rows of two numbers, {reason}"
        ) from error
    require(
        len(points) <= MAX_POINTS, "points", f"{len(points)} points", f"{MAX_POINTS:,} or fewer"
    )
    return manifold.normalized(points)


def _measure(points: "np.ndarray", arguments: Arguments) -> "tuple[InformationLoss, ...]":
    from mnet_jax.analysis import manifold

    return manifold.measure_information_loss(
        points,
        dimensions=arguments.dimensions,
        activation=arguments.activation,
        distribution=arguments.distribution,
        draws=arguments.draws,
        seed=arguments.seed,
    )


def _table(losses: "Sequence[InformationLoss]", arguments: Arguments) -> Table:
    title = f"{arguments.activation}(T x), T {arguments.distribution}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("n", "error of T⁻¹", "error of the best affine map", "neighbourhoods collapsed"):
        table.add_column(column, justify="right")
    if arguments.activation == "relu":
        table.add_column("(n + 1) / 2ⁿ", justify="right")
    for loss in losses:
        exact = [f"{loss.relu_collapse:.2%}"] if arguments.activation == "relu" else []
        table.add_row(
            str(loss.dimensions),
            formatting.mean(loss.projection_error, "{:.4f}"),
            formatting.mean(loss.readout_error, "{:.4f}"),
            formatting.mean(loss.collapsed, "{:.2%}"),
            *exact,
        )
    return table


def _picture(
    points: "np.ndarray", losses: "Sequence[InformationLoss]", arguments: Arguments
) -> bytes:
    import jax.numpy as jnp
    import numpy as np

    from mnet_jax.analysis import manifold
    from mnet_jax.plots import style
    from mnet_jax.plots.manifold import draw

    places, projected = jnp.asarray(points), {}
    for n in arguments.dimensions:
        (matrix,) = manifold.matrices(arguments.seed, n, 1, arguments.distribution)
        reconstruction = manifold.reconstruct(places, matrix, arguments.activation)
        projected[n] = np.asarray(reconstruction.projected)
    figure = draw(
        points,
        projected,
        losses,
        activation=arguments.activation,
        distribution=arguments.distribution,
    )
    return style.to_png(figure)
