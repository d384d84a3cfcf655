"""Layers, blocks and networks in NumPy and float64, and their parameters counted."""

import math

import numpy as np

from mnet_jax.architectures import Attention, ConvNorm, FusedInvertedResidual, Separable
from mnet_jax.architectures.shapes import pad_amounts


def convolve(x, kernel, stride, padding, dilation=1):
    """[b, h, w, c] with [kh, kw, c] (depthwise) or [kh, kw, c, outputs], padded by a rule."""
    pads = [
        pad_amounts(padding, k, stride, n, dilation)
        for k, n in zip(kernel.shape[:2], x.shape[1:3], strict=True)
    ]
    return convolve_padded(x, kernel, stride, pads, dilation)


def convolve_padded(x, kernel, stride, pads, dilation):
    """A convolution, as `convolve`; `pads` are zeros (before, after) the rows and the columns."""
    reach = [dilation * (k - 1) + 1 for k in kernel.shape[:2]]
    holed = np.zeros((*reach, *kernel.shape[2:]))
    holed[::dilation, ::dilation] = kernel
    x = np.pad(np.asarray(x, np.float64), [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    subscripts = "bhwckl,klc->bhwc" if kernel.ndim == 3 else "bhwckl,klco->bhwo"
    return np.einsum(subscripts, windows, holed)


def hard_sigmoid(x):
    return np.minimum(np.maximum(x + 3, 0), 6) / 6


ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hard_swish": lambda x: x * hard_sigmoid(x),  # V3 paper, section 5.2
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,  # arXiv 1606.08415
}


def conv_norm(x, variables, name, dialect, *, stride=1, activation="relu6", dilation=1):
    """A convolution, normalization and activation; `name` is the path of the layer, "" for none.

    Without a kernel only the normalization, as of the input of attention.

    Variables without statistics are normalized by those of the batch, as in training.
    """
    params, statistics = variables["params"], variables.get("batch_stats")
    for part in filter(None, name.split("/")):
        params, statistics = params[part], statistics and statistics[part]
    kernel = np.asarray(params["conv"]["kernel"], np.float64) if "conv" in params else None
    if kernel is None:
        x = np.asarray(x, np.float64)
    elif kernel.ndim == 2:
        x = np.asarray(x, np.float64) @ kernel
    else:
        padding = dialect.depthwise_padding if kernel.ndim == 3 else dialect.padding
        x = convolve(x, kernel, stride, padding, dilation)
    if statistics:
        mean, var = (np.asarray(statistics["norm"][key], np.float64) for key in ("mean", "var"))
    else:
        mean, var = (moment(tuple(range(x.ndim - 1))) for moment in (x.mean, x.var))
    scale, bias = (np.asarray(params["norm"][key], np.float64) for key in ("scale", "bias"))
    return ACTIVATIONS[activation]((x - mean) / np.sqrt(var + dialect.norm_epsilon) * scale + bias)


def dense(x, params):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def squeeze_excite(x, params):
    """Mean, dense, ReLU, dense, hard sigmoid, product."""
    mean = np.asarray(x, np.float64).mean((1, 2))
    gate = hard_sigmoid(dense(np.maximum(dense(mean, params["reduce"]), 0), params["expand"]))
    return x * gate[:, None, None, :]


def inverted_residual(x, variables, spec, dialect, name="", skip=None):
    """The block of V2, V3 and V4: {name of the activation: value} inside, and the output.

    `skip` is what the block before adds to the expansion: a shortcut between two of them.
    """
    named, y = {}, x
    strides = {"start": 1 if spec.kernel else spec.stride, "depthwise": spec.stride}

    def layer(part, activation):
        return conv_norm(
            y, variables, f"{name}/{part}", dialect, stride=strides.get(part, 1),
            activation=activation, dilation=spec.dilation,
        )  # fmt: skip

    if spec.start_kernel:
        named["started"] = y = layer("start", "linear")
    if spec.expanded != spec.inputs:
        named["expanded"] = y = layer("expand", spec.activation)
    if skip is not None:
        y = y + skip
    if spec.kernel:
        named["filtered"] = y = layer("depthwise", spec.activation)
    if spec.squeeze:
        params = variables["params"][name] if name else variables["params"]
        named["weighed"] = y = squeeze_excite(y, params["squeeze_excite"])
    wide, named["projected"] = y, layer("project", spec.bottleneck)
    if spec.layer_scale:
        params = variables["params"][name] if name else variables["params"]
        named["projected"] = named["projected"] * np.asarray(params["layer_scale"], np.float64)
    output = named["projected"] + (x if spec.shortcut == "bottleneck" else 0)
    return named, output, wide if spec.shortcut == "expansion" else None


def attention(x, variables, spec, dialect, name=""):
    """The attention block, one head and one image at a time: what is named inside, and the output.

    Softmax of the products of queries and keys over the root of a head's channels (arXiv
    1706.03762, equation 1).
    """
    params = variables["params"][name] if name else variables["params"]
    named = {"normalized": conv_norm(x, variables, f"{name}/input", dialect, activation="linear")}

    def product(y, *path):
        tree = params
        for part in path:
            tree = tree[part]
        return y @ np.asarray(tree["kernel"], np.float64)

    named["queries"] = product(named["normalized"], "query")
    for of in ("key", "value"):
        y = named["normalized"]
        if spec.downsampling == 2:
            path = f"{name}/{of}/downsample"
            y = conv_norm(y, variables, path, dialect, stride=2, activation="linear")
            named[f"downsampled_{of}s"] = y
        named[f"{of}s"] = product(y, of, "project")
    named["attended"] = np.zeros_like(named["queries"])
    for image, head in np.ndindex(len(x), spec.heads):
        own = slice(head * spec.head_channels, (head + 1) * spec.head_channels)
        shared = slice(None) if spec.kind == "mqa" else own
        q, k, v = (
            named[of][image][..., channels].reshape(-1, spec.head_channels)
            for of, channels in (("queries", own), ("keys", shared), ("values", shared))
        )
        scores = q @ k.T / math.sqrt(spec.head_channels)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        named["attended"][image][..., own] = (weights @ v).reshape(*x.shape[1:3], -1)
    y = product(named["attended"], "output")
    if spec.layer_scale:
        y = y * np.asarray(params["layer_scale"], np.float64)
    named["projected"] = y
    return named, y + (x if spec.shortcut == "bottleneck" else 0)


def two_layers(x, variables, spec, dialect, name=""):
    """The block of V1 and V4's fused one: what is named inside, and the output."""
    if isinstance(spec, Separable):
        first, second, after, names = "depthwise", "pointwise", spec.activation, ("filtered",)
    else:
        first, second, after = "expand", "project", spec.bottleneck
        names = ("expanded", "projected")
    how = {"stride": spec.stride, "dilation": spec.dilation, "activation": spec.activation}
    wide = conv_norm(x, variables, f"{name}/{first}", dialect, **how)
    output = conv_norm(wide, variables, f"{name}/{second}", dialect, activation=after)
    return dict(zip(names, (wide, output), strict=False)), output


def network(spec, variables, images):
    """Logits, and every named activation as `MobileNet` names them."""
    dialect, skip, named, head = spec.dialect, None, {}, {}

    def convolution(x, block, name):
        how = {"stride": block.stride, "dilation": block.dilation, "activation": block.activation}
        return conv_norm(x, variables, name, dialect, **how)

    named["stem_output"] = x = convolution(images, spec.stem, "stem")
    for i, block in enumerate(spec.blocks):
        name, carried, skip = f"block_{i}", skip, None
        if isinstance(block, ConvNorm):
            x = convolution(x, block, name)
        elif isinstance(block, Attention):
            named[name], x = attention(x, variables, block, dialect, name)
        elif isinstance(block, Separable | FusedInvertedResidual):
            named[name], x = two_layers(x, variables, block, dialect, name)
        else:
            named[name], x, skip = inverted_residual(x, variables, block, dialect, name, carried)
        named[f"{name}_output"] = x
    params, hidden = variables["params"]["head"], spec.head.hidden
    if spec.head.conv:
        head["conv_output"] = x = convolution(x, spec.head.conv, "head/conv")
    head["pooled"] = x = x.mean((1, 2))
    if hidden and hidden.normalized:
        x = conv_norm(x, variables, "head/hidden", dialect, activation=hidden.activation)
    elif hidden:
        x = ACTIVATIONS[hidden.activation](dense(x, params["hidden"]))
    if hidden:
        head["hidden_output"] = x
    return dense(x, params["classifier"]), named | {"head": head}


class Count:
    """Kernels' elements, normalized channels and biases, added up from the blocks alone."""

    def __init__(self, spec):
        self.kernels = self.normalized = self.biases = self.scales = 0
        head = spec.head
        for block in [spec.stem, *spec.blocks, *([head.conv] if head.conv else [])]:
            self.block(block)
        features = head.conv.outputs if head.conv else spec.blocks[-1].outputs
        if head.hidden:
            layer = self.convolution if head.hidden.normalized else self.dense
            layer(features, head.hidden.channels)
            features = head.hidden.channels
        self.dense(features, head.num_classes)

    def convolution(self, fan_in, outputs):
        self.kernels += fan_in * outputs
        self.normalized += outputs

    def dense(self, inputs, outputs):
        self.kernels += inputs * outputs
        self.biases += outputs

    def attention(self, block):
        i, wide = block.inputs, block.heads * block.head_channels
        self.normalized += i
        if block.downsampling > 1:
            self.convolution(block.kernel**2, i)
            self.convolution(block.kernel**2, i)
        shared = block.head_channels if block.kind == "mqa" else wide
        self.kernels += i * wide + 2 * i * shared + wide * i

    def block(self, block):
        self.scales += block.outputs if getattr(block, "layer_scale", False) else 0
        if isinstance(block, Attention):
            self.attention(block)
            return
        i, o, k = block.inputs, block.outputs, block.kernel
        if isinstance(block, ConvNorm):
            self.convolution(k * k * i, o)
        elif isinstance(block, Separable):
            self.convolution(k * k, i)
            self.convolution(i, o)
        elif isinstance(block, FusedInvertedResidual):
            self.convolution(k * k * i, block.expanded)
            self.convolution(block.expanded, o)
        else:
            self.inverted(block, i, block.expanded, o)

    def inverted(self, block, inputs, expanded, outputs):
        if block.start_kernel:
            self.convolution(block.start_kernel**2, inputs)
        if expanded != inputs:
            self.convolution(inputs, expanded)
        if block.kernel:
            self.convolution(block.kernel**2, expanded)
        if block.squeeze:
            self.dense(expanded, block.squeeze)
            self.dense(block.squeeze, expanded)
        self.convolution(expanded, outputs)


def parameters(spec):
    """(trainable, statistics): kernels, biases, scales, two vectors a normalization in either."""
    count = Count(spec)
    trainable = count.kernels + 2 * count.normalized + count.biases + count.scales
    return trainable, 2 * count.normalized
