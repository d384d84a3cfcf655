"""Finds prepared TFDS sets by name, and reads them without TensorFlow.

Nothing is downloaded here. TFDS's stock builders need TensorFlow and the Internet to prepare a set,
and offline they retry for minutes. So a missing set is an error at once; the message gives the
command that prepares it.
"""

import difflib
import math
import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from mnet_jax.config import MAX_IMAGE_PIXELS
from mnet_jax.data.archived import ARCHIVED
from mnet_jax.data.disk import folders_containing
from mnet_jax.data.encoded import require_pixels
from mnet_jax.data.imagenette import NAME as IMAGENETTE
from mnet_jax.data.metadata import INFO, require_counted
from mnet_jax.data.preparation import data_root
from mnet_jax.data.sources import Decode, RecordSource
from mnet_jax.data.types import DataError, reason
from mnet_jax.validation import one_line

OWN_NAMES = ("digits", "fashion_mnist", "folder", *ARCHIVED, IMAGENETTE)
MAX_CLASSES = 2**20  # limit, because TFDS invents a name for every class in the metadata
_NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[\w.\-+]+))?(:(?P<version>\d+\.\d+\.\d+))?", re.ASCII)


def find_stored(name: str, directory: str | None) -> Path:
    """Returns the folder of a prepared set: of the newest version if `name` gives none.

    Args:
      name: the set's name in TFDS's spelling, `set[/config][:version]`.
      directory: TFDS's `data_dir`; None means the default, see `data_root`.

    Raises:
      DataError: no such set is prepared, or several of its configs are prepared and the name does
        not say which.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"data set: got {name!r}, legal: name, name/config or name/config:1.2.3")
    root = data_root(directory)
    variants = _variants(root / parts["set"])
    found = [
        (config, version)
        for config, version in variants
        if parts["config"] in (None, config) and parts["version"] in (None, version)
    ]
    if not found:
        raise DataError(_absent(name, parts["set"], root, variants))
    configs = sorted({config for config, _ in found})
    if len(configs) > 1:
        legal = one_line(", ".join(f"{parts['set']}/{config}" for config in configs))
        raise DataError(f"data set: got {name!r}, prepared in {root} are: {legal}")
    config, version = max(found, key=lambda variant: tuple(map(int, variant[1].split("."))))
    return root / parts["set"] / config / version


def is_stored(name: str, directory: str | None) -> bool:
    """Returns whether a set is prepared, in any version.

    A config in `name` must match; a version in `name` is ignored.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        return False
    variants = _variants(data_root(directory) / parts["set"])
    return any(parts["config"] in (None, config) for config, _ in variants)


def _variants(folder: Path) -> list[tuple[str, str]]:
    """Returns the (config, version) pairs in a set's `folder`; config is "" if the set has none."""
    variants = []
    for place in folders_containing(folder, INFO, 2):
        *config, version = place.relative_to(folder).parts
        if re.fullmatch(r"\d+\.\d+\.\d+", version, re.ASCII):
            variants.append(("/".join(config), version))
    return variants


