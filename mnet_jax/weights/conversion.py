"""Conversion between the state dict of a library and our variables, for any library."""

import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mnet_jax.architectures import NetworkSpec, variable_shapes, walk
from mnet_jax.architectures.dialects import DialectName
from mnet_jax.models import MobileNet, with_in_channels
from mnet_jax.models.inputs import RGB, STEM_KERNEL
from mnet_jax.validation import one_line, require
from mnet_jax.weights.arithmetic import Size, describe_differences, variants_of
from mnet_jax.weights.arrays import Limit, WeightsError, as_arrays, listing
from mnet_jax.weights.layouts import TORCH, ArrayEntry, Layout, Names, Shape, entries_of

CLASSIFIER = "head/classifier"
AFTER_POOL = ("head/hidden/", f"{CLASSIFIER}/")
COUNTER = ".num_batches_tracked"  # PyTorch's count of training steps, next to running statistics
AVERAGED = "n_averaged"  # AveragedModel counts the models that it has averaged
VARIANCE = "/norm/var"
RESOLUTION = 224  # names and weights do not depend on it


@dataclass(frozen=True, kw_only=True)
class Library:
    """The facts about a library that its converter needs, such as the names of its layers.

    Attributes:
      name: name of the library, for messages.
      networks: names of our specs for which the library has a network.
      dialects: by version (`mobilenet_v2`), our dialects that compute the same as the library.
      layout: layout of the library's framework.
      names: function that returns the library's names of every layer of a network.
      variants: function that returns the library's networks with a spec's name and width, in a
        dialect; the published ones unless the library has more.
    """

    name: str
    networks: tuple[str, ...]
    dialects: Mapping[str, tuple[DialectName, ...]]
    layout: Layout
    names: Callable[[NetworkSpec], dict[str, Names]]
    variants: Callable[[NetworkSpec, DialectName], list[NetworkSpec]] = variants_of

    def entries(self, spec: NetworkSpec) -> list[ArrayEntry]:
        """Returns the entries of all arrays of a network, in order.

        Raises:
          WeightsError: the library has no such network.
        """
        if spec.name not in self.networks or not self._has_layers_of(spec):
            legal = f"{', '.join(self.networks)}, with the papers' layers"
            raise WeightsError(f"model: {self.name} has no such {spec.name}, legal: {legal}")
        names = self.names(spec)
        layers = [layer for layer in walk(spec, RESOLUTION) if layer.variable_shapes]
        return [e for layer in layers for e in entries_of(layer, names[layer.name], self.layout)]

    def _has_layers_of(self, spec: NetworkSpec) -> bool:
        """Returns whether one of the library's networks has the variables of the spec.

        The library has names only for these variables.
        """

        def paths(one: NetworkSpec) -> list[str]:
            return list(variable_shapes(one))

        return paths(spec) in map(paths, self.variants(spec, spec.dialect.name))

    def networks_like(self, spec: NetworkSpec) -> list[NetworkSpec]:
        """Returns the library's networks with a spec's name and width, as the library has them."""
        names = self.dialects[spec.name[: len("mobilenet_vN")]]
        return [variant for name in names for variant in self.variants(spec, name)]


def variables_from_state(
    state: Mapping,
    model: MobileNet,
    library: Library,
    fresh_head: jax.Array | None,
    image_size: Size | None,
) -> dict[str, Any]:
    """Converts a library's state dict to our variables.

    Args:
      state: mapping of the library's names to arrays.
      model: the network to convert for.
      library: the library.
      fresh_head: PRNG key with which the model's own initializer draws a new classifier; the
        state dict's own layers after its backbone are then ignored, whatever their names. The one
        exception is a hidden layer before the classifier. If its shape is that of the model's
        hidden layer, it is converted. Otherwise the model's hidden layer is drawn too, with a
        warning. None converts all of the state dict.
      image_size: (rows, columns) of the model's images. There is a warning if the logits at this
        size differ from the library's. None means any size.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them. If the
      model has no classes, the state dict's classifier is left out, and may be absent. If the
      state dict takes RGB images and the model takes other images, the stem's kernel is adapted by
      `models.with_in_channels`.

    Raises:
      WeightsError: the state dict does not fit; the message is one line.
    """
    spec = _spec_of(model)
    wanted = library.entries(spec)
    arrays = as_arrays(state, Limit.of(entry.shape for entry in wanted))
    if library.layout is TORCH:
        arrays = without_counters(arrays)
    if not spec.head.num_classes:
        unused = _head_of(library.entries(spec.with_classes(1)))
        arrays = {name: array for name, array in arrays.items() if name not in unused}
    channels = spec.stem.inputs
    if channels != RGB and _takes_rgb(arrays, wanted, library.layout):
        colour = model.clone(spec=spec.with_inputs(RGB))
        variables = variables_from_state(state, colour, library, fresh_head, image_size)
        return with_in_channels(colour, variables, channels)[1]
    flat: dict[str, Any] = {}
    if fresh_head is not None:
        require(_is_key(fresh_head), "fresh_head", fresh_head, "a PRNG key, None")
        fresh = _fresh_entries(wanted, arrays)
        flat = _initial(model, fresh_head, [entry.ours for entry in fresh])
        wanted = [entry for entry in wanted if entry not in fresh]
        old = {entry.theirs for entry in fresh} | _old_head(arrays, wanted, spec, library.layout)
        arrays = {name: array for name, array in arrays.items() if name not in old}
    title = f"state_dict: does not fit {spec.name} as {library.name} names it"
    flat |= flat_variables(arrays, wanted, title, head=_head_of(wanted))
    _warn_of_arithmetic(spec, library, image_size)
    return traverse_util.unflatten_dict(flat, sep="/")


