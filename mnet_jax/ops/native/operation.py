"""Operations that are a kernel in C++ where their program runs, and a composition elsewhere.

Which of the two is decided when a program is lowered, as it cannot be known before: what is traced
once may be lowered for this machine's CPU, for another platform, and for export. What is exported
may run where there are no kernels, so it has the composition whether or not they are compiled here.
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
    """Two functions of (what is static, *arrays) that return equal arrays of one type, as one.

    Args:
      name: in a printed program.
      kernel: what it is on the CPU of this process.
      composition: what it is elsewhere and in an exported program, composed of what JAX has.
    """
    primitive = Primitive(f"mnet_{name}")
    primitive.multiple_results = True
    # `axes` are those of every `vmap` that the operation went through, from the inside out.
    primitive.def_impl(partial(_run, kernel))
    primitive.def_abstract_eval(partial(_types, kernel, composition))
    mlir.register_lowering(primitive, partial(_lower, kernel, composition))
    batching.primitive_batchers[primitive] = partial(_batch, primitive)

    def compute(static: Hashable, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(primitive.bind(*arrays, static=static, axes=()))

    return compute


def _mapped(function: Function, static: Hashable, axes: Sequence[Any]) -> Function:
    mapped = partial(function, static)
    for of_one in axes:
        mapped = jax.vmap(mapped, in_axes=of_one)
    return mapped


def _run(kernel: Function, *arrays: jax.Array, static: Hashable, axes: Sequence[Any]) -> Any:
    """Outside of any program, where `jax.disable_jit` is."""
    return _mapped(kernel, static, axes)(*arrays)


def _types(
    kernel: Function, composition: Function, *types: Any, static: Hashable, axes: Sequence[Any]
) -> Any:
    """Of the results. The kernel's are found faster, but a foreign call's say only shapes."""
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
    # Not of JAX's public interface: without it, programs run as before and exporting one fails.
    exported = getattr(module.lowering_parameters, "for_export", False)
    here = platforms == ("cpu",) and not exported
    function = _mapped(kernel if here else composition, static, axes)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


def _batch(
    primitive: Primitive,
    arrays: Sequence[jax.Array],
    axes_now: Sequence[int | None],
    *,
    static: Hashable,
    axes: Sequence[Any],
) -> tuple[list[jax.Array], list[int]]:
    results = primitive.bind(*arrays, static=static, axes=(*axes, tuple(axes_now)))
    return results, [0] * len(results)
