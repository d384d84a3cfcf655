"""The table of a sweep that runs: seeds, epochs, rates and times by hand, whatever the clock."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from experiments import terminal
from experiments.progress import RunProgress, SweepProgress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def event(epoch, epochs=10, step=5, steps=10, phase="train", rate=600.0):
    return SimpleNamespace(
        phase=phase, epoch=epoch, epochs=epochs, step=step, steps=steps, images_per_second=rate
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    console = Console(file=io.StringIO(), width=80)
    return SweepProgress(console, {"linear": 3, "relu6": 3}, {"linear": 1}, clock)


def rows(progress):
    text = io.StringIO()
    Console(file=text, width=80, color_system=None).print(progress.table())
    lines = (line.split() for line in text.getvalue().splitlines())
    return {words[0]: words[1:] for words in lines if len(words) > 1 and "─" not in words[0]}


def test_before_anything_runs_no_time_is_known(progress):
    assert rows(progress) == {
        "arm": ["seeds", "epoch", "images/s", "left"],
        "linear": ["1/3"], "relu6": ["0/3"], "all": ["1/6"],
    }  # fmt: skip


def test_one_trial_at_a_time(progress, clock):
    progress.begin("a", "linear")
    assert rows(progress)["linear"] == ["1/3", "compiling"]
    progress.show("a", event(epoch=1, step=0))
    clock.now = 30.0
    progress.show("a", event(epoch=3))  # 2.5 of 10 epochs in 30 s: 90 s to go, 120 s in all
    found = rows(progress)
    assert found["linear"] == ["1/3", "3/10", "600", "3:30"]  # and one that waits: 90 + 120
    assert found["relu6"] == ["0/3", "6:00"]  # three that wait
    assert found["all"] == ["1/6", "600", "9:30"]
    clock.now = 100.0
    progress.end("a")
    assert rows(progress)["linear"] == ["2/3", "1:40"]
    assert rows(progress)["all"] == ["2/6", "6:40"]


def test_two_trials_at_once_share_what_is_left(progress, clock):
    progress.begin("a", "linear")
    progress.begin("b", "relu6")
    for trial in "ab":
        progress.show(trial, event(epoch=1, step=0))
    clock.now = 50.0
    for trial in "ab":
        progress.show(trial, event(epoch=5, step=10, rate=300.0))  # half of 100 s
    found = rows(progress)
    assert found["all"] == ["1/6", "600", "3:20"]  # (2 x 50 s under way + 3 x 100 s) / 2
    assert found["linear"][:3] == ["1/3", "5/10", "300"]


def test_an_evaluation_is_no_step_back(progress, clock):
    progress.begin("a", "linear")
    progress.show("a", event(epoch=1, step=0))
    clock.now = 60.0
    progress.show("a", event(epoch=6, step=1, steps=3, phase="validate", rate=None))
    assert rows(progress)["linear"] == ["1/3", "6/10", "2:20"]  # 40 s and one of 100 s


def test_what_was_done_before_a_checkpoint_says_nothing_of_the_pace(progress, clock):
    clock.now = 10.0
    progress.begin("a", "linear")
    clock.now = 20.0  # compiled, and half of it is done
    progress.show("a", event(epoch=6, step=0))
    assert rows(progress)["linear"] == ["1/3", "6/10", "600"], "one event has no pace"
    clock.now = 30.0
    progress.show("a", event(epoch=7, step=0))  # an epoch in 10 s, four to go, and one of 60 s
    assert rows(progress)["linear"] == ["1/3", "7/10", "600", "1:40"]


def test_an_event_of_a_trial_that_is_over_is_passed_over(progress):
    progress.begin("a", "linear")
    progress.end("a")
    progress.show("a", event(epoch=1))
    assert rows(progress)["linear"][0] == "2/3"


def test_where_there_is_no_terminal_nothing_is_shown(progress):
    with progress:
        progress.begin("a", "linear")
    assert progress._display is None


@pytest.mark.parametrize("progress_of", [RunProgress, lambda c: SweepProgress(c, {"a": 1}, {})])
def test_what_asks_for_colours_is_no_terminal(progress_of, monkeypatch, capsys):
    """Notebooks and continuous integration do."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = terminal.console(80)
    assert console.is_terminal  # as Rich has it
    with progress_of(console):
        console.print("a line")
    assert capsys.readouterr().out == "a line\n"


def test_the_terminal_is_given_back_after_an_interruption(clock):
    """The cursor is hidden while the table is live, and shown again however that ends."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), SweepProgress(console, {"linear": 1}, {}, clock):
        raise KeyboardInterrupt
    assert text.getvalue().rindex("\x1b[?25h") > text.getvalue().rindex("\x1b[?25l")


def test_a_name_is_no_markup(clock):
    console = Console(file=io.StringIO(), width=80)
    assert "[/b]" in rows(SweepProgress(console, {"[/b]": 1}, {}, clock))
