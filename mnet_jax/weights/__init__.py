"""Conversion of weights between torchvision, timm, Keras or TF-slim and this package.

    model = models.mobilenet_v4_conv_small(dialect="timm")
    variables = weights.from_timm(weights.read("mobilenetv4.safetensors"), model)
    logits = model.apply(variables, images, train=False)

The logits equal the library's if the dialect of the model is the library's. `read` lists the file
formats. PyTorch and Keras are needed only where a docstring says so.

Each name is imported when it is first used, so commands can check names and files without JAX.

- `torchvision`: converts torchvision's weights;
- `torchvision_segmentation`: converts the weights of torchvision's networks for segmentation;
- `timm`: converts timm's weights;
- `timm_names`: the networks that timm's names mean;
- `timm_config`: the `config.json` that timm writes beside its weights;
- `keras`: converts the weights of `keras.applications`;
- `slim`: converts the weights of TF-slim, the authors' released code;
- `layouts`: each framework's names and axes for a layer's arrays;
- `conversion`: the part of the conversion that all libraries share;
- `arithmetic`: comparison of a network with a library's network that has the same weights;
- `hub`: files of the Hugging Face hub: references, downloads, their cache;
- `opening`: opens models by a local path or by a reference to the hub;
- `files`: reads other libraries' weight files;
- `hdf5`: reads Keras' files;
- `frozen_graph`: reads the constants of frozen TensorFlow graphs;
- `tensorflowjs`: reads the weights of TensorFlow.js' layers models;
- `arrays`: converts state dicts to NumPy arrays of limited size.
"""

from etils import epy

with epy.lazy_api_imports(globals()):
    from mnet_jax.weights.arrays import WeightsError
    from mnet_jax.weights.files import read
    from mnet_jax.weights.keras import from_keras, to_keras
    from mnet_jax.weights.slim import from_slim, to_slim
    from mnet_jax.weights.timm import from_timm, to_timm
    from mnet_jax.weights.timm_config import TimmConfig, read_timm_config
    from mnet_jax.weights.timm_names import TimmName, parse_timm_name, timm_spec
    from mnet_jax.weights.torchvision import from_torchvision, to_torchvision
    from mnet_jax.weights.torchvision_segmentation import (
        from_torchvision_segmentation,
        to_torchvision_segmentation,
    )

__all__ = [
    "TimmConfig",
    "TimmName",
    "WeightsError",
    "from_keras",
    "from_slim",
    "from_timm",
    "from_torchvision",
    "from_torchvision_segmentation",
    "parse_timm_name",
    "read",
    "read_timm_config",
    "timm_spec",
    "to_keras",
    "to_slim",
    "to_timm",
    "to_torchvision",
    "to_torchvision_segmentation",
]
