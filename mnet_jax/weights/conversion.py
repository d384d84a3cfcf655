"""From a library's state dict to our variables and back, whichever the library."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mnet_jax.architectures import FACTORIES, NetworkSpec, walk
from mnet_jax.architectures.dialects import Dialect, DialectName, dialect_of
from mnet_jax.models import MobileNet
from mnet_jax.validation import require
from mnet_jax.weights.arrays import as_arrays
from mnet_jax.weights.errors import WeightsError, listing, one_line
from mnet_jax.weights.layouts import TORCH, Entry, Layout, Names, Shape, entries_of

CLASSIFIER = "head/classifier"
COUNTER = ".num_batches_tracked"  # PyTorch counts training steps beside the running statistics
RESOLUTION = 224  # names and weights do not depend on it


@dataclass(frozen=True, kw_only=True)
class Library:
    """What a converter knows of a library.

    Attributes:
      name: as people write it.
      networks: those of ours that it has, by the names of their specs.
      dialects: those of ours that compute what the library computes.
      layout: of its framework.
      names: for one of those networks, the library's names of every layer of ours.
    """

    name: str
    networks: tuple[str, ...]
    dialects: tuple[DialectName, ...]
    layout: Layout
    names: Callable[[NetworkSpec], dict[str, Names]]

    def entries(self, spec: NetworkSpec) -> list[Entry]:
        """Every array of a network, in order; WeightsError if the library has no such network."""
        if spec.name not in self.networks or not _has_published_layers(spec):
            legal = f"{', '.join(self.networks)}, with the papers' layers"
            raise WeightsError(f"model: {self.name} has no such {spec.name}, legal: {legal}")
        names = self.names(spec)
        layers = walk(spec, RESOLUTION)
        return [e for layer in layers for e in entries_of(layer, names[layer.name], self.layout)]


def variants_of(spec: NetworkSpec, dialect: DialectName) -> list[NetworkSpec]:
    """The published networks of a spec's name, width and classes; V3 has a minimalistic one too."""
    options: list[dict[str, Any]] = [{}]
    if spec.name.startswith("mobilenet_v3"):
        options.append({"minimalistic": True})
    return [
        FACTORIES[spec.name](
            width=spec.width, num_classes=spec.head.num_classes, dialect=dialect, **option
        )
        for option in options
    ]


def _has_published_layers(spec: NetworkSpec) -> bool:
    """Whether a published network has layers of these names, so that a library's apply."""

    def names(one: NetworkSpec) -> list[str]:
        return [layer.name for layer in walk(one, RESOLUTION)]

    return names(spec) in map(names, variants_of(spec, spec.dialect.name))


def variables_from_state(
    state: Mapping, model: MobileNet, library: Library, fresh_head: jax.Array | None
) -> dict[str, Any]:
    """Our variables from a library's state dict.

    Args:
      state: the library's names to arrays.
      model: the network that they are for.
      library: whose names they are.
      fresh_head: PRNG key from which the model's own initializer draws the classifier; the
        state dict's is then ignored, whatever its classes. None takes the state dict's.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the state dict does not fit; one line. Nothing is loaded then.
    """
    spec = _spec_of(model)
    wanted = library.entries(spec)
    arrays = as_arrays(state)
    if library.layout is TORCH:
        arrays = {name: a for name, a in arrays.items() if not name.endswith(COUNTER)}
    flat: dict[str, Any] = {}
    if fresh_head is not None:
        require(isinstance(fresh_head, jax.Array), "fresh_head", fresh_head, "a PRNG key, None")
        old = _head_of(wanted)
        arrays = {name: array for name, array in arrays.items() if name not in old}
        wanted = [entry for entry in wanted if entry.theirs not in old]
        drawn = _initial_classifier(model, fresh_head)
        flat = {f"params/{CLASSIFIER}/{name}": value for name, value in drawn.items()}
    title = f"state_dict: does not fit {spec.name} as {library.name} names it"
    _require_fit(arrays, {entry.theirs: entry.shape for entry in wanted}, title, _head_of(wanted))
    _warn_of_dialect(spec.dialect, library, spec.name[: len("mobilenet_vN")])
    # A copy: on a CPU jnp.asarray may share memory with the caller's array, which can change.
    flat |= {entry.ours: jnp.array(entry.inward(arrays[entry.theirs])) for entry in wanted}
    return traverse_util.unflatten_dict(flat, sep="/")


