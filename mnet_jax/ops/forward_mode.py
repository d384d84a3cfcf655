"""One-line errors for forward-mode derivatives of convolutions that have none.

A function with a custom reverse-mode gradient (`jax.custom_vjp`) has no forward mode. JAX's error
does not say which option of ours to change, and under `jit` it comes when the program is lowered,
far from the convolution. So each array that enters such a convolution passes through an identity,
whose tangent passes through a primitive of its own. Reverse mode transposes this primitive into the
identity again. Forward mode has to evaluate, lower or batch it, and gets the error.
"""

from typing import Any, NoReturn, TypeVar

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from mnet_jax.ops.types import Lowering

Array = jax.Array
T = TypeVar("T")


def without_forward_mode(arrays: T, lowering: Lowering) -> T:
    """Returns a pytree of arrays unchanged; their forward-mode derivatives raise a TypeError.

    Args:
      arrays: the arrays that enter a convolution.
      lowering: the lowering that computes it, for the message.
    """
    return jax.tree.map(lambda x: _identity.bind(x, lowering=lowering), arrays)


def _identity_jvp(primals: Any, tangents: Any, *, lowering: Lowering) -> tuple[Any, Any]:
    y = _identity.bind(*primals, lowering=lowering)
    (tangent,) = tangents
    if isinstance(tangent, ad.Zero):
        return y, tangent
    return y, _tangent.bind(tangent, lowering=lowering)


def _identity_batched(arrays: Any, axes: Any, *, lowering: Lowering) -> tuple[Array, Any]:
    return _identity.bind(*arrays, lowering=lowering), axes[0]


def _refuse(*_: Any, lowering: Lowering) -> NoReturn:
    raise TypeError(
        f"lowering: got '{lowering}', legal: 'grouped' for forward-mode derivatives "
        "(jvp, jacfwd, hessian, linearize)"
    )


_identity = Primitive("mnet_identity")
_identity.def_impl(lambda x, *, lowering: x)
_identity.def_abstract_eval(lambda x, *, lowering: x)
mlir.register_lowering(_identity, lambda context, x, *, lowering: [x])
batching.primitive_batchers[_identity] = _identity_batched
ad.primitive_jvps[_identity] = _identity_jvp

_tangent = Primitive("mnet_tangent")
_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda x, *, lowering: x)
mlir.register_lowering(_tangent, lambda context, x, *, lowering: _refuse(lowering=lowering))
batching.primitive_batchers[_tangent] = _refuse
ad.deflinear2(_tangent, lambda cotangent, x, *, lowering: [cotangent])
