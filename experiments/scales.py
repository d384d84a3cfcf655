"""The scales of a preset's sweep: smoke, desk and full, each with one data set."""

from dataclasses import dataclass
from typing import Literal

ScaleName = Literal["smoke", "desk", "full"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of a preset's sweep, and the speed to estimate its time with.

    Attributes:
      dataset: the name of the data set.
      seeds: the number of seeds of every arm.
      train_images: the number of training images in an epoch.
      madds_per_second: the speed of training, where a step counts as three forward passes.
      arm_seconds: the additional time that an arm's first trial takes to compile.
    """

    dataset: str
    seeds: int
    train_images: int
    madds_per_second: float
    arm_seconds: float

    def seconds(self, madds: float, epochs: int) -> float:
        """Estimates the seconds for training a network with `madds` multiply-adds per image."""
        return 3 * madds * self.train_images * epochs / self.madds_per_second


# The speeds for the small data sets were measured with MobileNet V2 at width 0.5 on two shared
# x86-64 cores: 2 epochs of Fashion-MNIST take 75 s. The speed for ImageNet is an assumption: a
# mobile network on one large accelerator reaches about 2e12, which is 2,200 images/s for V2.
SCALES: dict[ScaleName, Scale] = {
    "smoke": Scale(
        dataset="digits",
        seeds=2,
        train_images=1_168,
        madds_per_second=3.0e10,
        arm_seconds=15,
    ),
    "desk": Scale(
        dataset="fashion_mnist",
        seeds=5,
        train_images=54_000,
        madds_per_second=3.0e10,
        arm_seconds=15,
    ),
    "full": Scale(
        dataset="imagenet2012",
        seeds=3,
        train_images=1_268_355,
        madds_per_second=2.0e12,
        arm_seconds=0,
    ),
}
