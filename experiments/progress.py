"""A progress bar for a run: epochs, rate and time left."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class RunProgress:
    """Shows `training.loop.Progress` events of one run after the other; a context manager.

    Where the output is no terminal it shows nothing.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "RunProgress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

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
