"""From a config to the three splits of a data set."""

from collections.abc import Callable
from functools import partial

import tensorflow_datasets as tfds

from mnet_jax.config import DataConfig
from mnet_jax.data.archived import ARCHIVED, is_mnist
from mnet_jax.data.builders import (
    ArraysBuilder,
    MnetDigits,
    MnetFashionMnist,
    decode_record,
    fashion_directory,
)
from mnet_jax.data.errors import DataError, reason
from mnet_jax.data.folder import read_folder
from mnet_jax.data.imagenette import NAME as IMAGENETTE
from mnet_jax.data.imagenette import read_imagenette
from mnet_jax.data.preparation import data_root, prepared
from mnet_jax.data.sources import (
    Dataset,
    Decodable,
    Source,
    at_resolution,
    held_out,
    in_memory,
    subset,
)
from mnet_jax.data.sparing import SparingSource
from mnet_jax.data.stored import find_stored, is_stored, read_stored

_Splits = tuple[tuple[str, ...], Source, Source]


def load(config: DataConfig) -> Dataset:
    """The data set that `config` names, split into train, validation and test.

    Splits that are small once decoded are decoded here, once, and resized to the config's
    resolution (but for the train split under `resized_crop_flip`, which crops the original pixels).
    Larger ones, and images of many sizes, are decoded as they are read. Validation is a fixed
    permutation's share of train, the same for every run.

    Raises:
      DataError: the data is not there, damaged, or not labelled images; one line says how to help.
    """
    class_names, train, test = _splits(config)
    if len(train) < 2:
        raise DataError(f"{config.name}: got {len(train)} train images, legal: 2 or more")
    kept, held = held_out(len(train), config.validation_fraction)
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
    )


def _splits(config: DataConfig) -> _Splits:
    """The class names, train and test, in memory where they fit.

    A train split that may hold damaged images is not decoded here, where one of them ends it all.
    """
    spare = config.bad_images > 0
    if config.name == "digits":
        return _own(config.name, MnetDigits, MnetDigits.SHAPE)
    if config.name == "fashion_mnist":
        folder = fashion_directory(config.directory)
        if is_mnist(folder):
            legal = "those of Fashion-MNIST, whose names are the same"
            raise DataError(f"fashion_mnist: {folder} has the files of MNIST, legal: {legal}")
        return _own(config.name, partial(MnetFashionMnist, folder=folder), MnetFashionMnist.SHAPE)
    if config.name == "folder":
        return _in_memory(read_folder(config.directory, spare=spare), spare)
    if not is_stored(config.name, config.directory):
        if config.name in ARCHIVED:
            archived = ARCHIVED[config.name]
            make = partial(archived, directory=config.directory, root=data_root())
            return _own(config.name, make, archived.SHAPE)
        if config.name.partition("/")[0] == IMAGENETTE and ":" not in config.name:
            found = read_imagenette(config.name, config.directory, spare=spare)
            return _in_memory(found, spare)
    place = find_stored(config.name, config.directory)
    try:
        builder = tfds.builder_from_directory(place)
    except Exception as error:  # TFDS raises many kinds for damaged metadata
        raise DataError(f"{config.name}: cannot read {place}: {reason(error)}") from error
    return _in_memory(read_stored(builder, config.name), spare)


def _own(name: str, make: Callable[..., ArraysBuilder], shape: tuple[int, int, int]) -> _Splits:
    """A set of our own builders, prepared where need be and read while its folder is there."""
    with prepared(lambda root: make(data_dir=root)) as builder:
        return _in_memory(read_stored(builder, name, partial(decode_record, shape)))


def _in_memory(
    splits: tuple[tuple[str, ...], Decodable, Decodable], spare: bool = False
) -> _Splits:
    """The splits, those that fit in memory decoded; train not where it is to be spared."""
    class_names, train, test = splits
    return class_names, train if spare else in_memory(train), in_memory(test)