def _absent(name: str, set_name: str, root: Path, variants: list[tuple[str, str]]) -> str:
    """Returns the error message for a missing set, which says how to supply the set."""
    if variants:
        named = (f"{set_name}{config and '/' + config}:{v}" for config, v in variants)
        there = one_line(", ".join(named))
        return f"data set: got {name!r}, prepared in {root} are: {there}"
    stored = {place.relative_to(root).parts[0] for place in folders_containing(root, INFO, 3)}
    stored -= {f"mnet_{own}" for own in OWN_NAMES}  # folders of our own builders
    stock = set(tfds.list_builders(with_community_datasets=False))
    if set_name in stock:
        manual = _wants_files(set_name)
        first = f"put its archives in {root}/downloads/manual, then " if manual else ""
        return (
            f"data set: {name} is not prepared in {root}; on a machine with TensorFlow and a "
            f"network, {first}run: tfds build {name} --file_format=array_record --data_dir={root}"
        )
    legal = sorted(stored | set(OWN_NAMES))
    close = difflib.get_close_matches(set_name, sorted({*legal, *stock}), n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return (
        f"data set: got {name!r}, prepared in {root} or built in: {one_line(', '.join(legal))}; "
        f"or any TFDS name once it is prepared{hint}"
    )


def _wants_files(set_name: str) -> bool:
    """Returns whether TFDS cannot download a stock set, for example because a login is needed."""
    try:
        return bool(tfds.builder_cls(set_name).MANUAL_DOWNLOAD_INSTRUCTIONS)
    except Exception:  # a stock builder may need packages that are not installed
        return False


def read_stored(
    builder: tfds.core.DatasetBuilder,
    name: str,
    decode: Decode | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> tuple[tuple[str, ...], RecordSource, RecordSource]:
    """Reads the class names, the train split and the test split of a prepared set.

    If `test` is missing or unlabelled (as in ImageNet, whose test labels are -1), `validation` is
    the test split.

    Args:
      builder: the builder of the prepared set.
      name: the set's name in error messages.
      decode: maps a record to `image` and `label`; None means the decoder of the set's features.
      max_pixels: limit on the pixels of an image.

    Raises:
      DataError: the set has no labelled images, lacks splits, does not support random access, or
        has a number of records that differs from its metadata.
    """
    shape, class_names = _features(builder.info.features, name, max_pixels)
    decode = decode or _decoder(builder.info.features, name, shape)
    there = one_line(", ".join(builder.info.splits)) or "none"

    def source(split: str) -> RecordSource | None:
        if split not in builder.info.splits:
            return None
        where = f"{name} ({split} in {builder.data_path})"
        found = RecordSource(_open(builder, split, name), decode, shape, where, max_pixels)
        return found if len(found) else None

    train = source("train")
    if train is None:
        raise DataError(f"{name}: has splits {there}, legal: one named train")
    for split in ("test", "validation"):
        test = source(split)
        if test is not None and test.opened(0)["label"] >= 0:
            return class_names, train, test
    raise DataError(f"{name}: has splits {there}, legal: a labelled test or validation split")


def _features(
    features: Any, name: str, max_pixels: int
) -> tuple[tuple[int, int, int] | None, tuple[str, ...]]:
    """Returns the common shape of the images (None if sizes differ) and the class names."""
    named = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = named.get("image"), named.get("label")
    if image is None or not isinstance(label, tfds.features.ClassLabel):
        found = one_line(", ".join(named)) or type(features).__name__
        raise DataError(f"{name}: got features {found}, legal: image, and label as a class label")
    if label.num_classes is None or not 1 <= label.num_classes <= MAX_CLASSES:
        raise DataError(
            f"{name}: got {label.num_classes} classes, legal: 1 to {MAX_CLASSES:,} of them"
        )
    shape, dtype = tuple(image.shape), image.np_dtype
    if len(shape) != 3 or shape[2] not in (1, 3) or dtype != "uint8":
        raise DataError(f"{name}: image is {dtype} {shape}, legal: uint8 (h, w, 1) or (h, w, 3)")
    height, width, channels = shape
    if height is None or width is None:
        return None, tuple(label.names)
    if height < 1 or width < 1:
        raise DataError(f"{name}: image is {width} x {height}, legal: sides of 1 pixel or more")
    require_pixels(name, width, height, max_pixels)
    return (height, width, channels), tuple(label.names)


def _decoder(features: Any, name: str, shape: tuple[int, int, int] | None) -> Decode:
    """Returns a function from a record to its image, encoded or as pixels, and its label."""
    image = features["image"]
    if isinstance(image, tfds.features.Image):
        return _encoded_record
    if isinstance(image, tfds.features.Tensor) and image.to_json_content().encoding == "zlib":
        if shape is None:
            raise DataError(f"{name}: images of many sizes as zlib, legal: encoded as PNG or JPEG")
        return partial(_compressed_record, shape)
    # TFDS's own way is PartialDecoding, but its NumPy code does not support that.
    wanted = tfds.features.FeaturesDict({key: features[key] for key in ("image", "label")})
    decode: Decode = wanted.deserialize_example_np
    return decode


def _open(builder: tfds.core.DatasetBuilder, split: str, name: str) -> Any:
    """Opens the raw records of `split`."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    stored = builder.info.file_format
    if stored != tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{name}: {builder.data_path} is stored as {stored and stored.value}, legal: "
            f"array_record; run: tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record"
        )
    try:
        require_counted(builder.info.splits[split])
        return builder.as_data_source(split, deserialize_method=raw)
    except Exception as error:  # ArrayRecord raises many types for damaged files
        raise DataError(
            f"{name}: cannot open split {split} in {builder.data_path}: {reason(error)}"
        ) from error


def _encoded_record(record: bytes) -> dict[str, Any]:
    """Returns the `image` of a record, as the stored bytes, and the `label`.

    TFDS would decode the image at its full size, with OpenCV if it is installed and else with PIL.
    The results would then depend on the installed packages.
    """
    feature = tf_example_pb2.Example.FromString(record).features.feature
    image, label = feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]
    return {"image": image, "label": label}


def _compressed_record(shape: tuple[int, int, int], record: bytes) -> dict[str, Any]:
    """Returns the pixels and the label of a record whose pixels are compressed with zlib.

    Decompresses the bytes that the shape requires, and one byte more to detect a surplus.
    """
    example = _encoded_record(record)
    size = math.prod(shape)
    pixels = zlib.decompressobj().decompress(example["image"], size + 1)
    if len(pixels) != size:
        raise ValueError(f"its pixels do not have {size} bytes")
    return {**example, "image": np.frombuffer(pixels, np.uint8).reshape(shape)}
