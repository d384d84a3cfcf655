"""The events of a sweep's journal: the start of a sweep, the start or the end of a trial.

A line of the journal holds one event in canonical JSON, and the SHA-256 of the event's text:

    {"sha256":"<64 hexadecimal digits>","event":{"type":"Trial", ...}}

An event has only one encoding, so a line with any flipped bit is recognized as damaged.
"""

import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mnet_jax import serialization
from mnet_jax.config import Arm, RunConfig
from mnet_jax.options.axes import AXES, RETIRED_AXES
from mnet_jax.statistics.intervals import Method
from mnet_jax.training.results import RunResult
from mnet_jax.validation import require

KEY_DIGITS = 16
KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
LINE = re.compile(rb'\{"sha256":"([0-9a-f]{64})","event":(.*)\}')


def key_of(config: RunConfig) -> str:
    """Returns the key of a config's trial: 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(serialization.to_json(config).encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One call of the `ablate` command: its arms and seeds, and everything that its report needs.

    Attributes:
      command: the command line.
      preset: the name of the preset; None if the command line named none.
      arms: the config of each arm's run with seed 0, in the order of the table's rows.
      seeds: the seeds that every arm is trained with.
      baseline: the config, with seed 0, of the arm that the others are compared with. The
        baseline need not be in `arms`.
      axes: the names of the varied axes.
      started: the time of the call, ISO 8601 in UTC.
      interval: the method of the report's confidence intervals.
    """

    command: str
    preset: str | None
    arms: tuple[RunConfig, ...]
    seeds: tuple[int, ...]
    baseline: RunConfig
    axes: tuple[str, ...]
    started: str
    interval: Method = "t"

    def __post_init__(self) -> None:
        require(bool(self.arms), "arms", (), "one or more")
        require(bool(self.seeds), "seeds", (), "one or more")
        require(min(self.seeds) >= 0, "seeds", self.seeds, "0 or more each")
        known = {axis.name for axis in (*AXES, *RETIRED_AXES)}
        unknown = next((name for name in self.axes if name not in known), None)
        require(unknown is None, "axes", unknown, "names of axes, such as width")
        seeded = next((arm for arm in (*self.arms, self.baseline) if arm.seed), None)
        require(seeded is None, "seed", seeded and seeded.seed, "0 in an arm")
        _require_utc("started", self.started)

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """The configs of all trials: all arms with the first seed, then all with the next."""
        return tuple(replace(arm, seed=seed) for seed in self.seeds for arm in self.arms)


@dataclass(frozen=True, kw_only=True)
class Started:
    """The start of a trial by a process.

    The trial's lease shows whether the trial still runs; the module `store` explains leases.

    Attributes:
      key: the trial's key.
      host: the machine's name.
      pid: the process id.
      worker: a random name of the process's `Store` object, never reused (unlike a process id).
      started: the time of the start, ISO 8601 in UTC.
    """

    key: str
    host: str
    pid: int
    worker: str
    started: str

    def __post_init__(self) -> None:
        legal = f"{KEY_DIGITS} hexadecimal digits"  # the key is part of a file name
        require(KEY.fullmatch(self.key) is not None, "key", self.key, legal)
        _require_utc("started", self.started)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The end of a trial, with a result or a failure.

    Attributes:
      key: `key_of(config)`.
      config: everything that determines the result.
      result: the result; None if the trial failed.
      cause: why the trial failed, in one line; None if it has a result.
      environment: the versions of the software, and the device.
      finished: the time of the end, ISO 8601 in UTC.
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
        _require_utc("finished", self.finished)


Event = Sweep | Started | Trial


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Wraps an event in a field: `serialization` adds a type tag only to fields that are unions."""

    event: Event


def _require_utc(name: str, text: str) -> None:
    try:
        utc = datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        utc = False
    require(utc, name, text, "an ISO 8601 time in UTC")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def sweep(
    command: str,
    arms: Sequence[Arm],
    num_classes: int,
    seeds: Sequence[int],
    baseline: Arm,
    axes: Sequence[str],
    preset: str | None = None,
    interval: Method = "t",
) -> Sweep:
    """Makes the event for a sweep that starts now, on a data set with `num_classes` classes."""
    return Sweep(
        command=command, preset=preset, seeds=tuple(seeds), axes=tuple(axes), started=_now(),
        interval=interval,
        arms=tuple(arm.config(num_classes) for arm in dict.fromkeys(arms)),
        baseline=baseline.config(num_classes),
    )  # fmt: skip


def start(key: str, worker: str) -> Started:
    """Makes the event for a trial that this process starts now."""
    return Started(
        key=key, host=socket.gethostname(), pid=os.getpid(), worker=worker, started=_now()
    )


def success(config: RunConfig, result: RunResult, environment: Mapping[str, str]) -> Trial:
    """Makes the event for the trial of a run that has just finished."""
    return Trial(
        key=key_of(config), config=config, result=result, cause=None,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


def failure(config: RunConfig, cause: str, environment: Mapping[str, str]) -> Trial:
    """Makes the event for a run that has just failed; joins the lines of `cause` into one."""
    line = " ".join(cause.split()) or "failed without a message"
    line = line.encode(errors="backslashreplace").decode()  # escapes lone surrogates of file names
    return Trial(
        key=key_of(config), config=config, result=None, cause=line,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


def to_line(event: Event) -> bytes:
    """Encodes an event as a line of the journal, with the line break.

    Raises:
      ValueError: a number is not finite; the message is one line with the number's name.
    """
    plain = serialization.to_plain(_Entry(event=event))["event"]
    _require_finite(plain)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return b'{"sha256":"%s","event":%s}\n' % (_seal(text), text)


def from_line(line: bytes) -> Event:
    """Decodes a line of the journal, given without the line break.

    Raises:
      ValueError: the line is damaged, or is not an event; the message is one line.
    """
    sealed = LINE.fullmatch(line)
    if not sealed:
        raise ValueError("not a line of a journal")
    seal, text = sealed.groups()
    if seal != _seal(text):
        raise ValueError("its content does not match its checksum")
    try:
        plain = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _require_finite(plain)
    return serialization.from_plain(_Entry, {"event": plain}).event


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _require_finite(plain: Any) -> None:
    """Raises ValueError for a number that is NaN, infinite or too large for a float."""
    for name, value in _numbers(plain):
        finite = abs(value) <= sys.float_info.max
        require(finite, name, value if isinstance(value, float) else "too much", "finite numbers")


def _numbers(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields every number in plain data with its path, such as `result.history.3.train_loss`."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(plain, list | tuple):
        for index, value in enumerate(plain):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(plain, int | float):
        yield name, plain
