"""Where a sweep starts on each data set: the baseline that every axis not named stays at.

These are data. The small sets train in minutes on two CPU cores; any other set starts from the V2
paper's recipe at 224 pixels.
"""

from mnet_jax import architectures
from mnet_jax.architectures.transforms import InputStride
from mnet_jax.config import (
    Cosine,
    DataConfig,
    Exponential,
    RmsProp,
    RunConfig,
    Sgd,
    TrainingConfig,
)

# Short recipes: the papers' BatchNorm momentum needs tens of thousands of steps, these take
# hundreds to thousands. Their learning rates were chosen on validation accuracy, for a linear and a
# ReLU6 bottleneck together, with seeds that no table uses: digits 0.03 of 0.01, 0.03 and 0.1 (means
# of three seeds after 24 epochs: linear 96.4, 97.4 and 82.3 %, ReLU6 92.6, 93.1 and 9.0 %),
# Fashion-MNIST 0.1 of 0.03 and 0.1 (two seeds, 2 epochs: linear 85.1 and 86.2 %, ReLU6 80.5 and
# 82.2 %). Both arms do best at the same rate.
SHORT_NORM_MOMENTUM = 0.9

Preset = tuple[float, InputStride, DataConfig, TrainingConfig]  # the first is the width

DIGITS: Preset = (
    0.5,
    1,
    DataConfig(name="digits", resolution=16, batch_size=32, augmentation="shift"),
    TrainingConfig(
        epochs=20, optimizer=Sgd(), learning_rate=0.03, schedule=Cosine(), ema_decay=0.98
    ),
)
FASHION_MNIST: Preset = (
    0.5,
    2,
    DataConfig(name="fashion_mnist", resolution=28, batch_size=128, augmentation="shift_flip"),
    TrainingConfig(epochs=2, optimizer=Sgd(), learning_rate=0.1, schedule=Cosine()),
)
# arXiv 1801.04381, section 6.1, and the released code: label smoothing 0.1, averages 0.9999.
IMAGENET: Preset = (
    1.0,
    4,
    DataConfig(
        name="imagenet2012", resolution=224, batch_size=96, augmentation="resized_crop_flip"
    ),
    TrainingConfig(
        epochs=200,
        optimizer=RmsProp(),
        learning_rate=0.045,
        schedule=Exponential(factor=0.98, every_epochs=1.0),
        warmup_epochs=0.0,
        ema_decay=0.9999,
    ),
)
PRESETS = {"digits": DIGITS, "fashion_mnist": FASHION_MNIST}


def baseline(dataset: str, num_classes: int) -> RunConfig:
    """The baseline on a data set: MobileNet V2 as published but for what small images need.

    Args:
      dataset: its name; any but the small sets gets the ImageNet recipe.
      num_classes: of the data set.
    """
    width, input_stride, data, training = PRESETS.get(dataset, IMAGENET)
    spec = architectures.mobilenet_v2(
        width=width,
        num_classes=num_classes,
        norm_momentum=SHORT_NORM_MOMENTUM if dataset in PRESETS else None,
        input_stride=input_stride,
    )
    return RunConfig(spec=spec, data=data, training=training)
