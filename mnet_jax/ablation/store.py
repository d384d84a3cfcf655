"""The store of trials: one file for each config that was tried, written whole or not at all.

A trial is a run of one config, seed included, and its file is named by the hash of that config, so
processes that write at once never meet, and a kill loses only what had not finished. A file that
cannot be vouched for (torn, edited, from elsewhere) is never used and never deleted.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mnet_jax import serialization
from mnet_jax.config import RunConfig
from mnet_jax.files import replace_file
from mnet_jax.result import RunResult
from mnet_jax.validation import require

KEY_DIGITS = 16


def key_of(config: RunConfig) -> str:
    """The name of a config's trial: 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(serialization.to_json(config).encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One config and what became of it: a result, or the cause of its failure.

    Attributes:
      key: `key_of(config)`.
      config: everything that determines the result.
      result: what a finished run found; None where it failed.
      cause: why it failed, in one line; None where it finished.
      environment: what else was there: versions and device.
      finished: when it ended, ISO 8601 in UTC.
    """

    key: str
    config: RunConfig
    result: RunResult | None
    cause: str | None
    environment: dict[str, str]
    finished: str

    def __post_init__(self) -> None:
        expected = key_of(self.config)
        require(self.key == expected, "key", self.key, f"{expected}, the hash of the config")
        require((self.result is None) != (self.cause is None), "cause", self.cause,
                "a line where there is no result, else None")  # fmt: skip
        one_line = self.cause is None or self.cause.splitlines() == [self.cause]
        require(one_line, "cause", self.cause, "one line")
        require(_is_utc(self.finished), "finished", self.finished, "an ISO 8601 time in UTC")


def _is_utc(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def success(config: RunConfig, result: RunResult, environment: Mapping[str, str]) -> Trial:
    """The trial of a run that finished just now."""
    return Trial(
        key=key_of(config), config=config, result=result, cause=None,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


def failure(config: RunConfig, cause: str, environment: Mapping[str, str]) -> Trial:
    """The trial of a run that failed just now; a cause of several lines is joined to one."""
    line = " ".join(cause.split()) or "failed without a word"
    line = line.encode(errors="backslashreplace").decode()  # half characters, as of odd file names
    return Trial(
        key=key_of(config), config=config, result=None, cause=line,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


class StoreError(ValueError):
    """A directory that cannot be read or written; the message is one line with its path."""


class Store:
    """The trials under a directory, in `trials/<key>.json`.

    Making or reading a store writes nothing; the directory appears with the first trial.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def read(self) -> tuple[dict[str, Trial], tuple[str, ...]]:
        """All trials by key, in the order they ended, and a line about each file that is none.

        Raises:
          StoreError: the directory is there and cannot be listed.
        """
        trials, complaints = [], []
        with _one_line("read", self._trials):
            try:
                names = sorted(os.listdir(self._trials))
            except FileNotFoundError:
                names = []
        for name in names:
            if not name.endswith(".json") or name.startswith("."):  # as what a killed write leaves
                continue
            path = self._trials / name
            try:
                trials.append(_trial_in(path))
            except FileNotFoundError:  # set aside since the listing, by a writer
                continue
            except (OSError, ValueError, RecursionError) as error:
                complaints.append(f"{path}: not used, {_first_line(error)}")
        trials.sort(key=lambda trial: (datetime.fromisoformat(trial.finished), trial.key))
        return {trial.key: trial for trial in trials}, tuple(complaints)

    def write(self, trial: Trial) -> None:
        """Puts a trial on disk; when this returns, it survives a loss of power.

        It replaces an earlier trial of its config, but a failure does not replace a result. A file
        of its name that is no trial is set aside as `<key>.json.damaged-<digits>`.

        Raises:
          ValueError: a number is not finite; one line with its name.
          StoreError: the directory cannot be written.
        """
        plain = serialization.to_plain(trial)
        for name, value in _numbers(plain):
            require(math.isfinite(value), name, value, "finite numbers")
        path = self._trials / f"{trial.key}.json"
        with _one_line("write", path):
            try:
                earlier = _trial_in(path)
                if trial.result is None and earlier.result is not None:
                    return
            except FileNotFoundError:
                pass
            except (ValueError, RecursionError):
                with contextlib.suppress(FileNotFoundError):  # another writer was first
                    os.replace(path, path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}"))
        sealed = {"sha256": _seal(plain), "trial": plain}
        write_file(path, (json.dumps(sealed, indent=1) + "\n").encode())

    @property
    def _trials(self) -> Path:
        return self.directory / "trials"


def missing(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[RunConfig, ...]:
    """The configs that no trial has a result for, in their order, each once."""
    distinct = {key_of(config): config for config in configs}
    return tuple(
        config
        for key, config in distinct.items()
        if key not in trials or trials[key].result is None
    )


def comparable(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[Trial, ...]:
    """The trials, finished or failed, with the data, recipe and start of any of the configs."""

    def setting(config: RunConfig) -> tuple[object, ...]:
        return config.data, config.training, config.pretrained

    settings = {setting(config) for config in configs}
    return tuple(trial for trial in trials.values() if setting(trial.config) in settings)


def write_file(path: Path, content: bytes) -> None:
    """`files.replace_file`, whose OSError becomes a StoreError."""
    with _one_line("write", path):
        replace_file(path, content)


def _trial_in(path: Path) -> Trial:
    """The trial in a file; OSError if it cannot be read, ValueError if it is none."""
    sealed = json.loads(path.read_bytes())
    if not isinstance(sealed, dict) or sealed.keys() != {"sha256", "trial"}:
        raise ValueError("no trial")
    if sealed["sha256"] != _seal(sealed["trial"]):
        raise ValueError("its content does not match its checksum")
    trial = serialization.from_plain(Trial, sealed["trial"])
    if path.stem != trial.key:
        raise ValueError(f"it holds the trial {trial.key}")
    return trial


def _seal(plain: Any) -> str:
    """The SHA-256 of plain data's canonical JSON; ValueError for NaN and infinities."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in plain data with its path, such as `result.history.3.train_loss`."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(plain, list | tuple):
        for index, value in enumerate(plain):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(plain, int | float):
        yield name, plain


@contextlib.contextmanager
def _one_line(verb: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError of one line that names the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _first_line(error: Exception) -> str:
    lines = (str(error.strerror) if isinstance(error, OSError) else str(error)).splitlines()
    return lines[0] if lines else type(error).__name__
