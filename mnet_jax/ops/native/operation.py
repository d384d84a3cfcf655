"""JAX primitives that are a native kernel on this machine's CPU and a composition elsewhere.

The choice is made when a program is lowered. It cannot be made earlier: a function is traced once,
and may then be lowered for this CPU, for another platform, and for export. An exported program may
run where there are no kernels, so it always contains the composition.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from mnet_jax.ops.distribution import is_constant, is_distributed

Function = Callable[..., tuple[jax.Array, ...]]


def operation(name: str, kernel: Function, composition: Function) -> Function:
    """Combines two implementations of a function into one primitive.

    Both take (static properties, *arrays) and return tuples of arrays; shapes and dtypes agree.

    Args:
      name: of the primitive, after "mnet_", as printed programs show it.
      kernel: used on the CPU of this process.
      composition: used on other platforms and in exported programs; JAX's operations only.
    """
    primitive = Primitive(f"mnet_{name}")
    primitive.multiple_results = True
    # The parameter `axes` has the `in_axes` of each `vmap` around the operation, innermost first.
    primitive.def_impl(partial(_run, kernel))
    primitive.def_abstract_eval(partial(_types, kernel, composition))
    mlir.register_lowering(primitive, partial(_lower, kernel, composition))
    batching.primitive_batchers[primitive] = partial(_batch, primitive)

    def compute(static: Hashable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(primitive.bind(*arrays, static=static, axes=()))

    return compute


def _mapped(function: Function, static: Hashable, axes: Sequence[Any]) -> Function:
    mapped = partial(function, static)
    for in_axes in axes:
        mapped = jax.vmap(mapped, in_axes=in_axes)
    return mapped


def _run(kernel: Function, *arrays: jax.Array, static: Hashable, axes: Sequence[Any]) -> Any:
    """Evaluates the operation outside of any program, for example under `jax.disable_jit`."""
    return _mapped(kernel, static, axes)(*arrays)


def _types(
    kernel: Function, composition: Function, *types: Any, static: Hashable, axes: Sequence[Any]
) -> Any:
    """Returns the types of the results.

    Tracing the kernel is faster than tracing the composition. But a foreign function call cannot
    tell the shardings and symbolic sizes of its results.
    """
    plain = not any(is_distributed(each) or not is_constant(each.shape) for each in types)
    function = kernel if plain else composition
    return jax.make_jaxpr(_mapped(function, static, axes))(*types).out_avals


def _lower(
    kernel: Function,
    composition: Function,
    context: mlir.LoweringRuleContext,
    *arrays: Any,
    static: Hashable,
    axes: Sequence[Any],
) -> Any:
    module = context.module_context
    platforms = tuple(context.platforms or module.platforms)
    # JAX has no public interface for this. If a later version lacks this field, programs run as
    # before, but exporting one fails.
    exported = getattr(module.lowering_parameters, "for_export", False)
    native = platforms == ("cpu",) and not exported
    function = _mapped(kernel if native else composition, static, axes)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


def _batch(
    primitive: Primitive,
    arrays: Sequence[jax.Array],
    in_axes: Sequence[int | None],
    *,
    static: Hashable,
    axes: Sequence[Any],
) -> tuple[list[jax.Array], list[int]]:
    """Records a `vmap` in the operation's parameters."""
    results = primitive.bind(*arrays, static=static, axes=(*axes, tuple(in_axes)))
    return results, [0] * len(results)
