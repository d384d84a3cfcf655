"""The store of trials: a directory with a journal, keyed by the hash of each trial's config.

A trial is a run of one config, including its seed. Trials are looked up by their config alone, so
sweeps of different arms can share a store without losing or mixing results. Several sweeps may use
one directory at the same time. Before a process runs a trial, it takes the trial's lease: the right
to run this trial, which only one process can hold.

A lease is an flock on `leases/<key>.lock`. The operating system releases it when its process ends,
however it ends. So no timeout is needed to detect that the holder has died, and process ids, which
may be reused, are not compared. The lock files are empty and are never deleted. If several machines
share the directory, its file system must support locks across machines (NFS does).

To check a lease, a process takes the lease's lock for a moment. Another process
that tried to take the lease at this moment would fail. So leases are taken and checked only while
the journal is locked. This also ensures that the last `Started` event of a leased trial is from the
process that holds the lease.
"""

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mnet_jax.ablation.events import (
    Event,
    Started,
    Sweep,
    Trial,
    failure,
    key_of,
    start,
    success,
    to_line,
)
from mnet_jax.ablation.journal import Journal, StoreError, store_errors
from mnet_jax.config import RunConfig
from mnet_jax.files import open_regular, replace_file
from mnet_jax.training.results import RunResult


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The contents of a store when it was read.

    Attributes:
      trials: the trials by key, in the order in which they ended. If a trial ended several times,
        this is its first result or, if it has none, its latest failure.
      sweeps: the sweeps, in chronological order.
      running: the start event of each running trial, by key.
    """

    trials: dict[str, Trial]
    sweeps: tuple[Sweep, ...]
    running: dict[str, Started]


class Store:
    """A store of trials in a directory.

    A `Store` writes nothing when it is made or read. The first event creates the directory.

    A store is a context manager. On exit it releases its leases, which are locks on the trials that
    this process runs. The end of the process also releases the leases.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._journal = Journal(self.directory)
        self._leases = _Leases(self.directory / "leases")
        self._worker = secrets.token_hex(8)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self._leases.release_all()

    @property
    def path(self) -> Path:
        """The path of the journal."""
        return self._journal.path

    @property
    def complaints(self) -> tuple[str, ...]:
        """One message for each line of the journal that has been read and could not be used."""
        return self._journal.complaints

    def read(self) -> Contents:
        """Reads the stored trials and sweeps, and which trials are running.

        Raises:
          StoreError: the journal exists but cannot be read.
        """
        with self._journal.reading() as events, store_errors("read", self._leases.directory):
            trials = _trials(events)
            last = {event.key: event for event in events if not isinstance(event, Sweep)}
            running = {
                key: event
                for key, event in last.items()
                if isinstance(event, Started) and self._leases.is_live(key)
            }
            sweeps = tuple(event for event in events if isinstance(event, Sweep))
        return Contents(trials=trials, sweeps=sweeps, running=running)

    def append(self, event: Event) -> None:
        """Appends an event and flushes it to disk; a `Trial` event also releases the trial's lease.

        Raises:
          ValueError: a number is not finite; the message is one line with the number's name.
          StoreError: the journal cannot be written.
        """
        self._journal.append(event)
        if isinstance(event, Trial):
            self._leases.release(event.key)

    def finish(
        self, config: RunConfig, found: RunResult | str, environment: Mapping[str, str]
    ) -> Trial:
        """Stores the result or the failure of a trial.

        Args:
          config: the trial's config.
          found: the result, or the cause of the failure.
          environment: the versions of the software, and the device.

        Returns:
          The stored trial. A result with a number that is not finite is stored as a failure.

        Raises:
          StoreError: the journal cannot be written.
        """
        if isinstance(found, RunResult):
            trial = success(config, found, environment)
        else:
            trial = failure(config, found, environment)
        try:
            self.append(trial)
        except StoreError:
            raise
        except ValueError as error:
            trial = failure(config, str(error), environment)
            self.append(trial)
        return trial

    def lease_trials(
        self, known: Mapping[str, Trial], configs: Iterable[RunConfig]
    ) -> Iterator[RunConfig | None]:
        """Takes the leases of missing trials one after another; yields the config of each trial.

        The caller runs the trial. Trials that other processes run are skipped at first; if such a
        process dies, the config of its trial is yielded later. A trial that quantizes the network
        of another trial (`RunConfig.source`) is skipped until the other trial has ended. A trial
        that ends during the sweep, with a result or a failure, is not run again. `finish` releases
        the lease of a trial, and leaving the context of the store releases all leases.

        Args:
          known: the trials when the sweep began. Those that failed are run again.
          configs: all configs of the sweep.

        Yields:
          A config to run, or None if all remaining trials run already or wait for their source; the
          caller should wait before it requests the next item.

        Raises:
          StoreError: the journal or a lease cannot be written.
        """
        left = {key_of(config): config for config in missing(known, configs)}
        while left:
            idle = True
            for key, config in [*left.items()]:
                source = key_of(config.source) if config.source else None
                if source in left:
                    continue
                state = self._take(key, known.get(key), source)
                if state != "held":
                    del left[key]
                if state == "leased":
                    idle = False
                    yield config
            if idle and left:
                yield None

    def _take(
        self, key: str, known: Trial | None, source: str | None
    ) -> Literal["leased", "held", "ended"]:
        with self._journal.writing() as writer:
            trial = _trials(writer.events).get(key)
            if trial and trial != known:
                return "ended"
            with store_errors("write", self._leases.directory):
                source_runs = source is not None and self._leases.is_live(source)
                if source_runs or not self._leases.take(key):
                    return "held"
            try:
                writer.append(to_line(start(key, self._worker)))
            except BaseException:
                self._leases.release(key)
                raise
        return "leased"


