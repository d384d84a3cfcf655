"""Checks the metadata of a prepared set before TFDS acts on it.

A prepared set is a folder of files that somebody else wrote. Its `features.json` and
`dataset_info.json` name Python classes. If TFDS does not know a class, it imports the module that
the name contains, first from the current folder, and the import executes code. The metadata also
name the set's files and state the number of its examples, and `sources` allocates arrays of that
length.
"""

import functools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from mnet_jax.data.disk import read_bounded, size_of
from mnet_jax.data.types import DataError, reason

INFO, FEATURES = "dataset_info.json", "features.json"
_MOST_BYTES = 32 * 2**20  # of each file; ImageNet's have a few kilobytes
_MOST_ENTRIES = 1_000_000  # limit on entries of the folder
# Keys whose value names a class that TFDS imports, and keys whose value is JSON with such keys.
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_JSON_KEYS = ("content", "json")
# A shard's path. No format field may have a width, which can turn a few characters into gigabytes.
_TEMPLATE = re.compile(r"(?:[^{}\0]|\{[A-Z_]+\})*")
_MOST_SHARDS = 100_000
_MOST_LETTERS = 200  # limit on a value quoted in an error
_AT_ONCE = 16  # shards opened in parallel


def open_prepared(place: Path) -> tfds.core.DatasetBuilder:
    """Returns TFDS's builder of the prepared set in `place`, after checking its metadata.

    Raises:
      DataError: the metadata cannot be read, they name a class that is not TFDS's own or files
        outside the set's folder, or the folder contains something other than regular files.
    """
    _require_regular_files(place)
    info = _read_json(place / INFO)
    if "features" in info:
        _require_own_classes(info["features"], place / INFO)
    if (place / FEATURES).exists():
        _require_own_classes(_read_json(place / FEATURES), place / FEATURES)
    _require_own_files(info.get("splits", ()), place / INFO)
    try:
        return tfds.builder_from_directory(place)
    except Exception as error:  # TFDS raises many types for damaged metadata
        raise DataError(f"cannot read {place}: {reason(error)}") from error


def require_counted(split: Any) -> None:
    """Raises DataError unless each shard holds as many records as the metadata claim.

    Args:
      split: TFDS's SplitInfo of a set that is stored as ArrayRecord.
    """
    paths = [Path(path) for path in split.filepaths]
    for path in paths:
        if not size_of(path):
            raise DataError(f"{path}: is empty, legal: records as ArrayRecord")
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        held = list(threads.map(_count_records, paths))
    for path, claimed, count in zip(paths, split.shard_lengths, held, strict=True):
        if claimed != count:
            raise DataError(f"{path}: holds {count} records, but the metadata say {claimed}")


def _count_records(path: Path) -> int:
    reader = ArrayRecordReader(str(path))
    try:
        return int(reader.num_records())
    finally:
        reader.close()


def _require_regular_files(place: Path) -> None:
    """Raises DataError if the folder holds a special file such as a FIFO, which TFDS would open."""
    try:
        for number, path in enumerate(place.iterdir()):
            if number >= _MOST_ENTRIES:
                raise DataError(f"{place}: has {_MOST_ENTRIES:,} entries or more, legal: fewer")
            if not path.exists() or path.is_dir():
                continue
            if not size_of(path) and path.is_symlink():  # possibly into /proc
                raise DataError(f"{path}: is a link to an empty file, legal: a regular file")
    except OSError as error:
        raise DataError(f"cannot read {place}: {reason(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_bounded(path, _MOST_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: no JSON, {reason(error)}") from error
    if not isinstance(found, dict):
        raise DataError(f"cannot read {path}: got a {type(found).__name__}, legal: an object")
    return found


def _require_own_classes(features: Any, path: Path) -> None:
    """Raises DataError if a description of features names a class that is not TFDS's own."""
    try:
        named = [*_classes(features)]
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: no JSON, {reason(error)}") from error
    for name in named:
        if name not in _own_classes():
            raise DataError(
                f"{path}: names the type {name[:_MOST_LETTERS]}, legal: TFDS's own, "
                "as others would be imported"
            )


def _classes(node: Any) -> Iterator[str]:
    """Yields every class name in a description of features, also from strings that hold JSON."""
    if isinstance(node, list):
        for item in node:
            yield from _classes(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in _CLASS_KEYS and isinstance(value, str):
            yield value
        elif key in _JSON_KEYS and isinstance(value, str):
            yield from _classes(json.loads(value))
        else:
            yield from _classes(value)


@functools.cache
def _own_classes() -> frozenset[str]:
    """Returns the names of TFDS's public feature types, and their former names."""
    public = [
        found
        for found in vars(tfds.features).values()
        if isinstance(found, type) and issubclass(found, tfds.features.FeatureConnector)
    ]
    names = (f"{found.__module__}.{found.__name__}" for found in public)
    return frozenset(
        [*names, *(alias for found in public for alias in vars(found).get("ALIASES", ()))]
    )


def _require_own_files(splits: Any, path: Path) -> None:
    """Raises DataError if a split has too many files or files outside the set's folder."""
    for split in splits if isinstance(splits, list) else ():
        if not isinstance(split, dict):
            continue  # TFDS reports what is wrong
        template = str(split.get("filepathTemplate") or split.get("filepath_template") or "")
        parts = Path(template).parts
        if not _TEMPLATE.fullmatch(template) or ".." in parts or Path(template).is_absolute():
            raise DataError(
                f"{path}: names a split's files {template[:_MOST_LETTERS]!r}, "
                "legal: files in the set's own folder"
            )
        shards = split.get("shardLengths") or split.get("shard_lengths") or ()
        if isinstance(shards, list) and len(shards) > _MOST_SHARDS:
            raise DataError(
                f"{path}: has a split of {len(shards):,} shards, legal: {_MOST_SHARDS:,} or fewer"
            )
