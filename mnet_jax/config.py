"""The configuration of a run: frozen dataclasses of plain values, checked when they are made.

Nothing here imports JAX, so a command can refuse a bad value before it pays for a backend.
Whatever changes a result is a field here; whatever does not (where files go, how many trials run
at once) is an argument of the function that needs it.
"""

from dataclasses import dataclass, field, replace

from mnet_jax.architectures.spec import NetworkSpec
from mnet_jax.data.types import Augmentation, Policy, Scaling
from mnet_jax.models.types import Remat
from mnet_jax.ops.types import Lowering
from mnet_jax.serialization import added
from mnet_jax.training.types import OnDivergence, Parallelism, Precision
from mnet_jax.validation import make_fields_plain, require, require_choice

MAX_IMAGE_PIXELS = 50_000_000  # about what a camera's largest sensors have
MOST_IMAGE_PIXELS = 178_956_970  # Pillow opens no larger image
SPLIT_BY_POSITION = "by position"  # the listing of a folder from before there were listings
FILE_NAME = "config.json"  # of a run's config, in its directory
ARM_CLASSES = 1000  # of an arm's network: ImageNet's, as in the papers
MAX_ALPHA = 1000.0  # of a Beta distribution: beyond, every draw is one half


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images a run sees, and how.

    Attributes:
      name: `digits`, `fashion_mnist`, `folder`, or any TFDS name (`cifar10`, `imagenet2012:5.1.0`).
      directory: where the files are: those that are published of a set, the root of `folder`,
        else TFDS's `data_dir`. None means the usual places.
      resolution: side of the square images the model sees, in pixels (V1 paper, Table 7).
      start_resolution: retired, always 0. An earlier version trained on images that grew from this
        side in the first epoch to `resolution` in the last (arXiv 2104.00298); its trials are read
        and reported.
      batch_size: images per optimizer step, over all devices.
      validation_fraction: share of the train split held out for validation.
      augmentation: what happens to a training image: which part of it is seen.
      policy: the operations on a training image after that (arXiv 1909.13719, 1805.09501).
      randaugment_layers: operations an image gets from `randaugment`, the paper's N.
      randaugment_magnitude: their strength, the paper's M: 10 is the end of AutoAugment's ranges.
      colour_jitter: reach of brightness, contrast and saturation around 1, and four times the
        hue's in turns; 0 for none.
      scaling: of pixels from 0 to 255: `symmetric` to [-1, 1], as in the papers' code and Keras,
        or `imagenet` by the mean and deviation of its channels, as in torchvision.
      erasing: probability that a box of a training image becomes noise (arXiv 1708.04896).
      bad_images: damaged training images that others stand in for; one more ends the run.
      listing: of the files of `folder`: how many, and a digest of their paths and sizes. Empty
        until the folder was looked at (`Dataset.listing`); `by position` for a folder whose test
        split is to be that of runs from before there were listings.
      max_image_pixels: of an image as it is stored; one with more counts as damaged.
    """

    name: str = "digits"
    directory: str | None = None
    resolution: int = 32
    start_resolution: int = added(0)
    batch_size: int = 128
    validation_fraction: float = 0.1
    augmentation: Augmentation = "shift"
    policy: Policy = added("none")
    randaugment_layers: int = added(2)
    randaugment_magnitude: float = added(9.0)
    colour_jitter: float = added(0.0)
    erasing: float = added(0.0)
    scaling: Scaling = added("symmetric")
    bad_images: int = added(0)
    max_image_pixels: int = added(MAX_IMAGE_PIXELS)
    listing: str = added("")

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(bool(self.name), "dataset", self.name, "the name of a data set")
        require(self.resolution >= 1, "resolution", self.resolution, "1 pixel or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 image or more")
        require(
            0 < self.validation_fraction < 1,
            "validation_fraction",
            self.validation_fraction,
            "above 0 and below 1",
        )
        require_choice("augmentation", self.augmentation, Augmentation)
        require_choice("policy", self.policy, Policy)
        layers, magnitude = self.randaugment_layers, self.randaugment_magnitude
        require(1 <= layers <= 10, "randaugment_layers", layers, "1 to 10")
        require(0 <= magnitude <= 30, "randaugment_magnitude", magnitude, "0 to 30")
        require(0 <= self.colour_jitter <= 1, "colour_jitter", self.colour_jitter, "0 to 1")
        require(0 <= self.erasing <= 1, "erasing", self.erasing, "0 to 1")
        require_choice("scaling", self.scaling, Scaling)
        require(self.bad_images >= 0, "bad_images", self.bad_images, "0 images or more")
        most = self.max_image_pixels
        legal = f"1 to {MOST_IMAGE_PIXELS}"
        require(1 <= most <= MOST_IMAGE_PIXELS, "max_image_pixels", most, legal)
        listed = not self.listing or self.name == "folder"
        require(listed, "listing", self.listing, "none, as only the data set folder has one")

    def steps_per_epoch(self, images: int) -> int:
        """Whole batches in one pass over so many images, at least 1."""
        return max(1, images // self.batch_size)


def _require_share(name: str, value: float) -> None:
    require(0 <= value < 1, name, value, "0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent with momentum.

    Attributes:
      momentum: share of the last update in the next one.
      nesterov: whether the momentum looks ahead.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("momentum", self.momentum)


@dataclass(frozen=True, kw_only=True)
class RmsProp:
    """RMSProp as the papers' TensorFlow means it.

    The epsilon stands inside the root and the accumulator of squares starts at one; the V2 paper's
    section 6.1 gives decay and momentum 0.9.

    Attributes:
      decay: share of the average of squared gradients kept at each step.
      momentum: share of the last update in the next one.
      epsilon: added to squared gradients, against division by zero.
      initial_square: the average of squared gradients before the first step.
    """

    decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    initial_square: float = 1.0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("decay", self.decay)
        _require_share("momentum", self.momentum)
        require(self.epsilon > 0, "epsilon", self.epsilon, "above 0")
        require(self.initial_square >= 0, "initial_square", self.initial_square, "0 or more")


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1711.05101).

    Attributes:
      beta1: share of the average of gradients kept at each step.
      beta2: the same of squared gradients.
      epsilon: added to their root, against division by zero.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("beta1", self.beta1)
        _require_share("beta2", self.beta2)
        require(self.epsilon > 0, "epsilon", self.epsilon, "above 0")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak rate throughout, after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from the peak rate to zero over the run (arXiv 1608.03983)."""


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """A step of the rate at a time (V2 paper, section 6.1: 0.98 per epoch).

    Attributes:
      factor: the rate after a step over the rate before it.
      every_epochs: epochs from step to step.
    """

    factor: float = 0.98
    every_epochs: float = 1.0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(0 < self.factor <= 1, "factor", self.factor, "above 0 and up to 1")
        require(self.every_epochs > 0, "every_epochs", self.every_epochs, "above 0")


