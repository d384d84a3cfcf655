"""Recipes by name, for commands such as `python -m experiments.train --recipe v2-imagenet`.

A recipe is data: a network, a data set and training settings. Flags of the command line replace
single values, including the data set.

All recipes differ from their sources in two points. The papers trained asynchronously, on up to 16
workers with stale gradients; these recipes are synchronous, with the batch size of one worker.
TensorFlow's schedules count steps from the start of training; those here count from the end of the
warm-up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from mnet_jax.architectures import (
    NetworkSpec,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
)
from mnet_jax.config import (
    ARM_CLASSES,
    AdamW,
    Arm,
    Cosine,
    DataConfig,
    Exponential,
    RmsProp,
    Sgd,
    TrainingConfig,
)


@dataclass(frozen=True, kw_only=True)
class RecipeNotes:
    """The description of a recipe, as `--list` prints it.

    Attributes:
      title: the network, and the images on which it is trained.
      source: the paper and section, or the code, that the recipe follows, and the differences.
      cost: multiply-adds of all steps; a step counts as three forward passes.
      target: the accuracy to expect: top-1 on ImageNet's validation images with one central crop,
        unless stated otherwise.
    """

    title: str
    source: str
    cost: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeNotes):
    """A recipe with fixed values.

    Attributes:
      network: returns the network's spec, given `num_classes`.
      data: the data set and its preprocessing.
      training: the training settings.
    """

    network: Callable[..., NetworkSpec]
    data: DataConfig
    training: TrainingConfig

    @property
    def arm(self) -> Arm:
        """The arm that the recipe trains."""
        spec = self.network(num_classes=ARM_CLASSES)
        return Arm(spec=spec, data=self.data, training=self.training)


@dataclass(frozen=True, kw_only=True)
class SizedRecipe(RecipeNotes):
    """A recipe whose batch size, epochs and learning rate depend on the number of training images.

    Attributes:
      fit: maps an arm and the number of training images to the arm to train. The given arm
        determines the data set and the network.
    """

    fit: Callable[[Arm, int], Arm]


# The papers' BatchNorm momentum needs tens of thousands of steps; short recipes have only hundreds
# to thousands.
SHORT_NORM_MOMENTUM = 0.9
CLOTHES = DataConfig(name="fashion_mnist", resolution=28, batch_size=128, augmentation="shift_flip")
PHOTOGRAPHS = DataConfig(
    name="imagenet2012",
    resolution=224,
    batch_size=96,
    validation_fraction=0.01,  # ours: the papers held out no images, or do not mention any
    augmentation="resized_crop_flip",
)
# torchvision and the Model Garden normalize by the mean and standard deviation of each channel.
NORMALIZED = replace(PHOTOGRAPHS, scaling="imagenet")
# V2 paper, section 6.1, and the released code: label smoothing 0.1, decay of the weights' moving
# averages 0.9999.
RELEASED = TrainingConfig(
    epochs=200,
    optimizer=RmsProp(),
    learning_rate=0.045,
    schedule=Exponential(factor=0.98, every_epochs=1.0),
    warmup_epochs=0.0,
    ema_decay=0.9999,
)
# V3 paper, section 6.1.1; `source` of the recipe says which values are not from it.
V3_RELEASED = replace(
    RELEASED, epochs=600, optimizer=RmsProp(epsilon=0.002), learning_rate=0.1,
    schedule=Exponential(factor=0.99, every_epochs=3.0), weight_decay=1e-5,
)  # fmt: skip
# For V2; V1 has another factor in the schedule. Keras starts the average of squares at zero.
MODEL_GARDEN = TrainingConfig(
    epochs=500, optimizer=RmsProp(epsilon=0.002, initial_square=0.0), learning_rate=0.256,
    schedule=Exponential(factor=0.96, every_epochs=2.5), warmup_epochs=5.0,
    weight_decay=1e-5, ema_decay=0.0, precision="bfloat16",
)  # fmt: skip


def _v4_conv_small(num_classes: int) -> NetworkSpec:
    """Makes MobileNet V4 Conv-S with the dropout and batch normalization that its authors used."""
    spec = mobilenet_v4("conv_small", num_classes=num_classes, dropout=0.3, norm_momentum=0.95)
    return replace(spec, dialect=replace(spec.dialect, norm_epsilon=1e-6))


def _fine_tuning(start: Arm, train_images: int) -> Arm:
    """Returns the arm for the recipe `fine-tuning`; `SIZED` has the sources of its numbers."""
    batch_size = 2 ** min(int(math.log2(train_images)), 5)
    data = replace(start.data, batch_size=batch_size)
    steps = data.steps_per_epoch(train_images)
    momentum = max(1 - 10 / steps, SHORT_NORM_MOMENTUM)
    return replace(
        start,
        spec=_with_norm_momentum(start.spec, momentum),
        data=data,
        training=TrainingConfig(
            epochs=_between(10, math.ceil(500 / steps), 50), optimizer=Sgd(nesterov=True),
            learning_rate=0.001 * batch_size / 4, schedule=Cosine(), label_smoothing=0.0,
            ema_decay=0.0,
        ),
    )  # fmt: skip


def _small_set(start: Arm, train_images: int) -> Arm:
    """Returns the arm for the recipe `small-set`; `SIZED` has the sources of its numbers."""
    batch_size = start.data.batch_size
    while batch_size > max(train_images, 1):
        batch_size //= 2
    data = replace(start.data, batch_size=batch_size)
    epochs = math.ceil(5000 / data.steps_per_epoch(train_images))
    rate = start.training.learning_rate * batch_size / start.data.batch_size
    return replace(
        start,
        spec=_with_norm_momentum(start.spec, SHORT_NORM_MOMENTUM),
        data=data,
        training=replace(
            start.training, epochs=_between(30, epochs, start.training.epochs),
            learning_rate=rate, schedule=Cosine(), warmup_epochs=1.0, ema_decay=0.99,
        ),
    )  # fmt: skip


def _between(least: int, value: int, most: int) -> int:
    return min(max(value, least), most)


def _with_norm_momentum(spec: NetworkSpec, momentum: float) -> NetworkSpec:
    return replace(spec, dialect=replace(spec.dialect, norm_momentum=momentum))


RECIPES: dict[str, Recipe] = {
    "v2-digits": Recipe(
        title="MobileNet V2 at half width on scikit-learn's digits, 1,797 images of 8 x 8 pixels.",
        source="ours. The learning rate 0.03 was chosen among 0.01, 0.03 and 0.1 by validation "
        "accuracy, for linear and ReLU6 bottlenecks together, with three seeds that no table uses. "
        "The mean accuracies after 24 epochs were 96.4, 97.4 and 82.3 % with linear bottlenecks, "
        "and 92.6, 93.1 and 9.0 % with ReLU6.",
        cost="4.9e11 multiply-adds",
        target="none; README.md has the accuracy reached.",
        network=partial(
            mobilenet_v2, width=0.5, norm_momentum=SHORT_NORM_MOMENTUM, input_stride=1
        ),
        data=DataConfig(name="digits", resolution=16, batch_size=32, augmentation="shift"),
        training=TrainingConfig(
            epochs=20, optimizer=Sgd(), learning_rate=0.03, schedule=Cosine(), ema_decay=0.98
        ),
    ),
    "v2-fashion-mnist": Recipe(
        title="MobileNet V2 at half width on Fashion-MNIST, two epochs.",
        source="ours. The learning rate 0.1 was chosen among 0.03 and 0.1 by validation accuracy, "
        "for linear and ReLU6 bottlenecks together. The mean accuracies of two seeds were 85.1 and "
        "86.2 % with linear bottlenecks, and 80.5 and 82.2 % with ReLU6.",
        cost="2.3e12 multiply-adds",
        target="none; ablations start from it.",
        network=partial(
            mobilenet_v2, width=0.5, norm_momentum=SHORT_NORM_MOMENTUM, input_stride=2
        ),
        data=CLOTHES,
        training=TrainingConfig(epochs=2, optimizer=Sgd(), learning_rate=0.1, schedule=Cosine()),
    ),
    "v2-fashion-mnist-long": Recipe(
        title="MobileNet V2 on Fashion-MNIST, two hours of training on two cores.",
        source="ours. The learning rate, the weight decay and Nesterov momentum are those of wide "
        "residual networks on images of about this size (arXiv 1605.07146, section 3).",
        cost="4.3e14 multiply-adds",
        target="94.5 % of the test images; docs/results has the accuracy reached.",
        network=partial(mobilenet_v2, norm_momentum=SHORT_NORM_MOMENTUM, input_stride=1),
        data=replace(CLOTHES, validation_fraction=0.02),
        training=TrainingConfig(
            epochs=33, optimizer=Sgd(nesterov=True), learning_rate=0.1, schedule=Cosine(),
            weight_decay=5e-4, ema_decay=0.999,
        ),
    ),
    "v1-imagenet": Recipe(
        title="MobileNet V1 as published.",
        source='arXiv 1704.04861, section 3.2: "similar to Inception V3" (arXiv 1512.00567, '
        "section 8: 100 epochs of RMSProp, the learning rate times 0.94 every two epochs), but "
        '"less regularization", so labels are not smoothed. Values that neither paper gives are '
        "those of `v2-imagenet`. Inception V3's gradient clipping at 2.0 is left out.",
        cost="2.2e17 multiply-adds",
        target="70.6 % (Table 4).",
        network=mobilenet_v1,
        data=PHOTOGRAPHS,
        training=replace(
            RELEASED, epochs=100, schedule=Exponential(factor=0.94, every_epochs=2.0),
            label_smoothing=0.0,
        ),
    ),
    "v1-imagenet-model-garden": Recipe(
        title="MobileNet V1 as TensorFlow's Model Garden trains it.",
        source="tensorflow/models, official/vision, imagenet_mobilenetv1_tpu.yaml.",
        cost="1.1e18 multiply-adds",
        target="72.33 %.",
        network=partial(mobilenet_v1, dropout=0.2, norm_momentum=0.997),
        data=replace(NORMALIZED, batch_size=4096),
        training=replace(MODEL_GARDEN, schedule=Exponential(factor=0.94, every_epochs=2.5)),
    ),
    "v2-imagenet": Recipe(
        title="MobileNet V2 as published.",
        source="arXiv 1801.04381, section 6.1, and the released code. The paper does not give the "
        "number of epochs; 200 is ours.",
        cost="2.3e17 multiply-adds",
        target="72.0 % (Table 4).",
        network=mobilenet_v2,
        data=PHOTOGRAPHS,
        training=RELEASED,
    ),
    "v2-imagenet-torchvision": Recipe(
        title="MobileNet V2 as torchvision trained its first weights, on eight devices with 32 "
        "images each.",
        source="pytorch/vision, references/classification/README.md.",
        cost="3.4e17 multiply-adds",
        target="71.88 % (IMAGENET1K_V1).",
        network=partial(mobilenet_v2, dialect="torchvision"),
        data=replace(NORMALIZED, batch_size=256),
        training=replace(
            RELEASED, epochs=300, optimizer=Sgd(), label_smoothing=0.0, ema_decay=0.0,
            decay_depthwise=True,
        ),
    ),
    "v2-imagenet-model-garden": Recipe(
        title="MobileNet V2 as TensorFlow's Model Garden trains it.",
        source="tensorflow/models, official/vision, imagenet_mobilenetv2_tpu.yaml.",
        cost="5.7e17 multiply-adds",
        target="72.72 %.",
        network=mobilenet_v2,
        data=replace(NORMALIZED, batch_size=4096),
        training=MODEL_GARDEN,
    ),
    "v3-large-imagenet": Recipe(
        title="MobileNet V3-Large as published.",
        source="arXiv 1905.02244, section 6.1.1. The paper gives neither the number of epochs nor "
        "epsilon: 600 epochs are torchvision's number, and large batches need an epsilon of 0.002.",
        cost="4.9e17 multiply-adds",
        target="75.2 % (Table 3).",
        network=partial(mobilenet_v3, "large"),
        data=replace(PHOTOGRAPHS, batch_size=4096),
        training=V3_RELEASED,
    ),
    "v3-large-imagenet-torchvision": Recipe(
        title="MobileNet V3-Large as torchvision trained its first weights, on eight devices with "
        "128 images each.",
        source="pytorch/vision, references/classification/README.md. torchvision adds epsilon "
        "(0.0316) outside the root; here it is added inside, so it is squared (0.001). torchvision "
        "averaged its last checkpoints; this recipe does not. torchvision's random erasing fills "
        "up to a third of the image with the mean, ours up to two fifths with noise.",
        cost="4.9e17 multiply-adds",
        target="74.04 % (IMAGENET1K_V1).",
        network=partial(mobilenet_v3, "large", dialect="torchvision"),
        data=replace(NORMALIZED, batch_size=1024, policy="autoaugment", erasing=0.2),
        training=replace(
            RELEASED, epochs=600, optimizer=RmsProp(epsilon=0.001, initial_square=0.0),
            learning_rate=0.064, schedule=Exponential(factor=0.973, every_epochs=2.0),
            weight_decay=1e-5, decay_depthwise=True, label_smoothing=0.0, ema_decay=0.0,
        ),
    ),
    "v3-large-imagenet-model-garden": Recipe(
        title="MobileNet V3-Large as TensorFlow's Model Garden trains it.",
        source="tensorflow/models, official/vision, imagenet_mobilenetv3large_tpu.yaml. The "
        "warm-up is that of the file's experiment, mobilenet_imagenet.",
        cost="5.8e17 multiply-adds",
        target="75.7 %.",
        network=partial(mobilenet_v3, "large", norm_momentum=0.997),
        data=replace(NORMALIZED, batch_size=4096, policy="autoaugment"),
        training=TrainingConfig(
            epochs=700, optimizer=AdamW(epsilon=1e-7), learning_rate=0.004, schedule=Cosine(),
            warmup_epochs=5.0, weight_decay=0.1, decay_depthwise=True, ema_decay=0.0,
            precision="bfloat16",
        ),
    ),
    "v3-small-imagenet": Recipe(
        title="MobileNet V3-Small as published.",
        source="arXiv 1905.02244, section 6.1.1, completed as in `v3-large-imagenet`.",
        cost="1.3e17 multiply-adds",
        target="67.4 % (Table 3).",
        network=partial(mobilenet_v3, "small"),
        data=replace(PHOTOGRAPHS, batch_size=4096),
        training=V3_RELEASED,
    ),
    "v4-conv-small-imagenet": Recipe(
        title="MobileNet V4 Conv-S as its authors train it.",
        source="tensorflow/models, official/vision, imagenet_mobilenetv4_conv_small_tpu.yaml. Two "
        "things are left out: a second weight decay of 1e-5, in the loss, and the probability of "
        "0.5 with which its RandAugment skips an operation.",
        cost="6.8e18 multiply-adds",
        target="73.8 % (arXiv 2404.10518, Table 5).",
        network=_v4_conv_small,
        data=replace(
            NORMALIZED, batch_size=4096, policy="randaugment", randaugment_layers=2,
            randaugment_magnitude=9.0,
        ),
        training=TrainingConfig(
            epochs=9623, optimizer=AdamW(beta1=0.6, epsilon=1e-6), learning_rate=0.002,
            schedule=Cosine(), warmup_epochs=5.0, weight_decay=0.01, decay_depthwise=True,
            ema_decay=0.9999,
        ),
    ),
}  # fmt: skip
SIZED: dict[str, SizedRecipe] = {
    "fine-tuning": SizedRecipe(
        title="A saved network on other images, at the resolution that it was trained at, for "
        "about 500 steps of 32 images.",
        source="the number of steps follows BiT's rule for fewer than 20,000 images (arXiv "
        "1912.11370, section 3.3), within 10 to 50 epochs. With fewer than 32 images, the batch "
        "size is the largest power of two up to their number. The learning rate is 0.001 for a "
        "batch of 4, as in PyTorch's tutorial on transfer learning, and proportional to the batch "
        "size (arXiv 1706.02677). The cosine schedule, Nesterov momentum and the momentum of batch "
        "normalization (1 - 10 / s for s steps per epoch, at least 0.9) are those with which arXiv "
        "1805.08974 fine-tuned V1 and V2.",
        cost="3 forward passes of 16,000 images, but of at least 10 and at most 50 epochs",
        target="none; docs/training.md has accuracies reached.",
        fit=_fine_tuning,
    ),
    "small-set": SizedRecipe(
        title="Fewer than 500,000 images, from random weights, for about 5,000 steps of 96 images.",
        source="ours. The network, the optimizer, the learning rate, the batch size and the "
        "largest number of epochs (200) are those of `v2-imagenet`; the smallest number (30) is "
        "about that of `v2-fashion-mnist-long`. If there are fewer images than the batch size, it "
        "is halved until there are enough, and the learning rate with it. Moving averages and "
        "batch normalization forget faster, as in the other short recipes.",
        cost="3 forward passes of 480,000 images, but of at least 30 and at most 200 epochs",
        target="none; it has not been tuned. With few images, `--pretrained` reaches a higher "
        "accuracy sooner.",
        fit=_small_set,
    ),
}
NAMES = (*RECIPES, *SIZED)
OWN = {
    "digits": "v2-digits",
    "fashion_mnist": "v2-fashion-mnist",
    "imagenet2012": "v2-imagenet",
}
DEFAULT = "v2-imagenet"  # for sets not in `OWN`; `small-set` adapts it to smaller sets
LARGE = 500_000  # training images; BiT's definition of large (arXiv 1912.11370, section 3.3)


def recipe_for(dataset: str, train_images: int, *, pretrained: bool = False) -> str:
    """Returns the name of the default recipe for a data set.

    Args:
      dataset: the name of the data set.
      train_images: its number of training images.
      pretrained: whether training starts from a saved model.
    """
    if pretrained:
        return "fine-tuning"
    usual = DEFAULT if train_images >= LARGE else "small-set"
    return OWN.get(dataset.split(":")[0], usual)


def baseline(dataset: str) -> Arm:
    """Returns the arm of the data set's recipe in `RECIPES`; sized recipes start from this arm."""
    return RECIPES[OWN.get(dataset.split(":")[0], DEFAULT)].arm
