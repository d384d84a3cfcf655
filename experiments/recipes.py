"""Training recipes, each a function: `python -m experiments.train --recipe v2-imagenet`.

A recipe is data: the network, the images and the training that some result was had by, as one
config. Any flag of the command line takes the place of one of its values, the data set's name
included. Costs are multiply-adds of all steps, each three times the forward pass. Targets are top-1
accuracies on ImageNet's validation images, at one central crop, unless they say otherwise.

What all recipes here leave out of their sources: the papers trained asynchronously, on up to 16
workers with stale gradients; ours are synchronous, with the batch of one worker. TensorFlow's
schedules count their steps from the start, ours from the end of the warm-up.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

from mnet_jax.architectures import (
    NetworkSpec,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    mobilenet_v4,
)
from mnet_jax.config import (
    AdamW,
    Arm,
    Cosine,
    DataConfig,
    Exponential,
    RmsProp,
    RunConfig,
    Sgd,
    TrainingConfig,
)

Recipe = Callable[[int], RunConfig]  # of the number of classes
# Of the arm that the data set and the saved network make, and the number of training images.
SizedRecipe = Callable[[Arm, int], Arm]

# Short recipes: the papers' BatchNorm momentum needs tens of thousands of steps, these take
# hundreds to thousands.
SHORT_NORM_MOMENTUM = 0.9
CLOTHES = DataConfig(name="fashion_mnist", resolution=28, batch_size=128, augmentation="shift_flip")
PHOTOGRAPHS = DataConfig(
    name="imagenet2012",
    resolution=224,
    batch_size=96,
    validation_fraction=0.01,  # the papers held out none, or did not say so
    augmentation="resized_crop_flip",
)
# torchvision and the Model Garden normalize by the mean and the deviation of each channel.
NORMALIZED = replace(PHOTOGRAPHS, scaling="imagenet")
# V2 paper, section 6.1, and the released code: label smoothing 0.1, averages 0.9999.
RELEASED = TrainingConfig(
    epochs=200,
    optimizer=RmsProp(),
    learning_rate=0.045,
    schedule=Exponential(factor=0.98, every_epochs=1.0),
    warmup_epochs=0.0,
    ema_decay=0.9999,
)


def v2_digits(num_classes: int = 10) -> RunConfig:
    """MobileNet V2 at half width on scikit-learn's digits, 1,797 images of 8 x 8 pixels.

    Source: ours. The rate 0.03 was chosen of 0.01, 0.03 and 0.1 on validation accuracy, for a
    linear and a ReLU6 bottleneck together, with seeds that no table uses (means of three after 24
    epochs: linear 96.4, 97.4 and 82.3 %, ReLU6 92.6, 93.1 and 9.0 %).
    Cost: 4.9e11 multiply-adds.
    Target: none; README's table has what it reaches.
    """
    return RunConfig(
        spec=_small(num_classes, width=0.5, input_stride=1),
        data=DataConfig(name="digits", resolution=16, batch_size=32, augmentation="shift"),
        training=TrainingConfig(
            epochs=20, optimizer=Sgd(), learning_rate=0.03, schedule=Cosine(), ema_decay=0.98
        ),
    )


def v2_fashion_mnist(num_classes: int = 10) -> RunConfig:
    """MobileNet V2 at half width on Fashion-MNIST, two epochs.

    Source: ours. The rate 0.1 was chosen of 0.03 and 0.1 on validation accuracy, for a linear and
    a ReLU6 bottleneck together (means of two seeds: linear 85.1 and 86.2 %, ReLU6 80.5 and
    82.2 %).
    Cost: 2.3e12 multiply-adds.
    Target: none; it is where ablations start.
    """
    return RunConfig(
        spec=_small(num_classes, width=0.5, input_stride=2),
        data=CLOTHES,
        training=TrainingConfig(epochs=2, optimizer=Sgd(), learning_rate=0.1, schedule=Cosine()),
    )


def v2_fashion_mnist_long(num_classes: int = 10) -> RunConfig:
    """MobileNet V2 on Fashion-MNIST, as well as two cores do it in two hours.

    Source: ours. Rate, decay and Nesterov's momentum are what residual networks have on images of
    this size (arXiv 1605.07146, section 3).
    Cost: 4.3e14 multiply-adds.
    Target: 94.5 % of the test images; docs/results has what it reaches.
    """
    return RunConfig(
        spec=_small(num_classes, width=1.0, input_stride=1),
        data=replace(CLOTHES, validation_fraction=0.02),
        training=TrainingConfig(
            epochs=33, optimizer=Sgd(nesterov=True), learning_rate=0.1, schedule=Cosine(),
            weight_decay=5e-4, ema_decay=0.999,
        ),
    )  # fmt: skip


def v1_imagenet(num_classes: int = 1000) -> RunConfig:
    """MobileNet V1 as published.

    Source: arXiv 1704.04861, section 3.2: "similar to Inception V3" (arXiv 1512.00567, section 8:
    100 epochs of RMSProp, 0.94 every two), "less regularization", so no smoothed labels. What
    neither says is V2's. Left out is the clipping of gradients at 2.0.
    Cost: 2.2e17 multiply-adds.
    Target: 70.6 % (Table 4).
    """
    training = replace(
        RELEASED,
        epochs=100,
        schedule=Exponential(factor=0.94, every_epochs=2.0),
        label_smoothing=0.0,
    )
    return RunConfig(
        spec=mobilenet_v1(num_classes=num_classes), data=PHOTOGRAPHS, training=training
    )


def v1_imagenet_model_garden(num_classes: int = 1000) -> RunConfig:
    """MobileNet V1 as TensorFlow's Model Garden trains it.

    Source: tensorflow/models, official/vision, imagenet_mobilenetv1_tpu.yaml.
    Cost: 1.1e18 multiply-adds.
    Target: 72.33 %.
    """
    spec = mobilenet_v1(num_classes=num_classes, dropout=0.2, norm_momentum=0.997)
    return _model_garden(spec, factor=0.94)


def v2_imagenet(num_classes: int = 1000) -> RunConfig:
    """MobileNet V2 as published.

    Source: arXiv 1801.04381, section 6.1, and the released code. The number of epochs is ours; the
    paper has none.
    Cost: 2.3e17 multiply-adds.
    Target: 72.0 % (Table 4).
    """
    return RunConfig(
        spec=mobilenet_v2(num_classes=num_classes), data=PHOTOGRAPHS, training=RELEASED
    )


def v2_imagenet_torchvision(num_classes: int = 1000) -> RunConfig:
    """MobileNet V2 as torchvision trained its first weights, on eight devices of 32 images.

    Source: pytorch/vision, references/classification/README.md.
    Cost: 3.4e17 multiply-adds.
    Target: 71.88 % (IMAGENET1K_V1).
    """
    return RunConfig(
        spec=mobilenet_v2(num_classes=num_classes, dialect="torchvision"),
        data=replace(NORMALIZED, batch_size=256),
        training=replace(
            RELEASED, epochs=300, optimizer=Sgd(), label_smoothing=0.0, ema_decay=0.0,
            decay_depthwise=True,
        ),
    )  # fmt: skip


def v2_imagenet_model_garden(num_classes: int = 1000) -> RunConfig:
    """MobileNet V2 as TensorFlow's Model Garden trains it.

    Source: tensorflow/models, official/vision, imagenet_mobilenetv2_tpu.yaml.
    Cost: 5.7e17 multiply-adds.
    Target: 72.72 %.
    """
    return _model_garden(mobilenet_v2(num_classes=num_classes), factor=0.96)


def v3_large_imagenet(num_classes: int = 1000) -> RunConfig:
    """MobileNet V3-Large as published.

    Source: arXiv 1905.02244, section 6.1.1. The paper has no number of epochs and no epsilon: 600
    are torchvision's, 0.002 is what large batches need.
    Cost: 4.9e17 multiply-adds.
    Target: 75.2 % (Table 3).
    """
    return _v3(mobilenet_v3("large", num_classes=num_classes))


def v3_small_imagenet(num_classes: int = 1000) -> RunConfig:
    """MobileNet V3-Small as published.

    Source: arXiv 1905.02244, section 6.1.1, as V3-Large.
    Cost: 1.3e17 multiply-adds.
    Target: 67.4 % (Table 3).
    """
    return _v3(mobilenet_v3("small", num_classes=num_classes))


def v3_large_imagenet_torchvision(num_classes: int = 1000) -> RunConfig:
    """MobileNet V3-Large as torchvision trained its first weights, on eight devices of 128 images.

    Source: pytorch/vision, references/classification/README.md. Its epsilon of 0.0316 is outside
    the root; the same inside is its square. It averaged its last checkpoints. Its boxes are erased
    to the mean, and are a third of the image at most, ours noise and two fifths.
    Cost: 4.9e17 multiply-adds.
    Target: 74.04 % (IMAGENET1K_V1).
    """
    return RunConfig(
        spec=mobilenet_v3("large", num_classes=num_classes, dialect="torchvision"),
        data=replace(NORMALIZED, batch_size=1024, policy="autoaugment", erasing=0.2),
        training=replace(
            RELEASED, epochs=600, optimizer=RmsProp(epsilon=0.001, initial_square=0.0),
            learning_rate=0.064, schedule=Exponential(factor=0.973, every_epochs=2.0),
            weight_decay=1e-5, decay_depthwise=True, label_smoothing=0.0, ema_decay=0.0,
        ),
    )  # fmt: skip


def v3_large_imagenet_model_garden(num_classes: int = 1000) -> RunConfig:
    """MobileNet V3-Large as TensorFlow's Model Garden trains it.

    Source: tensorflow/models, official/vision, imagenet_mobilenetv3large_tpu.yaml; the warm-up is
    that of its experiment, mobilenet_imagenet.
    Cost: 5.8e17 multiply-adds.
    Target: 75.7 %.
    """
    return RunConfig(
        spec=mobilenet_v3("large", num_classes=num_classes, norm_momentum=0.997),
        data=replace(NORMALIZED, batch_size=4096, policy="autoaugment"),
        training=TrainingConfig(
            epochs=700, optimizer=AdamW(epsilon=1e-7), learning_rate=0.004, schedule=Cosine(),
            warmup_epochs=5.0, weight_decay=0.1, decay_depthwise=True, ema_decay=0.0,
            precision="bfloat16",
        ),
    )  # fmt: skip


def v4_conv_small_imagenet(num_classes: int = 1000) -> RunConfig:
    """MobileNet V4 Conv-S as its authors train it.

    Source: tensorflow/models, official/vision, imagenet_mobilenetv4_conv_small_tpu.yaml. Left out
    are its second weight decay of 1e-5, in the loss, and that its RandAugment leaves out an
    operation with probability 0.5.
    Cost: 6.8e18 multiply-adds.
    Target: 73.8 % (arXiv 2404.10518, Table 5).
    """
    spec = mobilenet_v4("conv_small", num_classes=num_classes, dropout=0.3, norm_momentum=0.95)
    return RunConfig(
        spec=replace(spec, dialect=replace(spec.dialect, norm_epsilon=1e-6)),
        data=replace(
            NORMALIZED, batch_size=4096, policy="randaugment", randaugment_layers=2,
            randaugment_magnitude=9.0,
        ),
        training=TrainingConfig(
            epochs=9623, optimizer=AdamW(beta1=0.6, epsilon=1e-6), learning_rate=0.002,
            schedule=Cosine(), warmup_epochs=5.0, weight_decay=0.01, decay_depthwise=True,
            ema_decay=0.9999,
        ),
    )  # fmt: skip


def fine_tuning(start: Arm, train_images: int) -> Arm:
    """A saved network on other images, at its own resolution, for about 500 steps of 32 images.

    Source: the steps are those of BiT's rule for fewer than 20,000 images (arXiv 1912.11370,
    section 3.3), bounded by 10 and 50 epochs. A set of fewer than 32 images has the largest power
    of two that it fills as its batch. The rate of 0.001 for 4 images is PyTorch's tutorial on
    transfer learning, scaled by the batch (arXiv 1706.02677). Cosine, Nesterov's momentum and the
    momentum of batch normalization (1 - 10 / s with s steps an epoch, 0.9 or more) are those that
    V1 and V2 were fine-tuned with in arXiv 1805.08974.
    Cost: 3 forward passes of 16,000 images, or of 10 epochs if that is more, 50 if it is less.
    Target: none; docs/training.md has what it reaches.
    """
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


def small_set(start: Arm, train_images: int) -> Arm:
    """From random weights, fewer than 500,000 images, for about 5,000 steps of 96.

    Source: ours, from `v2-imagenet`, whose network, optimizer, rate, batch and most epochs (200)
    it has; the least (30) is about that of `v2-fashion-mnist-long`. A set that does not fill the
    batch has a half of it, a quarter and so on, and the rate falls with it. Averages and batch
    normalization forget faster, as in the other short recipes.
    Cost: 3 forward passes of 480,000 images, or of 30 epochs if that is more, 200 if it is less.
    Target: none, it has not been tuned; with few images `--pretrained` reaches more, sooner.
    """
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


def _small(num_classes: int, *, width: float, input_stride: int) -> NetworkSpec:
    """MobileNet V2 for small images and short recipes."""
    return mobilenet_v2(
        width=width,
        num_classes=num_classes,
        norm_momentum=SHORT_NORM_MOMENTUM,
        input_stride=input_stride,  # type: ignore[arg-type]
    )


def _v3(spec: NetworkSpec) -> RunConfig:
    training = replace(
        RELEASED, epochs=600, optimizer=RmsProp(epsilon=0.002), learning_rate=0.1,
        schedule=Exponential(factor=0.99, every_epochs=3.0), weight_decay=1e-5,
    )  # fmt: skip
    return RunConfig(spec=spec, data=replace(PHOTOGRAPHS, batch_size=4096), training=training)


def _model_garden(spec: NetworkSpec, factor: float) -> RunConfig:
    """What the Model Garden's V1 and V2 share; Keras' average of squares starts at zero."""
    return RunConfig(
        spec=spec,
        data=replace(NORMALIZED, batch_size=4096),
        training=TrainingConfig(
            epochs=500, optimizer=RmsProp(epsilon=0.002, initial_square=0.0), learning_rate=0.256,
            schedule=Exponential(factor=factor, every_epochs=2.5), warmup_epochs=5.0,
            weight_decay=1e-5, ema_decay=0.0, precision="bfloat16",
        ),
    )  # fmt: skip


_ALL: tuple[Recipe, ...] = (
    v2_digits,
    v2_fashion_mnist,
    v2_fashion_mnist_long,
    v1_imagenet,
    v1_imagenet_model_garden,
    v2_imagenet,
    v2_imagenet_torchvision,
    v2_imagenet_model_garden,
    v3_large_imagenet,
    v3_large_imagenet_torchvision,
    v3_large_imagenet_model_garden,
    v3_small_imagenet,
    v4_conv_small_imagenet,
)
RECIPES: dict[str, Recipe] = {recipe.__name__.replace("_", "-"): recipe for recipe in _ALL}
SIZED: dict[str, SizedRecipe] = {"fine-tuning": fine_tuning, "small-set": small_set}
NAMES = (*RECIPES, *SIZED)
OWN = {
    "digits": "v2-digits",
    "fashion_mnist": "v2-fashion-mnist",
    "imagenet2012": "v2-imagenet",
}
DEFAULT = "v2-imagenet"  # for any other data set, as it is where that is large
LARGE = 500_000  # training images: what BiT calls large (arXiv 1912.11370, section 3.3)


def recipe_for(dataset: str, train_images: int, *, pretrained: bool = False) -> str:
    """The name of the recipe that training on a data set starts from.

    Args:
      dataset: its name.
      train_images: how many it has.
      pretrained: whether training starts from a saved model.
    """
    if pretrained:
        return "fine-tuning"
    usual = DEFAULT if train_images >= LARGE else "small-set"
    return OWN.get(dataset.split(":")[0], usual)


def baseline(dataset: str, num_classes: int) -> RunConfig:
    """The data set's own recipe, whatever its size: what a sized recipe starts from as well."""
    return RECIPES[OWN.get(dataset.split(":")[0], DEFAULT)](num_classes)


def notes_of(recipe: Recipe | SizedRecipe) -> dict[str, str]:
    """What a recipe's docstring says: `title`, its first line, then `source`, `cost`, `target`."""
    first, _, rest = (inspect.getdoc(recipe) or "").partition("\n\n")
    notes, name = {"title": " ".join(first.split())}, ""
    for line in rest.splitlines():
        head, colon, text = line.partition(": ")
        if colon and head in ("Source", "Cost", "Target"):
            name, line = head.lower(), text
        notes[name] = f"{notes.get(name, '')} {line}".strip()
    return notes
