"""Contenders on PyTorch: the spec as a torch module, eager, compiled, or as frozen TorchScript.

Feature maps are channels last, PyTorch's fast layout. Everything runs on a CUDA device if PyTorch
sees one, else on the CPU. To compare CPUs, hide the device with an empty `CUDA_VISIBLE_DEVICES`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mnet_jax.architectures import (
    ConvNorm,
    FusedInvertedResidual,
    InvertedResidual,
    NetworkSpec,
    Separable,
)
from mnet_jax.architectures.shapes import Heads
from mnet_jax.architectures.spec import Attention as AttentionSpec
from mnet_jax.architectures.spec import Block
from mnet_jax.benchmark.cases import DepthwiseCase, LayerCase, NetworkCase, Run
from mnet_jax.benchmark.contenders import LEARNING_RATE, MOMENTUM
from mnet_jax.models.normalization import FIRST_LAYER_SCALE


def _gelu(inplace: bool) -> nn.Module:
    """Returns PyTorch's GELU, which cannot overwrite its input."""
    return nn.GELU()


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_swish": nn.Hardswish,
    "gelu": _gelu,
}


def _on_device(make: Callable[[Any], Run]) -> Callable[[Any], Run]:
    """Decorates a `Contender.maker` so that it uses the CUDA device, if PyTorch sees one.

    The maker's tensors are created on the device, and the functions that it returns wait until the
    device has finished.
    """
    if not torch.cuda.is_available():
        return make
    torch.backends.cudnn.benchmark = True  # tries kernels and takes the fastest, as XLA does

    @functools.wraps(make)
    def made(case: Any) -> Run:
        with torch.device("cuda"):
            run = make(case)

        def finished() -> None:
            run()
            torch.cuda.synchronize()

        return finished

    return made


@_on_device
def eager(case: NetworkCase | LayerCase | DepthwiseCase) -> Run:
    """Runs PyTorch eagerly, without compilation."""
    if isinstance(case, DepthwiseCase):
        return _depthwise(case)
    if isinstance(case, LayerCase):
        return _layer(case)
    return _network(case, lambda module, images: module)


@_on_device
def compiled(case: NetworkCase) -> Run:
    """Runs the network compiled by `torch.compile`; its default backend needs a C++ compiler."""
    return _network(case, lambda module, images: torch.compile(module))


@_on_device
def script(case: NetworkCase) -> Run:
    """Runs TorchScript: a traced module, frozen and optimized for inference."""
    return _network(case, _frozen)


def _frozen(module: nn.Module, images: torch.Tensor) -> Any:
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(module.eval(), images))
        return torch.jit.optimize_for_inference(traced)


def _network(case: NetworkCase, prepare: Callable[[nn.Module, torch.Tensor], Any]) -> Run:
    torch.manual_seed(0)
    images, labels = _batch(case)
    module: Any = Network(case.spec).to(memory_format=torch.channels_last)
    if case.program == "inference":
        module = prepare(module.eval(), images)

        def infer() -> None:
            with torch.inference_mode():
                module(images)

        return infer
    update = torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM)
    module = prepare(module.train(), images)
    loss_of = nn.CrossEntropyLoss()

    def step() -> None:
        update.zero_grad(set_to_none=True)
        loss_of(module(images), labels).backward()
        update.step()

    return step


def _batch(case: NetworkCase) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(case.batch_size, 3, case.resolution, case.resolution) * 2 - 1
    labels = torch.randint(case.spec.head.num_classes, (case.batch_size,))
    return images.to(memory_format=torch.channels_last), labels


def _depthwise(case: DepthwiseCase) -> Run:
    batch, height, width, channels = case.shape
    layer = nn.Conv2d(
        channels, channels, case.kernel, case.stride, case.kernel // 2, groups=channels, bias=False
    ).to(memory_format=torch.channels_last)
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    if case.derivative == "forward":

        def forward() -> None:
            with torch.inference_mode():
                layer(x)

        return forward
    x.requires_grad_()
    y = layer(x)
    wanted = [x] if case.derivative in ("input gradient", "both gradients") else []
    wanted += [layer.weight] if case.derivative != "input gradient" else []
    g = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, wanted, g, retain_graph=True)


def _layer(case: LayerCase) -> Run:
    """Runs normalization, activation and convolution; computes the input's mean and variance.

    A `LayerCase` asks for the mean and variance of the output. But PyTorch's batch normalization
    computes the mean and variance of its input, and so does this function.
    """
    if case.heads:
        return _attention(case, case.heads)
    batch, height, width, channels = case.shape
    groups = channels if case.kind == "depthwise" else 1
    conv = nn.Conv2d(
        channels,
        case.outputs,
        case.kernel,
        case.stride,
        case.kernel // 2,
        groups=groups,
        bias=False,
    )
    parts: list[nn.Module] = [conv]
    if case.activation:
        activations = [] if case.activation == "linear" else [ACTIVATIONS[case.activation](True)]
        parts = [nn.BatchNorm2d(channels), *activations, conv]
    layer = nn.Sequential(*parts).to(memory_format=torch.channels_last).train()
    x = torch.randn(batch, channels, height, width).to(memory_format=torch.channels_last)
    x.requires_grad_(case.activation is not None)
    if case.direction == "forward":
        return lambda: layer(x)
    y = layer(x)
    wanted = [*layer.parameters(), *([x] if case.activation else [])]
    g = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, wanted, g, retain_graph=True)


