"""How large a preset's sweep is: smoke, desk or full, each on one data set."""

from dataclasses import dataclass
from typing import Literal

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
    """

    dataset: str
    seeds: int
    train_images: int
    madds_per_second: float
    arm_seconds: float

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