def without_counters(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a PyTorch state dict without counts of training steps."""
    counters = {name for name in arrays if name.endswith(COUNTER) or name == AVERAGED}
    return {name: array for name, array in arrays.items() if name not in counters}


def flat_variables(
    arrays: Mapping[str, np.ndarray],
    wanted: list[ArrayEntry],
    title: str,
    *,
    head: Set[str] = frozenset(),
) -> dict[str, jax.Array]:
    """Converts a library's arrays to our variables, by paths such as `params/stem/conv/kernel`.

    Args:
      arrays: the library's arrays.
      wanted: the entries of all arrays.
      title: beginning of the error message.
      head: the library's names of the classifier's arrays; see `_require_fit`.

    Raises:
      WeightsError: names or shapes differ, or a value is not legal.
    """
    shapes = {entry.theirs: entry.shape for entry in wanted}
    variances = {entry.theirs for entry in wanted if entry.ours.endswith(VARIANCE)}
    _require_fit(arrays, shapes, title, variances=variances, head=head)
    # A copy: on a CPU jnp.asarray may share memory with the caller's array, which can change.
    return {entry.ours: jnp.array(entry.to_ours(arrays[entry.theirs])) for entry in wanted}


def state_from_variables(
    variables: Mapping[str, Any],
    model: MobileNet,
    library: Library,
    image_size: Size | None = None,
) -> dict[str, np.ndarray]:
    """Converts our variables to the library's state dict; the inverse of `variables_from_state`.

    Arrays are new, contiguous and float32. PyTorch's step counters, which we do not keep, become
    int64 zeros.

    Raises:
      WeightsError: the library has no such network, or the variables are not the model's.
    """
    spec = _spec_of(model)
    wanted = library.entries(spec)
    state = state_of(variables, wanted, f"variables: do not fit {spec.name}", library.layout)
    _warn_of_arithmetic(spec, library, image_size)
    return state


def state_of(
    variables: Mapping[str, Any], wanted: list[ArrayEntry], title: str, layout: Layout
) -> dict[str, np.ndarray]:
    """Converts our variables to a library's state dict; the inverse of `flat_variables`.

    Args:
      variables: the model's `params` and `batch_stats`.
      wanted: the entries of all arrays.
      title: beginning of the error message.
      layout: layout of the library's framework.

    Raises:
      WeightsError: names or shapes differ, or a value is not legal.
    """
    if not isinstance(variables, Mapping):
        kind = type(variables).__name__
        raise WeightsError(f"variables: got {kind}, legal: the model's params and batch_stats")
    kept = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    flat = as_arrays(traverse_util.flatten_dict(kept, sep="/"))
    shapes = {entry.ours: entry.our_shape for entry in wanted}
    variances = {name for name in shapes if name.endswith(VARIANCE)}
    _require_fit(flat, shapes, title, variances=variances)
    state = {}
    for entry in wanted:
        state[entry.theirs] = entry.to_theirs(flat[entry.ours])
        if layout is TORCH and entry.ours.endswith(VARIANCE):
            norm = entry.theirs.removesuffix(TORCH.norm[-1])
            state[norm + COUNTER] = np.zeros((), np.int64)
    return state


def _takes_rgb(arrays: Mapping[str, np.ndarray], wanted: list[ArrayEntry], layout: Layout) -> bool:
    """Returns whether the state dict's first convolution takes images of 3 channels."""
    kernel = arrays.get(next(e.theirs for e in wanted if e.ours == f"params/{STEM_KERNEL}"))
    return kernel is not None and kernel.ndim == 4 and layout.channels_of(kernel.shape)[0] == RGB


def _is_key(value: object) -> bool:
    if not isinstance(value, jax.Array):
        return False
    typed = jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()
    return typed or (value.dtype == jnp.uint32 and value.ndim == 1)


def _spec_of(model: MobileNet) -> NetworkSpec:
    legal = "a MobileNet of mnet_jax.models"
    if not isinstance(model, MobileNet):
        raise WeightsError(f"model: got {type(model).__name__}, legal: {legal}")
    return model.spec


def _head_of(entries: list[ArrayEntry]) -> set[str]:
    """Returns the library's names of the classifier's arrays."""
    return {e.theirs for e in entries if e.ours.startswith(f"params/{CLASSIFIER}/")}


def _fresh_entries(wanted: list[ArrayEntry], arrays: Mapping[str, np.ndarray]) -> list[ArrayEntry]:
    """Returns the entries that are initialized at random for a fresh head.

    They are the classifier, and the hidden layer if the state dict has none that fits: Keras' V3
    without its top has no hidden layer, and a fine-tuned model may have one of another shape.
    """
    after_pool = [e for e in wanted if e.ours.partition("/")[2].startswith(AFTER_POOL)]
    classifier = [e for e in after_pool if e.theirs in _head_of(after_pool)]
    hidden = [e for e in after_pool if e not in classifier]
    if all(e.theirs in arrays and arrays[e.theirs].shape == e.shape for e in hidden):
        return classifier
    layer = hidden[0].theirs.rpartition(".")[0] or hidden[0].theirs.rpartition("/")[0]
    warnings.warn(
        f"state_dict: holds no {layer} {list(hidden[0].shape)}; with the fresh head this layer "
        "before the classifier is random too",
        stacklevel=4,
    )
    return after_pool


def _old_head(
    arrays: Mapping[str, np.ndarray], wanted: list[ArrayEntry], spec: NetworkSpec, layout: Layout
) -> set[str]:
    """Returns the names of all arrays of the state dict that belong to layers after the backbone.

    The layers may have any names. A state dict does not record the order of its layers, but the
    numbers of channels identify the head: the input of a layer of the head is the backbone's
    features, pooled or flattened, or the output of another layer of the head. A layer whose input
    has 1 channel, or the 3 channels of an image, is not in the head.
    """
    known = {entry.theirs for entry in wanted}
    others = {name: array.shape for name, array in arrays.items() if name not in known}
    kernels = {n: layout.channels_of(shape) for n, shape in others.items() if len(shape) in (2, 4)}
    widths, before = {spec.pooled, spec.features}, {0, 1, spec.stem.inputs}
    found: set[str] = set()
    while more := {
        name
        for name in kernels.keys() - found
        if (inputs := kernels[name][0]) not in before
        and (inputs in widths or inputs % spec.pooled == 0)
    }:
        found |= more
        widths |= {kernels[name][1] for name in more}
    return found | {n for n, shape in others.items() if len(shape) == 1 and shape[0] in widths}


def _require_fit(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    title: str,
    *,
    variances: Set[str],
    head: Set[str] = frozenset(),
) -> None:
    """Raises WeightsError, with all problems, if names or shapes differ or a value is not finite.

    Args:
      arrays: the given arrays.
      shapes: the expected shapes.
      title: beginning of the message.
      variances: names of the running variances, which must not be negative.
      head: names of the classifier's arrays; if only these have other shapes, the message suggests
        `fresh_head`.
    """
    missing = [f"{name} {list(shapes[name])}" for name in shapes if name not in arrays]
    extra = [f"{one_line(n)} {list(arrays[n].shape)}" for n in arrays if n not in shapes]
    common = [name for name in shapes if name in arrays]
    bad = [name for name in common if arrays[name].shape != shapes[name]]
    misshapen = [f"{n}: got {list(arrays[n].shape)}, legal: {list(shapes[n])}" for n in bad]
    whole = [f"{n}: got {arrays[n].dtype}" for n in common if arrays[n].dtype.kind != "f"]
    problems = {
        "missing": missing, "extra": extra, "misshapen": misshapen, "not floating": whole,
    }  # fmt: skip
    remedy = []
    if bad and head >= set(bad):
        remedy = ["for another number of classes pass a PRNG key as fresh_head"]
    if not any(problems.values()):
        infinite = [name for name in common if not np.isfinite(arrays[name]).all()]
        negative = [name for name in variances if (arrays[name] < 0).any()]
        problems = {"not finite": infinite, "negative variances": negative}
    clauses = [listing(kind, items) for kind, items in problems.items() if items]
    if clauses:
        everything = tuple(f"{kind}: {item}" for kind, items in problems.items() for item in items)
        raise WeightsError(f"{title}: {'; '.join(clauses + remedy)}", problems=everything)


def _warn_of_arithmetic(spec: NetworkSpec, library: Library, image_size: Size | None) -> None:
    """Warns if none of the library's networks of this version computes the same as `spec`."""
    if difference := describe_differences(spec, library.networks_like(spec), image_size):
        warnings.warn(
            f"model: the weights fit, but its {spec.name} does not compute what {library.name}'s "
            f"does, {difference}",
            stacklevel=4,
        )


def _initial(model: MobileNet, key: jax.Array, names: list[str]) -> dict[str, jax.Array]:
    """Returns the named variables, with the values that `model.init(key, ...)` gives them."""

    @jax.jit  # variables that are not returned are not computed
    def draw(key: jax.Array) -> dict[str, jax.Array]:
        images = jnp.zeros((1, RESOLUTION, RESOLUTION, model.spec.stem.inputs))
        flat = traverse_util.flatten_dict(model.init(key, images, train=False), sep="/")
        return {name: flat[name] for name in names}

    return draw(key)
