"""Networks for dense tasks as Linen modules: a backbone of the family and a head for segmentation.

spec = architectures.lraspp(architectures.mobilenet_v3("large"), num_classes=19)
model = models.Segmenter(spec=spec)
variables = model.init(jax.random.key(0), jnp.zeros((1, 512, 512, 3)), train=False)
classes = model.apply(variables, images, train=False).argmax(-1)
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from mnet_jax.architectures import segmentation
from mnet_jax.architectures.segmentation import Pool, SegmentationSpec
from mnet_jax.models import layers
from mnet_jax.models.network import MobileNet
from mnet_jax.models.normalization import Setting
from mnet_jax.models.types import Remat
from mnet_jax.ops import Lowering, activate
from mnet_jax.validation import require

Array = jax.Array


class Segmenter(nn.Module):
    """Any network for semantic segmentation, built from its spec.

    The names of the parameters are those of `architectures.segmentation.walk`. The parameters of
    `backbone` are those of the network for classification up to its pool, so trained ones fit.

    Attributes:
      spec: the architecture.
      dtype: type of the computation; parameters, statistics and scores are float32.
      lowering: how convolutions are computed; see `mnet_jax.ops.depthwise_conv`.
      axis_name: pmap axis over which batch normalization averages its statistics, or None.
      frozen: number of leading parts of the backbone that are not trained; see `MobileNet`.
      remat: what the backward pass recomputes in the backbone; see `MobileNet`.
    """

    spec: SegmentationSpec
    dtype: Any = jnp.float32
    lowering: Lowering = "auto"
    axis_name: str | None = None
    frozen: int = 0
    remat: Remat = "none"

    def setup(self) -> None:
        shared: dict[str, Any] = {
            "dtype": self.dtype,
            "lowering": self.lowering,
            "axis_name": self.axis_name,
        }
        self.backbone = MobileNet(
            self.spec.backbone, frozen=self.frozen, remat=self.remat, **shared
        )
        setting = Setting(dialect=self.spec.dialect, **shared)
        head, classes = self.spec.head, self.spec.num_classes
        self.head: LRASPP | DeepLabV3 = (
            LRASPP(head, classes, setting)
            if isinstance(head, segmentation.LRASPP)
            else DeepLabV3(head, classes, setting)
        )

    def __call__(self, images: Array, train: bool) -> Array:
        """Returns the float32 scores [b, h, w, num_classes] of the pixels of images [b, h, w, c].

        Training (`train=True`) needs `mutable=["batch_stats"]` and, if the head has dropout,
        `rngs={"dropout": key}`.

        Raises:
          ValueError: the images have another shape or are too small for the network; or in training
            a layer would normalize a single value per channel.
        """
        if isinstance(self.head, LRASPP):
            blocks = (self.head.spec.low_block,)
            low, high = self.backbone.block_maps(images, blocks, train=train)
            scores = self.head(low, high, train=train)
        else:
            (high,) = self.backbone.block_maps(images, (), train=train)
            scores = self.head(high, train=train)
        return resize(scores.astype(jnp.float32), images.shape[1:3])


def with_trained_backbone(
    variables: Mapping[str, Any], trained: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a segmenter's variables with the backbone of a network for classification.

    The network's hidden layer and classifier are left out.

    Args:
      variables: the `params` and `batch_stats` of the segmenter.
      trained: those of a network of the backbone's shapes; its output stride does not matter.

    Raises:
      ValueError: the network has no such layer, or a layer of another shape.
    """
    flat, given = (traverse_util.flatten_dict(v, sep="/") for v in (variables, trained))
    for path, old in flat.items():
        kind, part, *rest = path.split("/")
        if part != "backbone":
            continue
        new = given.get("/".join((kind, *rest)))
        require(new is not None, "trained", "nothing", f"an array for {path}")
        assert new is not None
        require(new.shape == old.shape, f"trained {path}", new.shape, str(old.shape))
        flat[path] = new
    return traverse_util.unflatten_dict(flat, sep="/")


class LRASPP(nn.Module):
    """Maps two feature maps to scores; see `architectures.segmentation.LRASPP`."""

    spec: segmentation.LRASPP
    num_classes: int
    setting: Setting = Setting()

    @nn.compact
    def __call__(self, low: Array, high: Array, train: bool) -> Array:
        """Returns the scores [b, h, w, num_classes] of maps `low` [b, h, w, c] and `high`."""
        channels, setting = self.spec.channels, self.setting
        init = layers.kernel_init(setting.dialect.initializer, "pointwise")
        project = layers.ConvNorm(channels, activation="relu", setting=setting, name="project")
        scale = layers.PointwiseConv(channels, setting.dtype, init, setting.lowering, name="gate")
        gate = activate(scale(_pooled(high, self.spec.pool)), "sigmoid")
        x = project(high, train=train)
        x = resize(x * resize(gate, x.shape[1:3]), low.shape[1:3])
        fine = _classifier(self.num_classes, setting, name="low_classifier")
        coarse = _classifier(self.num_classes, setting, name="classifier")
        return fine(low) + coarse(x)


class DeepLabV3(nn.Module):
    """Maps a feature map to scores; see `architectures.segmentation.DeepLabV3`."""

    spec: segmentation.DeepLabV3
    num_classes: int
    setting: Setting = Setting()

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns the scores [b, h, w, num_classes] of a feature map [b, h, w, c]."""

        def layer(name: str, x: Array, *, kernel: int = 1, dilation: int = 1) -> Array:
            module = layers.ConvNorm(
                self.spec.channels, kernel=kernel, dilation=dilation, activation="relu",
                setting=self.setting, name=name,
            )  # fmt: skip
            return module(x, train=train)

        size = x.shape[1:3]
        branches = [layer("pointwise", x)]
        for i, rate in enumerate(self.spec.rates):
            branches.append(layer(f"atrous_{i}", x, kernel=3, dilation=rate))
        branches.append(resize(layer("pooled", _pooled(x, None)), size))
        x = layer("project", jnp.concatenate(branches, axis=-1))
        x = layers.Dropout(self.spec.dropout)(x, deterministic=not train)
        if self.spec.refines:
            x = layer("refine", x, kernel=3)
        return _classifier(self.num_classes, self.setting, name="classifier")(x)


def _classifier(num_classes: int, setting: Setting, *, name: str) -> layers.Dense:
    init = layers.kernel_init(setting.dialect.initializer, "pointwise")
    return layers.Dense(num_classes, init, setting=setting, name=name)


def _pooled(x: Array, pool: Pool | None) -> Array:
    """Returns the averages [b, h', w', c] over a pool's windows, or over the whole map."""
    if pool is None:
        return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)
    rows, columns = x.shape[1:3]
    windows = pool.windows((rows, columns))
    return nn.avg_pool(x.astype(jnp.float32), windows, pool.strides).astype(x.dtype)


def resize(x: Array, size: tuple[int, ...]) -> Array:
    """Resizes feature maps [b, h, w, c] to [b, *size, c] by bilinear interpolation.

    Pixels are squares, and positions beyond the outermost centers take the outermost values, as in
    PyTorch with `align_corners=False`. A map of one position becomes constant.
    """
    shape = (x.shape[0], *size, x.shape[3])
    return x if x.shape == shape else jax.image.resize(x, shape, "bilinear", antialias=False)
