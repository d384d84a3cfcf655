"""The store of trials: a directory with a journal, keyed by the hash of each trial's config.

A trial is a run of one config, seed included. What a sweep asks for may change from call to call;
what is stored is looked up by config alone, so nothing is lost or mixed. Several sweeps may work on
one directory at once: a trial is leased before it runs, and runs in one of them.
"""

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
from mnet_jax.ablation.leases import Leases
from mnet_jax.config import RunConfig
from mnet_jax.files import replace_file
from mnet_jax.result import RunResult


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a store held when it was read.

    Attributes:
      trials: by key, in the order they ended. The first result of a config counts, and before
        there is one its latest failure.
      sweeps: the calls, in their order.
      running: who runs a trial now, by its key.
    """

    trials: dict[str, Trial]
    sweeps: tuple[Sweep, ...]
    running: dict[str, Started]


class Store:
    """The trials under a directory, in its journal.

    Making or reading a store writes nothing; the directory appears with the first event. Leases are
    given up when it is closed, or its process ends.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._journal = Journal(self.directory)
        self._leases = Leases(self.directory / "leases")
        self._worker = secrets.token_hex(8)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self._leases.release_all()

    @property
    def path(self) -> Path:
        """The journal's."""
        return self._journal.path

    @property
    def complaints(self) -> tuple[str, ...]:
        """A line about each line of the journal, met so far, that could not be used."""
        return self._journal.complaints

    def read(self) -> Contents:
        """What is stored, and what is running.

        Raises:
          StoreError: the journal is there and cannot be read.
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
        """Adds an event, on disk when this returns; a trial that ended gives up its lease.

        Raises:
          ValueError: a number is not finite; one line with its name.
          StoreError: the journal cannot be written.
        """
        self._journal.append(event)
        if isinstance(event, Trial):
            self._leases.release(event.key)

    def finish(
        self, config: RunConfig, found: RunResult | str, environment: Mapping[str, str]
    ) -> Trial:
        """Stores how a trial ended, by its result or the cause of its failure.

        Returns:
          What is stored: a result with numbers that are not finite is a failure.

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

    def take_each(
        self, known: Mapping[str, Trial], configs: Iterable[RunConfig]
    ) -> Iterator[RunConfig | None]:
        """The configs to run here, each leased when it is asked for.

        What other processes run is left for last; if one of them dies, its trial is run here. Once
        a trial has ended, by a result or not, it is not run again. Storing how it ended gives a
        lease up, and so does closing the store.

        Args:
          known: the trials when the sweep began; of these, failures are run again.
          configs: all that are asked for.

        Yields:
          A config to run, or None while all that are left are running elsewhere: ask again later.

        Raises:
          StoreError: the journal or a lease cannot be written.
        """
        left = {key_of(config): config for config in missing(known, configs)}
        while left:
            idle = True
            for key, config in [*left.items()]:
                state = self._take(key, known.get(key))
                if state != "held":
                    del left[key]
                if state == "leased":
                    idle = False
                    yield config
            if idle and left:
                yield None

    def _take(self, key: str, known: Trial | None) -> Literal["leased", "held", "ended"]:
        with self._journal.writing() as writer:
            trial = _trials(writer.events).get(key)
            if trial and trial != known:
                return "ended"
            with store_errors("write", self._leases.directory):
                if not self._leases.take(key):
                    return "held"
            try:
                writer.append(to_line(start(key, self._worker)))
            except BaseException:
                self._leases.release(key)
                raise
        return "leased"


def _trials(events: Iterable[Event]) -> dict[str, Trial]:
    """The trials that count, in the order they ended."""
    trials: dict[str, Trial] = {}
    for event in events:
        if isinstance(event, Trial):
            earlier = trials.get(event.key)
            if earlier is None or earlier.result is None:
                trials.pop(event.key, None)
                trials[event.key] = event
    return trials


def missing(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[RunConfig, ...]:
    """The configs that no trial has a result for, in their order, each once."""
    distinct = {key_of(config): config for config in configs}
    return tuple(
        config
        for key, config in distinct.items()
        if key not in trials or trials[key].result is None
    )


def comparable(trials: Mapping[str, Trial], configs: Iterable[RunConfig]) -> tuple[Trial, ...]:
    """The trials, finished or failed, with the data, recipe, start and classes of any config."""

    def setting(config: RunConfig) -> tuple[object, ...]:
        return config.data, config.training, config.pretrained, config.spec.head.num_classes

    settings = {setting(config) for config in configs}
    return tuple(trial for trial in trials.values() if setting(trial.config) in settings)


def write_file(path: Path, content: bytes) -> None:
    """`files.replace_file`, whose OSError becomes a StoreError."""
    with store_errors("write", path):
        replace_file(path, content)


def write_text(path: Path, text: str) -> None:
    """`write_file` of text in UTF-8.

    Half characters, which Python makes of file names that are no UTF-8, are written as escapes.
    """
    write_file(path, text.encode(errors="backslashreplace"))