def _attention(case: LayerCase, heads: Heads) -> Run:
    """Runs the products of attention, or their gradients."""
    batch, height, width, channels = case.shape
    head_channels, keys = channels // heads.queries, math.prod(heads.key_size)
    query = torch.randn(batch, heads.queries, height * width, head_channels, requires_grad=True)
    key, value = (
        torch.randn(batch, heads.keys, keys, head_channels, requires_grad=True) for _ in range(2)
    )
    if case.direction == "forward":
        return lambda: nn.functional.scaled_dot_product_attention(query, key, value)
    y = nn.functional.scaled_dot_product_attention(query, key, value)
    g = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, [query, key, value], g, retain_graph=True)


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, activation: str, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts = [conv, nn.BatchNorm2d(outputs)]
    if activation != "linear":
        parts.append(ACTIVATIONS[activation](inplace=True))
    return nn.Sequential(*parts)


class SqueezeExcite(nn.Module):
    """The torch version of `models.SqueezeExcite`, on [b, c, h, w]."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeeze, 1), nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [b, c, h, w] to the same shape."""
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Shortcut(nn.Module):
    """Adds a module's input to its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [b, c, h, w] to the same shape."""
        return x + self.inner(x)


class LayerScale(nn.Module):
    """The torch version of the layer scales of `models`, on [b, c, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), FIRST_LAYER_SCALE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [b, c, h, w] to the same shape."""
        return x * self.scale


class Attention(nn.Module):
    """The torch version of `models.Attention` without shortcut, on [b, c, h, w]."""

    def __init__(self, block: AttentionSpec) -> None:
        super().__init__()
        self.heads, self.key_heads = block.heads, block.key_heads
        self.norm = nn.BatchNorm2d(block.inputs)
        self.query = nn.Conv2d(block.inputs, block.channels, 1, bias=False)
        self.key, self.value = self._context(block), self._context(block)
        self.output = nn.Conv2d(block.channels, block.outputs, 1, bias=False)

    @staticmethod
    def _context(block: AttentionSpec) -> nn.Module:
        n, own = block.inputs, block.key_heads * block.head_channels
        parts: list[nn.Module] = [nn.Conv2d(n, own, 1, bias=False)]
        if block.downsampling > 1:
            parts.insert(0, _conv(n, n, block.kernel, block.downsampling, "linear", n))
        return nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [b, c, h, w] to the same shape."""
        y = self.norm(x)
        query = self._heads_first(self.query(y), self.heads)
        key, value = (self._heads_first(of(y), self.key_heads) for of in (self.key, self.value))
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.output(y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))

    @staticmethod
    def _heads_first(x: torch.Tensor, heads: int) -> torch.Tensor:
        """Reshapes [b, heads * d, h, w] to [b, heads, h * w, d]."""
        return x.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3)


def _block(block: Block) -> nn.Module:
    if isinstance(block, AttentionSpec):
        scale = [LayerScale(block.outputs)] if block.layer_scale else []
        attention = nn.Sequential(Attention(block), *scale)
        return Shortcut(attention) if block.shortcut == "bottleneck" else attention
    act, stride = block.activation, block.stride
    if isinstance(block, ConvNorm):
        return _conv(block.inputs, block.outputs, block.kernel, stride, act)
    if isinstance(block, Separable):
        depthwise = _conv(block.inputs, block.inputs, block.kernel, stride, act, block.inputs)
        return nn.Sequential(depthwise, _conv(block.inputs, block.outputs, 1, 1, act))
    wide = block.expanded
    project = _conv(wide, block.outputs, 1, 1, block.bottleneck)
    if isinstance(block, FusedInvertedResidual):
        return nn.Sequential(_conv(block.inputs, wide, block.kernel, stride, act), project)
    assert isinstance(block, InvertedResidual)
    parts: list[nn.Module] = []
    if block.start_kernel:
        n, start = block.inputs, block.start_stride
        parts.append(_conv(n, n, block.start_kernel, start, "linear", n))
    if block.expands:
        parts.append(_conv(block.inputs, wide, 1, 1, act))
    if block.kernel:
        parts.append(_conv(wide, wide, block.kernel, stride, act, wide))
    if block.squeeze:
        parts.append(SqueezeExcite(wide, block.squeeze))
    body = nn.Sequential(*parts, project)
    if block.layer_scale:
        body.append(LayerScale(block.outputs))
    return Shortcut(body) if block.shortcut == "bottleneck" else body


class Network(nn.Module):
    """A spec as a torch module: maps images [b, 3, h, w] to logits."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        parts = [_block(spec.stem), *map(_block, spec.blocks)]
        if spec.head.conv:
            parts.append(_block(spec.head.conv))
        self.body = nn.Sequential(*parts)
        hidden = spec.head.hidden
        tail: list[nn.Module] = []
        if hidden:
            tail.append(nn.Linear(spec.pooled, hidden.channels, bias=not hidden.normalized))
            if hidden.normalized:
                tail.append(nn.BatchNorm1d(hidden.channels))
            tail.append(ACTIVATIONS[hidden.activation](inplace=True))
        tail += [nn.Dropout(spec.head.dropout), nn.Linear(spec.features, spec.head.num_classes)]
        self.tail = nn.Sequential(*tail)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits, [b, num_classes]."""
        return self.tail(self.body(images).mean((2, 3)))
