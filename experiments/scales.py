"""Where a sweep starts on each data set: the baseline that every axis not named stays at.

These are data. The small sets train in minutes on two CPU cores; any other set starts from the V2
paper's recipe at 224 pixels. A preset runs at three scales, each on one of the sets.
"""

from dataclasses import dataclass
from typing import Literal

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

Start = tuple[float, InputStride, DataConfig, TrainingConfig]  # the first is the width

DIGITS: Start = (
    0.5,
    1,
    DataConfig(name="digits", resolution=16, batch_size=32, augmentation="shift"),
    TrainingConfig(
        epochs=20, optimizer=Sgd(), learning_rate=0.03, schedule=Cosine(), ema_decay=0.98
    ),
)
FASHION_MNIST: Start = (
    0.5,
    2,
    DataConfig(name="fashion_mnist", resolution=28, batch_size=128, augmentation="shift_flip"),
    TrainingConfig(epochs=2, optimizer=Sgd(), learning_rate=0.1, schedule=Cosine()),
)
# arXiv 1801.04381, section 6.1, and the released code: label smoothing 0.1, averages 0.9999.
IMAGENET: Start = (
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
SMALL = {"digits": DIGITS, "fashion_mnist": FASHION_MNIST}

ScaleName = Literal["smoke", "desk", "full"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a preset's sweep is.

    Attributes:
      dataset: its images.
      seeds: of every arm.
      train_images: that it trains on in an epoch.
      madds_per_second: that training does, a step being three times the forward pass.
      arm_seconds: that an arm's first trial takes besides, to compile.
      time_of: whose time that makes.
    """

    dataset: str
    seeds: int
    train_images: int
    madds_per_second: float
    arm_seconds: float
    time_of: str

    def seconds(self, madds: float, epochs: int) -> float:
        """An estimate of what training a network of so many MAdds takes."""
        return 3 * madds * self.train_images * epochs / self.madds_per_second


# The rates of the small sets were measured with MobileNet V2 at width 0.5 on two shared x86-64
# cores: 2 epochs of Fashion-MNIST take 75 s. ImageNet's is assumed: 2e12 is a mobile
# network's on one large accelerator, 2,200 images a second for V2.
SCALES: dict[ScaleName, Scale] = {
    "smoke": Scale(
        dataset="digits",
        seeds=2,
        train_images=1_168,
        madds_per_second=3.0e10,
        arm_seconds=15,
        time_of="two CPU cores",
    ),
    "desk": Scale(
        dataset="fashion_mnist",
        seeds=5,
        train_images=54_000,
        madds_per_second=3.0e10,
        arm_seconds=15,
        time_of="two CPU cores",
    ),
    "full": Scale(
        dataset="imagenet2012",
        seeds=3,
        train_images=1_153_000,
        madds_per_second=2.0e12,
        arm_seconds=0,
        time_of="one accelerator",
    ),
}


def baseline(dataset: str, num_classes: int) -> RunConfig:
    """The baseline on a data set: MobileNet V2 as published but for what small images need.

    Args:
      dataset: its name; any but the small sets gets the ImageNet recipe.
      num_classes: of the data set.
    """
    width, input_stride, data, training = SMALL.get(dataset, IMAGENET)
    spec = architectures.mobilenet_v2(
        width=width,
        num_classes=num_classes,
        norm_momentum=SHORT_NORM_MOMENTUM if dataset in SMALL else None,
        input_stride=input_stride,
    )
    return RunConfig(spec=spec, data=data, training=training)
