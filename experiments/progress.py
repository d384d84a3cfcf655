"""What a terminal shows while runs go on: a bar for one, a table of the arms for a sweep."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


class _Shown:
    """Something on the terminal from entering to leaving, in whatever way; a context manager."""

    def __init__(self, display: Live | Progress | None) -> None:
        self._display = display

    def __enter__(self) -> Self:
        if self._display:
            self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._display:
            self._display.stop()


class RunProgress(_Shown):
    """Shows `training.loop.Progress` events of one run after the other; a context manager.

    Where the output is no terminal it shows nothing.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        super().__init__(self._bars)
        self._task: TaskID | None = None

    def begin(self, description: str) -> None:
        """Starts the bar of the next run."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(description, total=None, detail="compiling")

    def show(self, event: Any) -> None:
        """Moves the bar to where an event says the run is."""
        if self._task is None:
            return
        rate = f"{event.images_per_second:,.0f} images/s" if event.images_per_second else ""
        detail = f"{event.phase}, epoch {event.epoch} of {event.epochs}, {rate}".rstrip(", ")
        self._bars.update(self._task, detail=detail)
        if event.phase == "train":
            self._bars.update(
                self._task,
                total=event.epochs * event.steps,
                completed=(event.epoch - 1) * event.steps + event.step,
            )


@dataclass
class _Trial:
    """A trial that runs now.

    Attributes:
      arm: whose.
      started: when.
      first: when it said for the first time how far it was, and what share of it was done: that may
        be much, where it goes on from a checkpoint.
      event: what it said last.
    """

    arm: str
    started: float
    first: tuple[float, float] | None = None
    event: Any = None

    @property
    def share(self) -> float:
        """How much of its training is done, 0 to 1."""
        event = self.event
        if event is None:
            return 0.0
        within = event.step / event.steps if event.phase == "train" and event.steps else 1.0
        if event.phase == "train" or event.epoch < event.epochs:
            return (event.epoch - 1 + within) / event.epochs
        return 1.0

    def left(self, now: float) -> float | None:
        """Seconds to its end at its pace since the first event; None before there is one."""
        since, before = self.first or (now, 0.0)
        done = self.share - before
        return (now - since) * (1 - self.share) / done if done else None


@dataclass
class _Arm:
    """How far an arm is."""

    asked: int
    done: int
    durations: list[float] = field(default_factory=list)


class SweepProgress(_Shown):
    """Shows a row for each arm of a sweep: seeds, epoch, rate and time left; a context manager.

    Trials are told apart by a key, so several may run at once. Where the output is no terminal it
    shows nothing; leaving it, in whatever way, gives the terminal back as it was.
    """

    def __init__(
        self,
        console: Console,
        asked: Mapping[str, int],
        done: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts with nothing running.

        Args:
          console: where it is shown.
          asked: the number of trials of each arm, in the order of the rows.
          done: how many of those are there already.
          clock: seconds, for the time left.
        """
        self._arms = {name: _Arm(asked=n, done=done.get(name, 0)) for name, n in asked.items()}
        self._running: dict[Hashable, _Trial] = {}
        self._clock = clock
        super().__init__(
            Live(console=console, get_renderable=self.table, refresh_per_second=4, transient=True)
            if console.is_interactive
            else None
        )

    def begin(self, trial: Hashable, arm: str) -> None:
        """A trial of an arm starts."""
        self._running[trial] = _Trial(arm=arm, started=self._clock())

    def show(self, trial: Hashable, event: Any) -> None:
        """A `training.loop.Progress` event of a trial that runs."""
        if running := self._running.get(trial):
            running.event = event
            running.first = running.first or (self._clock(), running.share)

    def end(self, trial: Hashable) -> None:
        """A trial has ended, with or without a result."""
        ended = self._running.pop(trial)
        arm = self._arms[ended.arm]
        arm.done += 1
        arm.durations.append(self._clock() - ended.started)

    def table(self) -> Table:
        """The rows as they are now, and one for the sweep where there are several."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("arm", overflow="fold")
        for header in ("seeds", "epoch", "images/s", "left"):
            table.add_column(header, justify="right", no_wrap=True)
        running, now = list(self._running.values()), self._clock()
        for name, arm in self._arms.items():
            its = [trial for trial in running if trial.arm == name]
            table.add_row(
                Text(name),
                f"{arm.done}/{arm.asked}",
                ", ".join(map(_epoch, its)),
                _rate(its),
                _clock_time(self._seconds_left({name: arm}, its, now)),
                style="" if its else "dim",
            )
        if len(self._arms) > 1:
            table.add_section()
            done = sum(arm.done for arm in self._arms.values())
            asked = sum(arm.asked for arm in self._arms.values())
            left = _clock_time(self._seconds_left(self._arms, running, now))
            table.add_row("all", f"{done}/{asked}", "", _rate(running), left)
        return table

    def _seconds_left(
        self, arms: Mapping[str, _Arm], running: list[_Trial], now: float
    ) -> float | None:
        """Until these arms are done, at as many trials at once as run now; None if unknown.

        A trial that waits takes as long as its arm's others did, or else as all others, or else as
        those that run will.
        """
        lefts = [trial.left(now) for trial in running]
        waiting = sum(arm.asked - arm.done for arm in arms.values()) - len(running)
        if not waiting and not running:
            return 0.0
        own = [seconds for arm in arms.values() for seconds in arm.durations]
        every = [seconds for arm in self._arms.values() for seconds in arm.durations]
        expected = [
            now - trial.started + left
            for trial in self._running.values()
            if (left := trial.left(now)) is not None
        ]
        known = own or every or expected
        if not known:
            return None
        usual = math.fsum(known) / len(known)
        begun = [
            max(usual - (now - trial.started), 0.0) if left is None else left
            for trial, left in zip(running, lefts, strict=True)
        ]
        at_once = max(len(self._running), 1)
        return max([*begun, (math.fsum(begun) + max(waiting, 0) * usual) / at_once])


def _epoch(trial: _Trial) -> str:
    """Where a trial is, such as `3/20`."""
    event = trial.event
    return "compiling" if event is None else f"{event.epoch}/{event.epochs}"


def _rate(trials: list[_Trial]) -> str:
    """Images per second of all trials together."""
    rates = [t.event.images_per_second for t in trials if t.event and t.event.images_per_second]
    return f"{math.fsum(rates):,.0f}" if rates else ""


def _clock_time(seconds: float | None) -> str:
    """`1:02:03`, `2:03`; nothing where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
