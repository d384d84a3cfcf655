"""Progress displays: a bar for a run, a table of arms for a sweep, plain lines for log files."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from mnet_jax.training.results import EpochRecord, Progress

COMPILING = "compiling"
MOST_EPOCH_LINES = 100  # the most lines that a run prints for its epochs
PARTS = 10  # with fewer epochs or trials than this, a line is printed for each tenth of the work


class _Shown:
    """A context manager that shows a Rich display, and removes it on exit, even after an error."""

    def __init__(self, display: Live | Bars | None) -> None:
        self._display = display

    def __enter__(self) -> Self:
        if self._display:
            self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._display:
            self._display.stop()


class TimeEstimate:
    """Estimates the remaining time of a run from the times of its events so far.

    The first training step and the first batch of an evaluation include compilation. In the first
    step of an epoch, the training loop waits for the step's result. These times are left out, as
    they do not predict the times of later steps. The time for validation and checkpoints is
    measured per epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Creates an estimate without events.

        Args:
          clock: returns the time in seconds.
        """
        self._clock = clock
        self._before: float | None = None  # the time of the last event
        self._has_run: set[bool] = set()  # True: a training step; False: an evaluation step
        # Four sums of seconds: in steps; outside of steps, in epochs that have ended; outside of
        # steps, since the end of such an epoch; after the run's last epoch.
        self._step_seconds = self._other_seconds = 0.0
        self._other_seconds_of_epoch = self._test_seconds = 0.0
        self._steps_timed = self._epochs_ended = 0  # the numbers of steps and epochs in these times
        self._steps = self._epochs = 0  # steps per epoch; epochs of the run
        self._epochs_left = 0
        self.done = 0  # steps

    def update(self, event: Progress) -> None:
        """Updates the estimate with an event; call it as soon as the event happens."""
        if event.phase == "waiting":
            return
        now, trains = self._clock(), event.phase == "train"
        spent = 0.0 if self._before is None else now - self._before
        known, self._before = self._before is not None, now
        steps = event.steps or 0  # always known for a training step
        if trains:
            self._steps = steps
            done = (event.epoch - 1) * steps + event.step
        else:
            done = event.epoch * self._steps
        starts = trains and event.step == 1 and steps > 1  # the first step of an epoch
        fresh = event.phase != "epoch" and trains not in self._has_run
        advance, self.done = max(done - self.done, 0), done
        if event.phase != "epoch":
            self._has_run.add(trains)
        if (trains and known and not fresh and not starts) or (not trains and advance):
            self._step_seconds += spent  # for `advance` steps: with Ray not every event arrives
            self._steps_timed += advance
        elif not trains and not fresh:
            self._other_seconds_of_epoch += spent
        is_over = event.phase in ("epoch", "test")
        self._epochs, self._epochs_left = event.epochs, event.epochs - event.epoch + (not is_over)
        if event.phase == "epoch":
            self._other_seconds += self._other_seconds_of_epoch
            self._other_seconds_of_epoch, self._epochs_ended = 0.0, self._epochs_ended + 1

    def stop(self) -> None:
        """Notes the end of the run.

        From now on, `total_seconds` includes the time since the last epoch, which is the time of
        the evaluation on the test split.
        """
        if self._before is not None:
            self._test_seconds = self._other_seconds_of_epoch + self._clock() - self._before

    @property
    def total_steps(self) -> int:
        """The number of steps of the run; 0 if it is not known yet."""
        return self._epochs * self._steps

    @property
    def total_seconds(self) -> float | None:
        """The estimated time of the whole run in seconds, without compilation; None if unknown."""
        seconds = self._seconds(self.total_steps, self._epochs)
        return None if seconds is None else seconds + self._test_seconds

    @property
    def seconds_left(self) -> float | None:
        """The estimated time until the run ends, in seconds; None if unknown."""
        seconds = self._seconds(self.total_steps - self.done, self._epochs_left)
        if seconds is None or self._before is None:
            return None
        return max(seconds - (self._clock() - self._before), 0.0)

    def _seconds(self, steps: int, epochs: int) -> float | None:
        """Estimates the seconds of some steps, and of validation and checkpoints in some epochs."""
        if not self._steps_timed:
            return None
        other = self._other_seconds / self._epochs_ended if self._epochs_ended else 0.0
        return self._step_seconds / self._steps_timed * steps + other * epochs


class RunProgress(_Shown):
    """Shows the `Progress` of one run after another; a context manager.

    On a terminal it shows a bar and removes it at the end. Elsewhere it prints lines: one for each
    epoch (at most `MOST_EPOCH_LINES`), and one for each tenth of the steps if the run has fewer
    than `PARTS` epochs. During the first epoch, steps 1, 10, 100 and so on also get a line.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Creates a display without a run.

        Args:
          console: where to print.
          clock: returns the time in seconds.
        """
        self._console, self._clock = console, clock
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        super().__init__(self._bars)
        self._task: TaskID | None = None
        self._estimate = TimeEstimate(clock)
        self._from: int | None = None  # the number of steps before the first event
        self._ended = False  # whether an epoch has ended

    def begin(self, description: str) -> None:
        """Starts the bar of the next run."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(description, total=None, detail=COMPILING)
        self._estimate, self._from, self._ended = TimeEstimate(self._clock), None, False
        self._say(f"{COMPILING} {description} ...")

    def show(self, event: Progress) -> None:
        """Updates the bar with an event, or prints a line if one is due."""
        if self._task is None:
            return
        self._estimate.update(event)
        left = _left(self._estimate.seconds_left)
        # The rate of a run's first step includes compilation.
        known = event.images_per_second and self._from is not None
        rate = f"{event.images_per_second:,.0f} images/s" if known else ""
        if event.phase == "epoch":
            self._ended = True
            if event.record and is_due(event.epoch, event.epochs, MOST_EPOCH_LINES):
                self._say(_epoch_line(event, event.record, left))
            return
        epoch = f"epoch {event.epoch} of {event.epochs}"
        detail = [event.phase, epoch, rate, left]
        self._bars.update(self._task, detail=", ".join(filter(None, detail)))
        if event.phase == "train":
            done, total = self._estimate.done, self._estimate.total_steps
            self._bars.update(self._task, total=total, completed=done)
            if self._has_line(event):
                line = [f"step {done:,} of {total:,}", epoch, rate, left]
                self._say(", ".join(filter(None, line)))

    def _has_line(self, event: Progress) -> bool:
        """Returns whether to print a line for a training step, by the rules of `RunProgress`."""
        done = self._estimate.done
        if self._from is None:
            self._from = done - 1
        taken = str(done - self._from)
        if not self._ended and taken == "1" + "0" * (len(taken) - 1):
            return True
        few, last = event.epochs < PARTS, event.step == event.steps
        return few and not last and is_due(done, self._estimate.total_steps, PARTS)

    def _say(self, line: str) -> None:
        """Prints a line and flushes the console, if there is no bar."""
        if not self._console.is_interactive:
            self._console.print(line, soft_wrap=True)


