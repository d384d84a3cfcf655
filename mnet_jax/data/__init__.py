"""The input pipeline: reads TFDS data sources and image folders through Grain, in NumPy.

`load(config)` returns the three splits; `train_batches` and `eval_batches` turn a split into
batches. Nothing here starts a JAX backend, so reading images never claims an accelerator.

A name of this package is imported when it is first used, so configs can import `data.types`
without importing TFDS.

- `types`: the `Literal` types of options, the view and the error class;
- `loading`: the three splits of the data set that a config names;
- `sources`: labelled images with random access;
- `order`: the order of training images, and which images are held out;
- `pipeline`: batches from a source;
- `batches`: one batch as arrays;
- `encoded`: image files, of which only the needed pixels are decoded;
- `resize`: resizes to the square that the model sees;
- `augment`: crops, flips, shifts and erasing;
- `policies`: RandAugment, AutoAugment and colour jitter;
- `draws`: random numbers for each image;
- `scaling`: pixels to the numbers that the network sees, and back;
- `folder`: a folder of images;
- `imagenette`: Imagenette;
- `builders`: our TFDS builders: Digits, Fashion-MNIST;
- `archived`: our TFDS builders for MNIST and CIFAR;
- `published`: reads the files of MNIST and CIFAR as their authors publish them;
- `preparation`: prepares the sets of our builders;
- `stored`: finds sets that TFDS has prepared;
- `metadata`: checks the metadata of prepared sets;
- `disk`: safe access to folders that are not trusted.
"""

from etils import epy

from mnet_jax.data.types import Augmentation, Interpolation, Policy, Scaling

with epy.lazy_api_imports(globals()):
    from mnet_jax.data.batches import Batch
    from mnet_jax.data.loading import load
    from mnet_jax.data.order import Shard
    from mnet_jax.data.pipeline import (
        eval_batches,
        first_images,
        read_eval_image,
        steps_per_epoch,
        train_batches,
    )
    from mnet_jax.data.scaling import pixels_of
    from mnet_jax.data.sources import ArraySource, Dataset, Example, Source
    from mnet_jax.data.types import DataError

__all__ = [
    "ArraySource",
    "Augmentation",
    "Batch",
    "DataError",
    "Dataset",
    "Example",
    "Interpolation",
    "Policy",
    "Scaling",
    "Shard",
    "Source",
    "eval_batches",
    "first_images",
    "load",
    "pixels_of",
    "read_eval_image",
    "steps_per_epoch",
    "train_batches",
]
