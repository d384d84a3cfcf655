"""Loads the three splits of the data set that a config names."""

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
from mnet_jax.data.folder import read_folder
from mnet_jax.data.imagenette import NAME as IMAGENETTE
from mnet_jax.data.imagenette import read_imagenette
from mnet_jax.data.metadata import open_prepared
from mnet_jax.data.order import held_out, held_out_by_name
from mnet_jax.data.preparation import data_root, prepared
from mnet_jax.data.sources import (
    Dataset,
    Decodable,
    ReplacingSource,
    Source,
    at_resolution,
    in_memory,
    subset,
)
from mnet_jax.data.stored import find_stored, is_stored, read_stored
from mnet_jax.data.types import DataError


class _Splits(NamedTuple):
    """The splits of a data set as stored.

    Attributes:
      class_names: indexed by label.
      train, test: decoded in memory if they fit.
      names: names of the train images if validation is held out by name; None if by position.
      listing: see `Dataset`.
    """

    class_names: tuple[str, ...]
    train: Source
    test: Source
    names: tuple[str, ...] | None = None
    listing: str = ""


def load(config: DataConfig) -> Dataset:
    """Loads the data set that `config` names, split into train, validation and test.

    Splits that are small once decoded are decoded here, and resized to the config's resolution. The
    train split is not resized if `augmentation` is `resized_crop_flip`, which crops the original
    pixels. Larger splits, and images of different sizes, are decoded when they are read. Validation
    is a fixed share of train, the same for every run. Its images are chosen by a fixed permutation
    or, in a `folder`, by the names of the files.

    Raises:
      DataError: the data is missing, damaged, not a set of labelled images, or differs from the
        listing in the config; the message is one line that says how to fix it.
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
    view = config.view(photographs=False)  # images in memory have one size
    if config.bad_images:
        training = ReplacingSource(training, config.bad_images)
    elif config.augmentation != "resized_crop_flip":
        training = at_resolution(training, view)
    return Dataset(
        name=config.name,
        class_names=class_names,
        train=training,
        validation=at_resolution(validation, view),
        test=at_resolution(test, view),
        listing=listing,
    )


def _splits(config: DataConfig) -> _Splits:
    """Returns the class names, train and test; splits that fit in memory are decoded.

    With `bad_images`, train is not decoded here, as the first damaged image would be an error.
    """
    ignore_damaged, limit = config.bad_images > 0, config.max_image_pixels
    if config.name == "digits":
        return _own(config.name, MnetDigits, MnetDigits.SHAPE)
    if config.name == "fashion_mnist":
        folder = fashion_directory(config.directory)
        if is_mnist(folder):
            legal = "those of Fashion-MNIST, which have the same names"
            raise DataError(f"fashion_mnist: {folder} has the files of MNIST, legal: {legal}")
        return _own(config.name, partial(MnetFashionMnist, folder=folder), MnetFashionMnist.SHAPE)
    if config.name == "folder":
        return _folder(config, ignore_damaged)
    if not is_stored(config.name, config.directory):
        if config.name in ARCHIVED:
            archived = ARCHIVED[config.name]
            make = partial(archived, directory=config.directory, root=data_root())
            return _own(config.name, make, archived.SHAPE)
        if config.name.partition("/")[0] == IMAGENETTE and ":" not in config.name:
            images = read_imagenette(
                config.name, config.directory, ignore_damaged=ignore_damaged, max_pixels=limit
            )
            return _in_memory(images[:3], ignore_damaged)
    place = find_stored(config.name, config.directory)
    try:
        builder = open_prepared(place)
    except DataError as error:
        raise DataError(f"{config.name}: {error}") from error
    return _in_memory(read_stored(builder, config.name, max_pixels=limit), ignore_damaged)


def _folder(config: DataConfig, ignore_damaged: bool) -> _Splits:
    """Reads a folder of images and checks its files against the config's listing, if any."""
    by_position = config.listing == SPLIT_BY_POSITION
    images = read_folder(
        config.directory,
        ignore_damaged=ignore_damaged,
        by_position=by_position,
        max_pixels=config.max_image_pixels,
    )
    if config.listing not in ("", SPLIT_BY_POSITION, images.listing):
        raise DataError(
            f"listing: got {config.listing}, but {config.directory} has {images.listing}; "
            "legal: its files as they were, or a new run"
        )
    splits = _in_memory(images[:3], ignore_damaged)
    if by_position:
        return splits._replace(listing=SPLIT_BY_POSITION)
    return splits._replace(names=images.train_names, listing=images.listing)


def _own(name: str, make: Callable[..., ArraysBuilder], shape: tuple[int, int, int]) -> _Splits:
    """Prepares a set with one of our own builders if needed, and reads it."""
    with prepared(lambda root: make(data_dir=root)) as builder:
        return _in_memory(read_stored(builder, name, partial(decode_record, shape)))


def _in_memory(
    splits: tuple[tuple[str, ...], Decodable, Decodable], ignore_damaged: bool = False
) -> _Splits:
    """Decodes the splits that fit in memory; with `ignore_damaged`, train is left encoded."""
    class_names, train, test = splits
    return _Splits(class_names, train if ignore_damaged else in_memory(train), in_memory(test))