def is_due(count: int, total: int, lines: int) -> bool:
    """Returns whether a line is due at `count`, if `lines` lines are spread evenly up to `total`.

    The last line is at `total`.
    """
    return count * lines // total > (count - 1) * lines // total


def _epoch_line(event: Progress, record: EpochRecord, left: str) -> str:
    parts = [
        f"epoch {event.epoch} of {event.epochs}: training loss {record.train_loss:.4f}, "
        f"{record.train_accuracy:.2%} right",
        f"validation loss {record.validation_loss:.4f}, {record.validation_accuracy:.2%} right",
        f"{record.images_per_second:,.0f} images/s",
        left,
    ]
    return "; ".join(filter(None, parts))


def _left(seconds: float | None) -> str:
    """Formats the time left, such as `2:03 left`; empty if unknown."""
    return "" if seconds is None else f"{_clock_time(seconds)} left"


@dataclass
class _Trial:
    """A running trial.

    Attributes:
      arm: the name of the arm.
      estimate: the estimate of the trial's remaining time.
      event: the trial's last event.
    """

    arm: str
    estimate: TimeEstimate
    event: Progress | None = None

    @property
    def share(self) -> float:
        """The share of the training steps that are done, 0 to 1."""
        return self.estimate.done / self.estimate.total_steps if self.estimate.total_steps else 0.0


@dataclass
class _Arm:
    """The progress of an arm.

    Attributes:
      trials: the number of trials of the arm.
      done: the number of these trials that have ended.
      durations: estimated times of the ended trials, in seconds, without compilation.
    """

    trials: int
    done: int
    durations: list[float] = field(default_factory=list)