def _trials(events: Iterable[Event]) -> dict[str, Trial]:
    """Returns one trial for each key, as in `Contents.trials`, in the order in which they ended."""
    trials: dict[str, Trial] = {}
    for event in events:
        if isinstance(event, Trial):
            earlier = trials.get(event.key)
            if earlier is None or earlier.result is None:
                trials.pop(event.key, None)
                trials[event.key] = event
    return trials


def missing(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[RunConfig, ...]:
    """Returns the configs without a result, in the given order and without duplicates."""
    distinct = {key_of(config): config for config in configs}
    return tuple(
        config
        for key, config in distinct.items()
        if key not in trials or trials[key].result is None
    )


def comparable(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[Trial, ...]:
    """Returns the trials that may be compared with the configs.

    These are the trials, finished or failed, that agree with one of the configs in data, training,
    pretrained weights, teacher and number of classes.
    """

    def setting(config: RunConfig) -> tuple[object, ...]:
        starts = config.pretrained, config.distillation
        return config.data, config.training, *starts, config.spec.head.num_classes

    settings = {setting(config) for config in configs}
    return tuple(trial for trial in trials.values() if setting(trial.config) in settings)


class _Leases:
    """The leases in a directory, and which of them this object holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[str, int] = {}

    def take(self, key: str) -> bool:
        """Takes the lease of a trial if the lease is free; returns whether it was free.

        A lease that another thread or another `_Leases` of this process holds is not free.

        Raises:
          OSError: the lock file cannot be created, or its path is not a regular file.
        """
        self.directory.mkdir(exist_ok=True)
        file = open_regular(self._path(key), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._held[key] = file
        return True

    def release(self, key: str) -> None:
        """Releases a lease; does nothing if this object does not hold it."""
        file = self._held.pop(key, None)
        if file is not None:
            os.close(file)

    def release_all(self) -> None:
        """Releases every lease that this object holds."""
        for key in [*self._held]:
            self.release(key)

    def is_live(self, key: str) -> bool:
        """Returns whether any process holds the lease of a trial now.

        Raises:
          OSError: the lock file cannot be read.
        """
        try:
            file = open_regular(self._path(key), os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(file)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.lock"


def write_file(path: Path, content: bytes) -> None:
    """Calls `files.replace_file`; raises StoreError instead of OSError."""
    with store_errors("write", path):
        replace_file(path, content)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8 with `write_file`.

    Python represents bytes of file names that are not UTF-8 as lone surrogates; these are escaped.
    """
    write_file(path, text.encode(errors="backslashreplace"))
