"""The configuration of a run: frozen dataclasses of plain values, checked when they are made.

Nothing here imports JAX, so a command can refuse a bad value before it starts a backend. Everything
that changes a result is a field here. Everything else (where files go, how many trials run at once)
is an argument of the function that needs it.
"""

from dataclasses import dataclass, field, replace

from mnet_jax.architectures.shapes import require_quantizable
from mnet_jax.architectures.spec import NetworkSpec, is_residual
from mnet_jax.data.types import (
    CROP_SHARE,
    Augmentation,
    Interpolation,
    Policy,
    Scaling,
    View,
    require_crop_share,
)
from mnet_jax.models.types import Remat
from mnet_jax.ops.types import Lowering
from mnet_jax.quantization.types import QuantizationConfig
from mnet_jax.serialization import added
from mnet_jax.training.types import OnDivergence, Parallelism, Precision
from mnet_jax.validation import make_fields_plain, require, require_choice

MAX_IMAGE_PIXELS = 50_000_000  # about as many as the largest camera sensors have
MOST_IMAGE_PIXELS = 178_956_970  # Pillow opens no larger image
SPLIT_BY_POSITION = "by position"  # `listing` for the split of versions without listings
FILE_NAME = "config.json"  # name of the config in a run's directory
TRIAL_LOCK = "lock"  # name of the file in a trial's directory that its process locks
ARM_CLASSES = 1000  # classes of an arm's network: ImageNet's, as in the papers
MAX_ALPHA = 1000.0  # of a Beta distribution; above it, nearly every draw is one half


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images of a run, and their preparation.

    Attributes:
      name: `digits`, `fashion_mnist`, `folder`, or any TFDS name (`cifar10`, `imagenet2012:5.1.0`).
      directory: where the data is: the published files of a set, the root of `folder`, or TFDS's
        `data_dir`. None means the usual places.
      resolution: side of the square images that the model sees, in pixels (V1 paper, Table 7).
      start_resolution: retired, always 0. In an earlier version the images grew from this side in
        the first epoch to `resolution` in the last (arXiv 2104.00298); its trials can still be read
        and reported.
      batch_size: images per optimizer step, over all devices.
      validation_fraction: share of the train split held out for validation.
      augmentation: random shifts, flips or crops of training images.
      policy: random operations on training images after `augmentation` (arXiv 1909.13719,
        1805.09501).
      randaugment_layers: number of `randaugment` operations per image, the paper's N.
      randaugment_magnitude: strength of `randaugment` operations, the paper's M: 10 is the end of
        AutoAugment's ranges.
      colour_jitter: largest random relative change of brightness, contrast and saturation; the hue
        shifts by up to a quarter of this, in turns; 0 for none.
      scaling: how pixels are scaled: `symmetric` from [0, 255] to [-1, 1], as in the papers' code
        and Keras, `imagenet` by ImageNet's mean and standard deviation per channel, as in
        torchvision, or `unit` to [0, 1].
      crop_share: side of the central square that evaluation cuts out of an image, and training
        without random crops too, divided by the image's shorter side. Images of a data set in which
        all have the same size keep the whole square.
      interpolation: filter with which images are resized, in evaluation and in training; both
        filters are antialiased.
      erasing: probability that a random box of a training image is replaced by noise (arXiv
        1708.04896).
      bad_images: number of damaged training images that may be replaced by others; one more ends
        the run.
      listing: number of files of `folder`, and a digest of their paths and sizes. Empty until the
        folder is read (`Dataset.listing`). `by position` selects the test split of earlier
        versions, which had no listings.
      max_image_pixels: limit on the pixels of a stored image; a larger image counts as damaged.
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
    crop_share: float = added(CROP_SHARE)
    interpolation: Interpolation = added("bilinear")
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
        require_crop_share(self.crop_share)
        require_choice("interpolation", self.interpolation, Interpolation)
        require(self.bad_images >= 0, "bad_images", self.bad_images, "0 images or more")
        most = self.max_image_pixels
        legal = f"1 to {MOST_IMAGE_PIXELS}"
        require(1 <= most <= MOST_IMAGE_PIXELS, "max_image_pixels", most, legal)
        listed = not self.listing or self.name == "folder"
        require(listed, "listing", self.listing, "none, as only the data set folder has one")

    def steps_per_epoch(self, images: int) -> int:
        """Returns the number of whole batches in one pass over `images` images, at least 1."""
        return max(1, images // self.batch_size)

    def view(self, *, photographs: bool) -> View:
        """Returns the preprocessing of images, apart from augmentation.

        Args:
          photographs: whether the images of the data set have many sizes.
        """
        return View(
            resolution=self.resolution,
            photographs=photographs,
            scaling=self.scaling,
            crop_share=self.crop_share,
            interpolation=self.interpolation,
        )

    def with_view(self, view: View) -> "DataConfig":
        """Returns the config with a model's preprocessing.

        Whether the border is cut off depends on the data set, so `view.photographs` is ignored.
        """
        return replace(
            self,
            resolution=view.resolution,
            scaling=view.scaling,
            crop_share=view.crop_share,
            interpolation=view.interpolation,
        )


def _require_share(name: str, value: float) -> None:
    require(0 <= value < 1, name, value, "0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent with momentum.

    Attributes:
      momentum: share of the previous update that is added to the next one.
      nesterov: whether to use Nesterov momentum.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("momentum", self.momentum)


@dataclass(frozen=True, kw_only=True)
class RmsProp:
    """RMSProp as in the papers' TensorFlow code.

    The epsilon is inside the root, and the average of squared gradients starts at one. The V2
    paper's section 6.1 gives decay and momentum 0.9.

    Attributes:
      decay: decay rate of the moving average of squared gradients.
      momentum: share of the previous update that is added to the next one.
      epsilon: added to the denominator, against division by zero; inside the root in RMSProp,
        outside in the other optimizers.
      initial_square: initial value of the moving average of squared gradients.
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
      beta1: decay rate of the moving average of gradients.
      beta2: decay rate of the moving average of squared gradients.
      epsilon: added to the denominator, outside the root, against division by zero.
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
class Lamb:
    """LAMB, for large batches (arXiv 1904.00962, algorithm 2).

    The update of an array is that of AdamW, scaled to the norm of the array. The ratio of the two
    norms is taken for every array, including biases and normalization parameters; it is 1 if one
    of the norms is 0.

    Attributes:
      beta1: decay rate of the moving average of gradients.
      beta2: decay rate of the moving average of squared gradients.
      epsilon: added to the denominator, outside the root, against division by zero.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("beta1", self.beta1)
        _require_share("beta2", self.beta2)
        require(self.epsilon > 0, "epsilon", self.epsilon, "above 0")


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): orthogonalized momentum.

    Muon updates the matrices between two hidden layers: the kernels of pointwise convolutions and
    of dense layers. The update is the Nesterov momentum, corrected for its start at 0 as in Optax,
    with all singular values brought to about 1. As its author advises, AdamW updates the rest: the
    classifier, full convolutions such as the stem, depthwise kernels, biases and normalization
    parameters. One learning rate and one weight decay, which is decoupled, serve both (arXiv
    2502.16982, section 2.2).

    Attributes:
      momentum: share of the previous update that is added to the next one.
      update_rms: root mean square of a matrix's update before the learning rate, if the matrix is
        square; 0.2 is typical of AdamW's updates.
      beta1: decay rate of the moving average of gradients in AdamW.
      beta2: decay rate of the moving average of squared gradients in AdamW.
      epsilon: added to the denominator in AdamW, outside the root, against division by zero.
    """

    momentum: float = 0.95
    update_rms: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        make_fields_plain(self)
        _require_share("momentum", self.momentum)
        require(self.update_rms > 0, "update_rms", self.update_rms, "above 0")
        _require_share("beta1", self.beta1)
        _require_share("beta2", self.beta2)
        require(self.epsilon > 0, "epsilon", self.epsilon, "above 0")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant schedule: the peak learning rate at every step after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """A schedule of half a cosine, from the peak rate to zero over the run (arXiv 1608.03983)."""


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """Stepwise exponential decay (V2 paper, section 6.1: 0.98 per epoch).

    Attributes:
      factor: factor by which exponential decay multiplies the rate each time.
      every_epochs: epochs between two multiplications by `factor`.
    """

    factor: float = 0.98
    every_epochs: float = 1.0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(0 < self.factor <= 1, "factor", self.factor, "above 0 and up to 1")
        require(self.every_epochs > 0, "every_epochs", self.every_epochs, "above 0")


Optimizer = Sgd | RmsProp | AdamW | Lamb | Muon
Schedule = Constant | Cosine | Exponential


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training settings of a run.

    Attributes:
      epochs: passes over the training images.
      optimizer: the update rule.
      learning_rate: peak learning rate for the given batch size.
      schedule: how the learning rate changes after the warm-up.
      warmup_epochs: epochs in which the learning rate rises linearly from zero to the peak.
      weight_decay: L2 coefficient for kernels; biases and normalization parameters never decay.
      decay_depthwise: whether depthwise kernels decay too (V1 paper, section 3.2: better not).
      drop_path: rate of stochastic depth (arXiv 1603.09382): in training, each image skips a block
        that has a shortcut with a probability that rises linearly from 0 at the first of n blocks
        to (n - 1) / n of this rate at the last, as timm's `drop_path_rate`.
      clip_norm: largest norm of the gradient, over all parameters at once; a longer gradient is
        scaled to this norm (arXiv 1211.5063, algorithm 1); 0 for none. The mean gradient of the
        whole batch is clipped, before weight decay is added.
      label_smoothing: share of each label that is spread evenly over all classes.
      mixup: alpha of the Beta distribution of mixup's weights (arXiv 1710.09412); 0 for none. If
        `cutmix` is set too, each is used for half of the batches.
      cutmix: alpha of the Beta distribution that sets the size of CutMix's box (arXiv 1905.04899);
        0 for none.
      ema_decay: decay rate of the moving averages of parameters and statistics, which are evaluated
        in their place; 0 for none.
      ema_warmup: whether `ema_decay` is (1 + step) / (10 + step) in early steps, where this is less
        (`num_updates` of TensorFlow's `ExponentialMovingAverage`). Otherwise the averages remember
        the initial weights for about 1 / (1 - ema_decay) steps.
      frozen: number of leading parts (the stem, then blocks) whose parameters and statistics do not
        change.
      depth_decay: ratio of each part's learning rate to the next part's; the head has the full
        rate.
      precision: number type of the computation; parameters and statistics are always float32.
      parallel: how the devices share a batch.
      lowering: implementation of the convolutions; `auto` is the fastest one available, including
        native kernels.
      on_divergence: reaction to divergence: stop, skip the update, or go back to the start of the
        epoch and continue with other images.
      spike_factor: a loss above this factor times the median of the last losses counts as
        divergence; 0 for never.
      accumulate: number of equal micro-batches per optimizer step. They run one after the other, to
        save memory, and their gradients are averaged; each is normalized by its own statistics.
      norm_groups: number of equal groups of neighbouring images, each normalized by its own
        statistics (ghost batch normalization, arXiv 1705.08741); the running statistics average
        over the groups.
      remat: with `blocks`, each block stores only its input for the backward pass and recomputes
        the rest, to save memory.
    """

    epochs: int = 20
    optimizer: Optimizer = field(default_factory=Sgd)
    learning_rate: float = 0.1
    schedule: Schedule = field(default_factory=Cosine)
    warmup_epochs: float = 1.0
    weight_decay: float = 4e-5
    decay_depthwise: bool = False
    drop_path: float = added(0.0)
    clip_norm: float = added(0.0)
    label_smoothing: float = 0.1
    mixup: float = added(0.0)
    cutmix: float = added(0.0)
    ema_decay: float = 0.99
    ema_warmup: bool = added(True)
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
        _require_share("drop_path", self.drop_path)
        require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "0 or more")
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
      path: a model that `models.save` wrote, or a run's directory.
      sha256: digest of the model file, so that equal configs start from equal weights.
    """

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Knowledge distillation: a trained network, the teacher, takes part in the loss.

    The loss of an image is (1 - w) H + w t^2 D. H is the cross-entropy with its label, and D is the
    Kullback-Leibler divergence of the student's probabilities from the teacher's, both of logits
    divided by the temperature t (arXiv 1503.02531, section 2). The teacher sees the student's
    images, after augmentation and mixing (arXiv 2106.05237).

    Attributes:
      path: the teacher: a model that `models.save` wrote, or a run's directory.
      sha256: digest of the model file, so that equal configs have equal teachers.
      teacher_weight: weight w of the teacher in the loss; with 1 the labels are not used.
      temperature: number t by which logits are divided; above 1 the teacher's small probabilities
        count more.
    """

    path: str
    sha256: str
    teacher_weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        weight = self.teacher_weight
        require(0 <= weight <= 1, "teacher_weight", weight, "0 to 1")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run: equal configs on equal software give equal results.

    Attributes:
      spec: the network, resolved.
      data: the images.
      training: the training settings.
      pretrained: weights to start from; None for random ones, drawn with the seed.
      quantization: how the trained network is quantized; None for a network in floating point.
      distillation: the teacher in training; None without one.
      seed: determines initialization, data order, augmentation and dropout.
    """

    spec: NetworkSpec
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrained: Pretrained | None = None
    quantization: QuantizationConfig | None = added(None)
    distillation: Distillation | None = added(None)
    seed: int = 0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        _require_consistent(self)

    @property
    def source(self) -> "RunConfig | None":
        """The run whose network this run quantizes: the same run in floating point.

        None if the run quantizes nothing, or trains a quantized network from pretrained weights.
        """
        quantization = self.quantization
        if quantization is None or (quantization.trains and self.pretrained):
            return None
        return replace(self, quantization=None)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of an experiment: a `RunConfig` without its seed and its number of classes.

    An arm can be planned, checked and compared before the data set is read.

    Attributes:
      spec: the network with `ARM_CLASSES` logits; `config()` sets the data set's number of classes.
      data: the images.
      training: the training settings.
      pretrained: weights to start from; None for random ones, drawn with the seed.
      quantization: how the trained network is quantized; None for a network in floating point.
      distillation: the teacher in training; None without one.
    """

    spec: NetworkSpec
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    pretrained: Pretrained | None = None
    quantization: QuantizationConfig | None = added(None)
    distillation: Distillation | None = added(None)

    def __post_init__(self) -> None:
        make_fields_plain(self)
        classes = self.spec.head.num_classes
        require(classes == ARM_CLASSES, "num_classes", classes, f"{ARM_CLASSES} in an arm")
        _require_consistent(self)

    @classmethod
    def of(cls, config: RunConfig) -> "Arm":
        """Returns the arm that a run's config belongs to."""
        return cls(
            spec=config.spec.with_classes(ARM_CLASSES),
            data=config.data,
            training=config.training,
            pretrained=config.pretrained,
            quantization=config.quantization,
            distillation=config.distillation,
        )

    def of_files(self, listing: str) -> "Arm":
        """Returns the arm with another listing of a folder's files; see `DataConfig.listing`."""
        return replace(self, data=replace(self.data, listing=listing))

    def config(self, num_classes: int, seed: int = 0) -> RunConfig:
        """Returns the config of a run of this arm, given a seed and the number of classes."""
        return RunConfig(
            spec=self.spec.with_classes(num_classes),
            data=self.data,
            training=self.training,
            pretrained=self.pretrained,
            quantization=self.quantization,
            distillation=self.distillation,
            seed=seed,
        )


def _require_consistent(config: RunConfig | Arm) -> None:
    """Raises ValueError if the parts of a config do not fit together."""
    if config.quantization:
        require_quantizable(config.spec)
    channels = config.spec.stem.inputs
    require(channels == 3, "in_channels", channels, "3, as data sets have RGB images")
    parts = 1 + len(config.spec.blocks)
    frozen = config.training.frozen
    require(frozen <= parts, "frozen", frozen, f"0 to {parts}, the stem and all blocks")
    rate = config.training.drop_path
    skips = rate == 0 or any(map(is_residual, config.spec.blocks))
    require(skips, "drop_path", rate, "0, as no block has a shortcut around it")
    images, accumulate = config.data.batch_size, config.training.accumulate
    legal = f"what divides the batch of {images} images"
    require(images % accumulate == 0, "accumulate", accumulate, legal)
    images, groups = images // accumulate, config.training.norm_groups
    legal = f"what divides the {images} images that run at a time"
    require(images % groups == 0, "norm_groups", groups, legal)
