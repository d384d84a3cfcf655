"""The input pipeline: reads TFDS data sources and image folders through Grain, in NumPy.

`load(config)` returns the three splits; `train_batches` and `eval_batches` turn a split into
batches. Nothing here starts a JAX backend, so reading images never claims an accelerator.

Each name is imported when it is first used, so configs can import `data.types` without TFDS.
"""

from etils import epy

from mnet_jax.data.types import Augmentation, Policy, Scaling

with epy.lazy_api_imports(globals()):
    from mnet_jax.data.batches import Batch
    from mnet_jax.data.errors import DataError
    from mnet_jax.data.loading import load
    from mnet_jax.data.order import Shard
    from mnet_jax.data.pipeline import (
        eval_batches,
        first_images,
        steps_per_epoch,
        train_batches,
        viewed,
    )
    from mnet_jax.data.scaling import pixels_of
    from mnet_jax.data.sources import ArraySource, Dataset, Example, Source

__all__ = [
    "ArraySource",
    "Augmentation",
    "Batch",
    "DataError",
    "Dataset",
    "Example",
    "Policy",
    "Scaling",
    "Shard",
    "Source",
    "eval_batches",
    "first_images",
    "load",
    "pixels_of",
    "steps_per_epoch",
    "train_batches",
    "viewed",
]
