"""The native kernels as functions of JAX arrays (foreign function calls), and as primitives.

The order of the arrays and the names of the attributes are those of the structs in `handlers.h` and
in the `.cc` files. `operation` makes a primitive that uses a kernel where the kernel can run, and
the reference, in JAX operations, elsewhere.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from mnet_jax.architectures.spec import Activation
from mnet_jax.ops.distribution import is_constant, is_distributed
from mnet_jax.ops.layer import InvertedResidualLayer, InvertedResidualOperands, Layer
from mnet_jax.ops.shifted import Geometry

Array = jax.Array
Outputs = tuple[Array, Array, Array]
Attributes = dict[str, np.generic]
Function = Callable[..., tuple[Array, ...]]  # its arguments: (static properties, *arrays)


_DEPTHWISE_SIZES = (3, 5)


_ACTIVATIONS = {None: -1, "linear": 0, "relu": 1, "relu6": 2, "hard_swish": 3}  # as in vectors.h


# The kind of convolution by the number of axes of its kernel: panels (`ops.panels`) have one axis,
# the other kernels are [c, n], [k, k, c] and [kh, kw, c, n].
_KINDS = {1: "pointwise", 2: "pointwise", 3: "depthwise", 4: "full"}


class ForwardOperands(NamedTuple):
    """The arrays that a forward kernel takes, float32.

    Attributes:
      x: [..., c]; [b, h, w, c] if the convolution is not pointwise.
      norm: [3, c]: mean, scale, bias; empty if x is not normalized.
      kernel: pointwise [c, n] or its panels (`panels.pack`), depthwise [k, k, c] or full
        [kh, kw, c, n].
      bias: added to the convolution's output, [n]; empty if nothing is added.
    """

    x: Array
    norm: Array
    kernel: Array
    bias: Array


class BackwardOperands(NamedTuple):
    """The arrays that a backward kernel takes, float32.

    The complete gradient of y is `gradient + offset + slope * (y - mean)`.

    Attributes:
      x: as in `ForwardOperands`.
      norm: as in `ForwardOperands`.
      kernel: as in `ForwardOperands`, not in panels.
      gradient: the part of y's gradient that does not pass through y's statistics, [..., n].
      y: the result of `forward`, [..., n].
      correction: [3, n], the rows mean, offset and slope: the gradient through y's statistics.
    """

    x: Array
    norm: Array
    kernel: Array
    gradient: Array
    y: Array
    correction: Array


def activates(activation: Activation) -> bool:
    """Whether the native kernels compute an activation function; if not, JAX has to compute it."""
    return activation in _ACTIVATIONS


def supports(kernel: Array, geometry: Geometry | None) -> bool:
    """Whether there is a native kernel for a convolution.

    Args:
      kernel: as in `ForwardOperands`.
      geometry: stride, padding and dilation along rows and columns; None if pointwise.
    """
    if geometry is None:
        return True
    rows, columns = geometry
    plain = rows.stride == columns.stride and rows.dilation == columns.dilation == 1
    square = rows.kernel == columns.kernel
    return plain and (kernel.ndim == 4 or (square and rows.kernel in _DEPTHWISE_SIZES))


def forward(layer: Layer, x: Array, norm: Array, kernel: Array) -> Outputs:
    """Computes the convolution of `z = act((x - mean) * scale + bias)`.

    Args:
      layer: its activation is act; `supports` must hold for its geometry.
      x: as in `ForwardOperands`.
      norm: as in `ForwardOperands`.
      kernel: as in `ForwardOperands`, not in panels.

    Returns:
      y [..., n], and its mean and biased variance over all axes but the last, [n] each; the last
      two are empty if the layer has no statistics.
    """
    operands = ForwardOperands(x, norm, kernel, bias=jnp.zeros(0, jnp.float32))
    return _forward(layer, operands, kernel.shape[-1], layer.activation, None)


def finish(layer: Layer, x: Array, kernel: Array, bias: Array) -> Array:
    """Computes `act(y + bias)`, where y is the convolution of x.

    Args:
      layer: its activation is act; `supports` must hold for its geometry; it has no statistics.
      x: as in `ForwardOperands`.
      kernel: as in `ForwardOperands`.
      bias: float32 [n].

    Returns:
      [..., n].
    """
    operands = ForwardOperands(x, jnp.zeros((3, 0), jnp.float32), kernel, bias)
    return _forward(layer, operands, bias.shape[0], None, layer.activation)[0]


def backward(layer: Layer, operands: BackwardOperands) -> Outputs:
    """Computes the gradients of x, norm and kernel.

    The gradients of x and norm are empty if the layer is a full convolution without an
    `input_gradient`.
    """
    kind = _KINDS[operands.kernel.ndim]
    attributes = _window_attributes(layer.geometry)
    attributes["input_activation"] = _activation_attribute(layer.activation)
    shapes = [_f32(*array.shape) for array in operands[:3]]
    if kind == "full":
        attributes["input_gradient"] = np.bool_(layer.input_gradient)
        if not layer.input_gradient:
            shapes[:2] = [_f32(0), _f32(0)]
    return _call(f"mnet_{kind}_backward", tuple(shapes))(*operands, **attributes)


def inverted_residual(block: InvertedResidualLayer, operands: InvertedResidualOperands) -> Array:
    """Computes expansion, depthwise convolution and projection, each with bias and activation.

    Args:
      block: `supports` must hold for its geometry.
      operands: float32; the pointwise kernels are panels, as `panels.pack` makes them.

    Returns:
      [b, h', w', n].
    """
    images, outputs = operands.x.shape[0], operands.project_bias.shape[0]
    shape = _f32(images, *(axis.output for axis in block.geometry), outputs)
    expand, depthwise, project = map(_activation_attribute, block.activations)
    return _call("mnet_inverted_forward", shape)(
        *operands,
        expand_activation=expand,
        depthwise_activation=depthwise,
        project_activation=project,
        **_window_attributes(block.geometry),
    )


def _forward(
    layer: Layer,
    operands: ForwardOperands,
    outputs: int,
    input_activation: Activation | None,
    output_activation: Activation | None,
) -> Outputs:
    positions = operands.x.shape[:-1]
    if layer.geometry:
        positions = (positions[0], *(axis.output for axis in layer.geometry))
    y = _f32(*positions, outputs)
    channels = _f32(outputs if layer.statistics else 0)
    name = f"mnet_{_KINDS[operands.kernel.ndim]}_forward"
    return _call(name, (y, channels, channels))(
        *operands,
        input_activation=_activation_attribute(input_activation),
        output_activation=_activation_attribute(output_activation),
        statistics=np.bool_(layer.statistics),
        **_window_attributes(layer.geometry),
    )


def _call(name: str, shapes: Any) -> Any:
    return jax.ffi.ffi_call(name, shapes, vmap_method="sequential")


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _activation_attribute(activation: Activation | None) -> np.int64:
    return np.int64(_ACTIVATIONS[activation])


def _window_attributes(geometry: Geometry | None) -> Attributes:
    """Returns the stride and the padding, which the shapes of the arrays do not determine."""
    if geometry is None:
        return {}
    rows, columns = geometry
    window = {"stride": rows.stride, "top": rows.low, "left": columns.low}
    return {name: np.int64(value) for name, value in window.items()}


def operation(name: str, kernel: Function, reference: Function) -> Function:
    """Combines two implementations of a function into one primitive.

    Both take (static properties, *arrays) and return tuples of arrays of equal shapes and dtypes.

    The primitive chooses one of them when a program is lowered, not earlier: a function is traced
    once, and may then be lowered for this CPU, for another platform, and for export. An exported
    program may run where there are no kernels, so it always contains the reference.

    Args:
      name: name of the primitive, without the prefix "mnet_".
      kernel: used on the CPU of this process.
      reference: used on other platforms and in exported programs; has only JAX operations.
    """
    primitive = Primitive(f"mnet_{name}")
    primitive.multiple_results = True
    # The parameter `axes` has the `in_axes` of each `vmap` around the operation, innermost first.
    primitive.def_impl(partial(_run, kernel))
    primitive.def_abstract_eval(partial(_types, kernel, reference))
    mlir.register_lowering(primitive, partial(_lower, kernel, reference))
    batching.primitive_batchers[primitive] = partial(_batch, primitive)

    def compute(static: Hashable, *arrays: Array) -> tuple[Array, ...]:
        return tuple(primitive.bind(*arrays, static=static, axes=()))

    return compute


def _mapped(function: Function, static: Hashable, axes: Sequence[Any]) -> Function:
    mapped = partial(function, static)
    for in_axes in axes:
        mapped = jax.vmap(mapped, in_axes=in_axes)
    return mapped


def _run(kernel: Function, *arrays: Array, static: Hashable, axes: Sequence[Any]) -> Any:
    """Runs the kernel outside of any jit, for example under `jax.disable_jit`."""
    return _mapped(kernel, static, axes)(*arrays)


def _types(
    kernel: Function, reference: Function, *types: Any, static: Hashable, axes: Sequence[Any]
) -> Any:
    """Returns the types of the results.

    Tracing the kernel is faster than tracing the reference. But JAX cannot derive shardings and
    symbolic sizes of the results of a foreign function call: with these, the reference is traced.
    """
    plain = not any(is_distributed(each) or not is_constant(each.shape) for each in types)
    function = kernel if plain else reference
    return jax.make_jaxpr(_mapped(function, static, axes))(*types).out_avals


def _lower(
    kernel: Function,
    reference: Function,
    context: mlir.LoweringRuleContext,
    *arrays: Any,
    static: Hashable,
    axes: Sequence[Any],
) -> Any:
    module = context.module_context
    platforms = tuple(context.platforms or module.platforms)
    # JAX has no public interface that says whether a program is exported. If a later version lacks
    # this field, programs run as before, but cannot be exported.
    exported = getattr(module.lowering_parameters, "for_export", False)
    native = platforms == ("cpu",) and not exported
    function = _mapped(kernel if native else reference, static, axes)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


def _batch(
    primitive: Primitive,
    arrays: Sequence[Array],
    in_axes: Sequence[int | None],
    *,
    static: Hashable,
    axes: Sequence[Any],
) -> tuple[list[Array], list[int]]:
    """Adds the `in_axes` of a `vmap` to the primitive's parameter `axes`."""
    results = primitive.bind(*arrays, static=static, axes=(*axes, tuple(in_axes)))
    return results, [0] * len(results)