Optimizer = Sgd | RmsProp | AdamW
Schedule = Constant | Cosine | Exponential


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the weights are found.

    Attributes:
      epochs: passes over the training images.
      optimizer: the update rule.
      learning_rate: the peak rate, for the batch size in use.
      schedule: the rate's course after the warm-up.
      warmup_epochs: epochs of linear rise from zero to the peak.
      weight_decay: L2 coefficient on kernels; never on biases and normalization.
      decay_depthwise: whether depthwise kernels decay too (V1 paper, section 3.2: better not).
      label_smoothing: share of each label spread evenly over all classes.
      mixup: alpha of the Beta distribution in whose proportions pairs of images are mixed
        (arXiv 1710.09412); 0 for none. With `cutmix`, half of the batches each.
      cutmix: alpha of the distribution of the box that another image fills (arXiv 1905.04899);
        0 for none.
      ema_decay: decay of the average of parameters and statistics that is evaluated; 0 for none.
        Early on the decay is (1 + step) / (10 + step), if that is less.
      frozen: leading parts (the stem, then blocks) that stay as they are, statistics included.
      depth_decay: the rate of each part is the next one's times this; the head has the full rate.
      precision: type of the computation; parameters and statistics are float32 always.
      parallel: how the devices share a batch.
      lowering: of the convolutions; `auto` is the fastest there is, native kernels included.
      on_divergence: stop, leave the update out, or go back to the epoch's start with other images.
      spike_factor: a loss above this times the median of those before is divergence; 0 for never.
      accumulate: equal micro-batches that an optimizer step averages the gradients of, one after
        the other in the memory of one; each is normalized by its own statistics.
      norm_groups: equal groups of neighbouring images that are each normalized by their own
        statistics (ghost batch normalization, arXiv 1705.08741); the running ones average them.
      remat: what keeps nothing but its input for the way back, and computes the rest once more.
    """

    epochs: int = 20
    optimizer: Optimizer = field(default_factory=Sgd)
    learning_rate: float = 0.1
    schedule: Schedule = field(default_factory=Cosine)
    warmup_epochs: float = 1.0
    weight_decay: float = 4e-5
    decay_depthwise: bool = False
    label_smoothing: float = 0.1
    mixup: float = added(0.0)
    cutmix: float = added(0.0)
    ema_decay: float = 0.99
    frozen: int = 0
    depth_decay: float = 1.0
    precision: Precision = "float32"
    parallel: Parallelism = "jit"
    lowering: Lowering = "auto"
    on_divergence: OnDivergence = added("halt")
    spike_factor: float = added(0.0)
    accumulate: int = added(1)
    norm_groups: int = added(1)
    remat: Remat = added("none")

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(
            0 <= self.warmup_epochs <= self.epochs,
            "warmup_epochs",
            self.warmup_epochs,
            f"from 0 to the epochs ({self.epochs})",
        )
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "0 to below 1"
        )
        require(0 <= self.mixup <= MAX_ALPHA, "mixup", self.mixup, f"0 to {MAX_ALPHA:g}")
        require(0 <= self.cutmix <= MAX_ALPHA, "cutmix", self.cutmix, f"0 to {MAX_ALPHA:g}")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 to below 1")
        require(self.frozen >= 0, "frozen", self.frozen, "0 parts or more")
        require(0 < self.depth_decay <= 1, "depth_decay", self.depth_decay, "above 0 and up to 1")
        require_choice("precision", self.precision, Precision)
        require_choice("parallel", self.parallel, Parallelism)
        require_choice("lowering", self.lowering, Lowering)
        require_choice("on_divergence", self.on_divergence, OnDivergence)
        require(
            self.spike_factor == 0 or self.spike_factor > 1,
            "spike_factor",
            self.spike_factor,
            "0 or above 1",
        )
        require(self.accumulate >= 1, "accumulate", self.accumulate, "1 micro-batch or more")
        require(self.norm_groups >= 1, "norm_groups", self.norm_groups, "1 group or more")
        require_choice("remat", self.remat, Remat)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The weights that a run starts from.

    Attributes:
      path: of a model that `models.save` wrote, or of a run's directory.
      sha256: of that file, so that equal configs start from equal weights.
    """

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run: equal configs on equal software give equal results.

    Attributes:
      spec: the network, resolved.
      data: the images.
      training: the recipe.
      pretrained: weights to start from; None for the seed's random ones.
      seed: the one seed behind initialization, data order, augmentation and dropout.
    """

    spec: NetworkSpec
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrained: Pretrained | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require_consistent(self)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of an experiment: a `RunConfig` without its seed and its number of classes.

    An arm can be planned, checked and compared before the data set is read.

    Attributes:
      spec: the network with `ARM_CLASSES` logits; `config` gives it the data set's number.
      data: the images.
      training: the recipe.
      pretrained: weights to start from; None for the seed's random ones.
    """

    spec: NetworkSpec
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrained: Pretrained | None = None

    def __post_init__(self) -> None:
        make_fields_plain(self)
        classes = self.spec.head.num_classes
        require(classes == ARM_CLASSES, "num_classes", classes, f"{ARM_CLASSES} in an arm")
        _require_consistent(self)

    @classmethod
    def of(cls, config: RunConfig) -> "Arm":
        """The arm that a config is a run of."""
        return cls(
            spec=config.spec.with_classes(ARM_CLASSES),
            data=config.data,
            training=config.training,
            pretrained=config.pretrained,
        )

    def of_files(self, listing: str) -> "Arm":
        """The arm on a folder that lists these files; see `DataConfig.listing`."""
        return replace(self, data=replace(self.data, listing=listing))

    def config(self, num_classes: int, seed: int = 0) -> RunConfig:
        """The run of this arm with a seed, on a data set of so many classes."""
        return RunConfig(
            spec=self.spec.with_classes(num_classes),
            data=self.data,
            training=self.training,
            pretrained=self.pretrained,
            seed=seed,
        )


def _require_consistent(config: RunConfig | Arm) -> None:
    """Raises ValueError where the parts of a config do not fit each other."""
    parts = 1 + len(config.spec.blocks)
    frozen = config.training.frozen
    require(frozen <= parts, "frozen", frozen, f"0 to {parts}, the stem and all blocks")
    images, accumulate = config.data.batch_size, config.training.accumulate
    legal = f"what divides the batch of {images} images"
    require(images % accumulate == 0, "accumulate", accumulate, legal)
    images, groups = images // accumulate, config.training.norm_groups
    legal = f"what divides the {images} images that run at a time"
    require(images % groups == 0, "norm_groups", groups, legal)