class SweepProgress(_Shown):
    """Shows a row for each arm of a sweep: seeds, epoch, rate and time left; a context manager.

    Several trials may run at the same time; each is identified by a key. On exit, even after an
    error, the terminal is restored. If the output is not a terminal, lines are printed instead. A
    trial gets a line when it starts, if no trial has reported progress yet. If fewer than `PARTS`
    trials are to run, there is also a line after each of `PARTS` equal parts of the work. The
    caller prints the line at the end of a trial.
    """

    def __init__(
        self,
        console: Console,
        trials: Mapping[str, int],
        done: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a display without running trials.

        Args:
          console: where to print.
          trials: the number of trials of each arm, in the order of the rows.
          done: the number of trials of each arm that have already ended.
          clock: returns the time in seconds.
        """
        self._arms = {name: _Arm(trials=n, done=done.get(name, 0)) for name, n in trials.items()}
        self._running: dict[Hashable, _Trial] = {}
        self._console, self._clock = console, clock
        self._to_run = sum(arm.trials - arm.done for arm in self._arms.values())
        self._parts = self._ended = 0  # parts of the work that are done; trials that have ended
        super().__init__(
            Live(console=console, get_renderable=self.table, refresh_per_second=4, transient=True)
            if console.is_interactive
            else None
        )

    def begin(self, trial: Hashable, arm: str) -> None:
        """Notes that a trial of an arm starts."""
        if not self._ended and all(other.event is None for other in self._running.values()):
            self._say(f"{COMPILING} {arm} ...")
        self._running[trial] = _Trial(arm=arm, estimate=TimeEstimate(self._clock))

    def show(self, trial: Hashable, event: Progress) -> None:
        """Updates the display with an event of a running trial."""
        if running := self._running.get(trial):
            running.event = event
            running.estimate.update(event)
            self._say_how_far()

    def end(self, trial: Hashable) -> None:
        """Notes that a trial has ended, with or without a result."""
        ended = self._running.pop(trial)
        ended.estimate.stop()
        arm = self._arms[ended.arm]
        arm.done += 1
        self._ended += 1
        if (seconds := ended.estimate.total_seconds) is not None:
            arm.durations.append(seconds)

    def _say_how_far(self) -> None:
        """If few trials are to run, prints a line when another part of the work is done."""
        done = self._ended + math.fsum(trial.share for trial in self._running.values())
        parts = math.floor(PARTS * done / max(self._to_run, 1))
        if parts <= self._parts:
            return
        self._parts = parts
        running = list(self._running.values())
        if self._to_run >= PARTS or all(trial.share == 1 for trial in running):
            return  # a trial is about to end, which prints a line
        places = ", ".join(f"{trial.arm} {_activity(trial)}" for trial in running)
        rate = _rate(running)
        left = _left(self._seconds_left(self._arms, running))
        words = [
            f"{self._ended} of {self._to_run} trials ended, {places}",
            f"{rate} images/s" if rate else "",
            left,
        ]
        self._say("; ".join(filter(None, words)))

    def _say(self, line: str) -> None:
        if not self._console.is_interactive:
            self._console.print(line, soft_wrap=True)

    def table(self) -> Table:
        """Returns the current table; with several arms, the last row is for the whole sweep."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("arm", overflow="fold")
        for header in ("seeds", "epoch", "images/s", "left"):
            table.add_column(header, justify="right", no_wrap=True)
        running = list(self._running.values())
        for name, arm in self._arms.items():
            its = [trial for trial in running if trial.arm == name]
            table.add_row(
                Text(name),
                f"{arm.done}/{arm.trials}",
                ", ".join(map(_epoch, its)),
                _rate(its),
                _clock_time(self._seconds_left({name: arm}, its)),
                style="" if its else "dim",
            )
        if len(self._arms) > 1:
            table.add_section()
            done = sum(arm.done for arm in self._arms.values())
            trials = sum(arm.trials for arm in self._arms.values())
            left = _clock_time(self._seconds_left(self._arms, running))
            table.add_row("all", f"{done}/{trials}", "", _rate(running), left)
        return table

    def _seconds_left(self, arms: Mapping[str, _Arm], running: list[_Trial]) -> float | None:
        """Estimates the seconds until all trials of `arms` have ended; None if unknown.

        The number of parallel trials is assumed to stay the same. A trial without an estimate is
        assumed to take the mean time of the first of these groups that is not empty: the ended
        trials of `arms`, all ended trials, the running trials with an estimate.
        """
        waiting = sum(arm.trials - arm.done for arm in arms.values()) - len(running)
        if not waiting and not running:
            return 0.0
        own = [seconds for arm in arms.values() for seconds in arm.durations]
        every = [seconds for arm in self._arms.values() for seconds in arm.durations]
        totals = (trial.estimate.total_seconds for trial in self._running.values())
        known = own or every or [seconds for seconds in totals if seconds is not None]
        if not known:
            return None
        usual = math.fsum(known) / len(known)
        lefts = (trial.estimate.seconds_left for trial in running)
        begun = [usual if left is None else left for left in lefts]
        at_once = max(len(self._running), 1)
        return max([*begun, (math.fsum(begun) + max(waiting, 0) * usual) / at_once])


def _activity(trial: _Trial) -> str:
    """Formats what a trial does, such as `in epoch 3/20`."""
    is_silent = trial.event is None or trial.event.phase == "waiting"
    return _epoch(trial) if is_silent else f"in epoch {_epoch(trial)}"


def _epoch(trial: _Trial) -> str:
    """Formats the epoch of a trial, such as `3/20`."""
    event = trial.event
    if event is None:
        return COMPILING
    return "waiting" if event.phase == "waiting" else f"{event.epoch}/{event.epochs}"


def _rate(trials: list[_Trial]) -> str:
    """Formats the images per second of all trials together."""
    rates = [t.event.images_per_second for t in trials if t.event and t.event.images_per_second]
    return f"{math.fsum(rates):,.0f}" if rates else ""


def _clock_time(seconds: float | None) -> str:
    """Formats a time, such as `1:02:03` or `2:03`; empty if unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
