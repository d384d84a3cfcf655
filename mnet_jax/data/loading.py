"""From a config to the three splits of a data set."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from mnet_jax.config import SPLIT_BY_POSITION, DataConfig
from mnet_jax.data.archived import ARCHIVED, is_mnist
from mnet_jax.data.builders import (
    ArraysBuilder,
    MnetDigits,
    MnetFashionMnist,
    decode_record,
    fashion_directory,
)
from mnet_jax.data.errors import DataError
from mnet_jax.data.folder import read_folder
from mnet_jax.data.imagenette import NAME as IMAGENETTE
from mnet_jax.data.imagenette import read_imagenette
from mnet_jax.data.metadata import open_prepared
from mnet_jax.data.preparation import data_root, prepared
from mnet_jax.data.sources import (
    Dataset,
    Decodable,
    Source,
    at_resolution,
    in_memory,
    subset,
)
from mnet_jax.data.sparing import SparingSource
from mnet_jax.data.splitting import held_out, held_out_by_name
from mnet_jax.data.stored import find_stored, is_stored, read_stored


class _Splits(NamedTuple):
    """What is on disk.

    Attributes:
      class_names: by label.
      train, test: in memory where they fit.
      names: of the images of train, where validation goes by them; None where by position.
      listing: as `Dataset`.
    """

    class_names: tuple[str, ...]
    train: Source
    test: Source
    names: tuple[str, ...] | None = None
    listing: str = ""


def load(config: DataConfig) -> Dataset:
    """The data set that `config` names, split into train, validation and test.

    Splits that are small once decoded are decoded here, once, and resized to the config's
    resolution (but for the train split under `resized_crop_flip`, which crops the original pixels).
    Larger ones, and images of many sizes, are decoded as they are read. Validation is a fixed
    permutation's share of train, the same for every run; in a `folder` it goes by the files' names.

    Raises:
      DataError: the data is not there, damaged, not labelled images, or not the files that the
        config lists; one line says how to help.
    """
    class_names, train, test, names, listing = _splits(config)
    if len(train) < 2:
        raise DataError(f"{config.name}: got {len(train)} train images, legal: 2 or more")
    share = config.validation_fraction
    if names is None:
        kept, held = held_out(len(train), share)
    else:
        kept, held = held_out_by_name(names, share, "validation")
    training, validation = subset(train, kept), subset(train, held)
    if config.bad_images:
        training = SparingSource(training, config.bad_images)
    elif config.augmentation != "resized_crop_flip":
        training = at_resolution(training, config.resolution)
    return Dataset(
        name=config.name,
        class_names=class_names,
        train=training,
        validation=at_resolution(validation, config.resolution),
        test=at_resolution(test, config.resolution),
        listing=listing,
    )


def _splits(config: DataConfig) -> _Splits:
    """The class names, train and test, in memory where they fit.

    A train split that may hold damaged images is not decoded here, where one of them ends it all.
    """
    spare, limit = config.bad_images > 0, config.max_image_pixels
    if config.name == "digits":
        return _own(config.name, MnetDigits, MnetDigits.SHAPE)
    if config.name == "fashion_mnist":
        folder = fashion_directory(config.directory)
        if is_mnist(folder):
            legal = "those of Fashion-MNIST, whose names are the same"
            raise DataError(f"fashion_mnist: {folder} has the files of MNIST, legal: {legal}")
        return _own(config.name, partial(MnetFashionMnist, folder=folder), MnetFashionMnist.SHAPE)
    if config.name == "folder":
        return _folder(config, spare)
    if not is_stored(config.name, config.directory):
        if config.name in ARCHIVED:
            archived = ARCHIVED[config.name]
            make = partial(archived, directory=config.directory, root=data_root())
            return _own(config.name, make, archived.SHAPE)
        if config.name.partition("/")[0] == IMAGENETTE and ":" not in config.name:
            images = read_imagenette(config.name, config.directory, spare=spare, max_pixels=limit)
            return _in_memory(images[:3], spare)
    place = find_stored(config.name, config.directory)
    try:
        builder = open_prepared(place)
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from error
    return _in_memory(read_stored(builder, config.name, max_pixels=limit), spare)


def _folder(config: DataConfig, spare: bool) -> _Splits:
    """A folder of images, whose files must be those that the config lists, if it lists any."""
    by_position = config.listing == SPLIT_BY_POSITION
    images = read_folder(
        config.directory, spare=spare, by_position=by_position, max_pixels=config.max_image_pixels
    )
    if config.listing not in ("", SPLIT_BY_POSITION, images.listing):
        raise DataError(
            f"listing: got {config.listing}, but {config.directory} has {images.listing}; "
            "legal: its files as they were, or a run of its own"
        )
    splits = _in_memory(images[:3], spare)
    if by_position:
        return splits._replace(listing=SPLIT_BY_POSITION)
    return splits._replace(names=images.train_names, listing=images.listing)


def _own(name: str, make: Callable[..., ArraysBuilder], shape: tuple[int, int, int]) -> _Splits:
    """A set of our own builders, prepared where need be and read while its folder is there."""
    with prepared(lambda root: make(data_dir=root)) as builder:
        return _in_memory(read_stored(builder, name, partial(decode_record, shape)))


def _in_memory(
    splits: tuple[tuple[str, ...], Decodable, Decodable], spare: bool = False
) -> _Splits:
    """The splits, those that fit in memory decoded; train not where it is to be spared."""
    class_names, train, test = splits
    return _Splits(class_names, train if spare else in_memory(train), in_memory(test))