def state_from_variables(
    variables: Mapping[str, Any], model: MobileNet, library: Library
) -> dict[str, np.ndarray]:
    """The library's state dict from our variables; the inverse of `variables_from_state`.

    Arrays are new, contiguous and float32. For PyTorch the step counters, which we do not keep,
    are int64 zeros.

    Raises:
      WeightsError: the library has no such network, or the variables are not the model's.
    """
    spec = _spec_of(model)
    wanted = library.entries(spec)
    kept = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    flat = as_arrays(traverse_util.flatten_dict(kept, sep="/"))
    shapes = {entry.ours: entry.our_shape for entry in wanted}
    _require_fit(flat, shapes, f"variables: do not fit {spec.name}", set())
    state = {}
    for entry in wanted:
        state[entry.theirs] = entry.outward(flat[entry.ours])
        if library.layout is TORCH and entry.ours.endswith("/norm/var"):
            norm = entry.theirs.removesuffix(TORCH.norm[-1])
            state[norm + COUNTER] = np.zeros((), np.int64)
    return state


def _spec_of(model: MobileNet) -> NetworkSpec:
    legal = "a MobileNet of mnet_jax.models"
    if not isinstance(model, MobileNet):
        raise WeightsError(f"model: got {type(model).__name__}, legal: {legal}")
    return model.spec


def _head_of(entries: list[Entry]) -> set[str]:
    """The library's names of the classifier's arrays."""
    return {e.theirs for e in entries if e.ours.startswith(f"params/{CLASSIFIER}/")}


def _require_fit(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], title: str, head: set[str]
) -> None:
    """WeightsError with all that is wrong, unless names and shapes agree and values are finite.

    Args:
      arrays: what there is.
      shapes: what there should be.
      title: how the message begins.
      head: the classifier's names, where another number of classes has a remedy.
    """
    missing = [f"{name} {list(shapes[name])}" for name in shapes if name not in arrays]
    extra = [f"{one_line(n)} {list(arrays[n].shape)}" for n in arrays if n not in shapes]
    common = [name for name in shapes if name in arrays]
    bad = [name for name in common if arrays[name].shape != shapes[name]]
    misshapen = [f"{n}: got {list(arrays[n].shape)}, legal: {list(shapes[n])}" for n in bad]
    whole = [f"{n}: got {arrays[n].dtype}" for n in common if arrays[n].dtype.kind != "f"]
    clauses = [
        *listing("missing", missing),
        *listing("extra", extra),
        *listing("misshapen", misshapen),
        *listing("not floating", whole),
    ]
    if head.intersection(bad):
        clauses.append("for another number of classes pass a PRNG key as fresh_head")
    if not clauses:
        infinite = [name for name in common if not np.isfinite(arrays[name]).all()]
        clauses = listing("not finite", infinite)
    if clauses:
        raise WeightsError(f"{title}: {'; '.join(clauses)}")


def _warn_of_dialect(dialect: Dialect, library: Library, version: str) -> None:
    """Warns where the model pads or normalizes unlike every network of the library."""

    def computation(one: Dialect) -> tuple:
        return one.norm_epsilon, one.padding, one.depthwise_padding

    known = []
    for name in library.dialects:
        try:
            known.append(dialect_of(version, name))
        except ValueError:  # the dialect has no such version
            continue
    if computation(dialect) not in map(computation, known):
        legal = ", ".join(one.name for one in known)
        warnings.warn(
            f"dialect: got {dialect.name}, legal: {legal} for the logits of {library.name}; "
            "this model pads or normalizes otherwise",
            stacklevel=4,
        )


def _initial_classifier(model: MobileNet, key: jax.Array) -> dict[str, jax.Array]:
    """The classifier's kernel and bias as `model.init(key, ...)` draws them."""

    @jax.jit  # what is not asked for, the rest of the network, is not computed
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        images = jnp.zeros((1, RESOLUTION, RESOLUTION, 3))
        return model.init(key, images, train=False)["params"]["head"]["classifier"]

    return draw(key)
