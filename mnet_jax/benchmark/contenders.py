"""The list of contenders: the cases and packages of each. This module imports no framework."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mnet_jax.benchmark.cases import (
    Case,
    CompileCase,
    DepthwiseCase,
    InputCase,
    LayerCase,
    NetworkCase,
    Run,
)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An implementation that can run cases, such as a library.

    Attributes:
      name: the contender's name in tables.
      packages: the packages that it needs in addition to this project's requirements.
      maker: `module:function` in `mnet_jax.benchmark`; the function takes a case and returns a
        function that runs it.
      takes: returns whether the contender can run a case.
      networks: how many networks the contender runs at once; its times are divided by this number.
    """

    name: str
    packages: tuple[str, ...]
    maker: str
    takes: Callable[[Case], bool]
    networks: int = 1

    @property
    def missing(self) -> tuple[str, ...]:
        """The required packages that are not installed."""
        return tuple(p for p in self.packages if importlib.util.find_spec(p) is None)

    def load(self) -> Callable[[Any], Run]:
        """Imports the contender's framework and returns its `maker` function."""
        module, _, function = self.maker.partition(":")
        return getattr(importlib.import_module(f"mnet_jax.benchmark.{module}"), function)


def _any(case: Case) -> bool:
    return True


def _on_jax(case: Case) -> bool:
    return not isinstance(case, InputCase)


def _in_keras(case: Case) -> bool:
    network = case.network if isinstance(case, CompileCase) else case
    return (
        isinstance(network, NetworkCase)
        and "_v4" not in network.spec.name
        and (network.spec.stem.stride == 2)
    )


def _in_torch(case: Case) -> bool:
    return isinstance(case, NetworkCase | DepthwiseCase | LayerCase)


def _is_depthwise(case: Case) -> bool:
    return isinstance(case, DepthwiseCase)


def _is_network(case: Case) -> bool:
    return isinstance(case, NetworkCase)


def _is_inference(case: Case) -> bool:
    return isinstance(case, NetworkCase) and case.program == "inference"


def _is_training(case: Case) -> bool:
    return isinstance(case, NetworkCase) and case.program == "training"


OURS = "ours"
SEEDS = 4  # of the contender that trains several networks together
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # of the SGD with which contenders train
CONTENDERS = (
    Contender(name=OURS, packages=(), maker="jax_contenders:ours", takes=_any),
    Contender(
        name=f"ours, {SEEDS} seeds under vmap",
        packages=(),
        maker="jax_contenders:seeds_together",
        takes=_is_training,
        networks=SEEDS,
    ),
    Contender(
        name="XLA convolutions", packages=(), maker="jax_contenders:xla_convolutions", takes=_on_jax
    ),
    Contender(
        name="Keras on JAX", packages=("keras",), maker="jax_contenders:keras", takes=_in_keras
    ),
    Contender(
        name="torch eager", packages=("torch",), maker="torch_contenders:eager", takes=_in_torch
    ),
    Contender(
        name="torch.compile",
        packages=("torch",),
        maker="torch_contenders:compiled",
        takes=_is_network,
    ),
    Contender(
        name="TorchScript, frozen",
        packages=("torch",),
        maker="torch_contenders:script",
        takes=_is_inference,
    ),
    Contender(
        name="ONNX Runtime",
        packages=("torch", "onnx", "onnxscript", "onnxruntime"),
        maker="deployed_contenders:onnx_runtime",
        takes=_is_inference,
    ),
    Contender(
        name="LiteRT",
        packages=("litert_converter", "ai_edge_litert"),
        maker="deployed_contenders:litert",
        takes=_is_inference,
    ),
)
QAT_BITS = 4
# Quantization-aware training; run only if they are named.
QUANTIZED = tuple(
    Contender(name=name, packages=(), maker=f"quantized_contenders:{function}", takes=_is_training)
    for name, function in (
        (f"ours, {QAT_BITS} bits", "ours"),
        ("shifted, float", "shifted_in_float"),
        (f"shifted, {QAT_BITS} bits", "shifted"),
    )
)
# Our lowerings one by one, for the table that `auto` follows.
LOWERINGS = tuple(
    Contender(name=name, packages=(), maker=f"jax_contenders:{name}", takes=_is_depthwise)
    for name in ("grouped", "shifted", "native")
)
BY_NAME = {contender.name: contender for contender in (*CONTENDERS, *QUANTIZED, *LOWERINGS)}
