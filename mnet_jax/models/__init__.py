"""MobileNets as Linen modules, for any JAX code.

    model = models.mobilenet_v2(width=0.5, num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False)
    logits = model.apply(variables, images, train=False)

`model.spec` is the resolved architecture; `MobileNet(spec=...)` builds a network from any spec.

    model, variables, class_names, view = models.load("hf://timm/mobilenetv2_100.ra_in1k")

`load` and the other readers of models are those of `weights.opening`, for a model of the Hugging
Face hub may have to be converted.

Each name is imported when it is first used, so configs can import `models.types` without JAX.

- `factories`: the papers' networks;
- `network`: any network from its spec, and the paths of its activations;
- `dense`: networks for segmentation: a backbone and a head;
- `blocks`: the blocks of V1 to V4;
- `attention`: the attention block of V4's hybrids;
- `layers`: convolutions, dense layers, dropout, squeeze-and-excitation;
- `normalization`: batch normalization, and the settings that all layers share;
- `quantizers`: simulated quantization of kernels and activations;
- `fusing`: batch normalization folded into convolutions;
- `inputs`: weights for RGB images, adapted to other numbers of channels;
- `saved`: models in safetensors files;
- `types`: the `Literal` types of options.
"""

from etils import epy

from mnet_jax.models.types import Remat

with epy.lazy_api_imports(globals()):
    from mnet_jax.data.types import View
    from mnet_jax.models.attention import Attention
    from mnet_jax.models.blocks import DepthwiseSeparable, FusedInvertedResidual, InvertedResidual
    from mnet_jax.models.dense import Segmenter, with_trained_backbone
    from mnet_jax.models.factories import (
        mobilenet_v1,
        mobilenet_v2,
        mobilenet_v3,
        mobilenet_v3_large,
        mobilenet_v3_small,
        mobilenet_v4,
        mobilenet_v4_conv_large,
        mobilenet_v4_conv_medium,
        mobilenet_v4_conv_small,
        mobilenet_v4_hybrid_large,
        mobilenet_v4_hybrid_medium,
    )
    from mnet_jax.models.fusing import fuse
    from mnet_jax.models.inputs import with_in_channels
    from mnet_jax.models.layers import (
        ConvNorm,
        Dense,
        DepthwiseConv,
        Dropout,
        DropPath,
        FullConv,
        PointwiseConv,
        SqueezeExcite,
    )
    from mnet_jax.models.network import ActivationPath, MobileNet, activation_paths
    from mnet_jax.models.normalization import Setting
    from mnet_jax.models.saved import FILE_NAME, SavedModel, SavedModelError, save
    from mnet_jax.weights.opening import digest, is_plain, load, pinned, read_spec, read_view

__all__ = [
    "FILE_NAME",
    "ActivationPath",
    "Attention",
    "ConvNorm",
    "Dense",
    "DepthwiseConv",
    "DepthwiseSeparable",
    "DropPath",
    "Dropout",
    "FullConv",
    "FusedInvertedResidual",
    "InvertedResidual",
    "MobileNet",
    "PointwiseConv",
    "Remat",
    "SavedModel",
    "SavedModelError",
    "Segmenter",
    "Setting",
    "SqueezeExcite",
    "View",
    "activation_paths",
    "digest",
    "fuse",
    "is_plain",
    "load",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v4",
    "mobilenet_v4_conv_large",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_hybrid_large",
    "mobilenet_v4_hybrid_medium",
    "pinned",
    "read_spec",
    "read_view",
    "save",
    "with_in_channels",
    "with_trained_backbone",
]
