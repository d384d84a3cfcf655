"""The table of a sweep that runs: seeds, epochs, rates and times by hand, whatever the clock."""

import dataclasses
import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mnet_jax.commands import terminal
from mnet_jax.commands.displays import RunProgress, SweepProgress, TimeEstimate
from mnet_jax.training.results import EpochRecord, Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def event(epoch, epochs=10, step=5, steps=10, phase="train", rate=600.0):
    return Progress(
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
    clock.now = 90.0
    progress.show("a", event(epoch=10, step=10))
    clock.now = 100.0  # evaluated
    progress.end("a")
    assert rows(progress)["linear"] == ["2/3", "1:40"]
    assert rows(progress)["all"] == ["2/6", "6:40"]


def test_a_trial_that_waits_for_another_says_so_and_has_no_time(progress, clock):
    progress.begin("a", "linear")
    progress.show("a", event(epoch=1, step=0, phase="waiting", rate=None))
    clock.now = 30.0
    assert rows(progress)["linear"] == ["1/3", "waiting"]
    begun, alone = (SweepProgress(progress._console, {"x": 1}, {}, clock) for _ in "ab")
    for display in (begun, alone):
        display.begin("t", "x")
    begun.show("t", event(epoch=1, step=0, phase="waiting", rate=None))
    for step in range(1, 4):
        clock.now += 2.0
        for display in (begun, alone):
            display.show("t", event(epoch=1, step=step))
    assert rows(begun)["x"] == rows(alone)["x"]


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
    progress.show("a", event(epoch=6, step=1, steps=3, phase="validation", rate=None))
    assert rows(progress)["linear"] == ["1/3", "6/10", "2:20"]  # 40 s and one of 100 s


def test_what_was_done_before_a_checkpoint_says_nothing_of_the_pace(progress, clock):
    clock.now = 10.0
    progress.begin("a", "linear")
    clock.now = 20.0  # compiled, and half of it is done
    progress.show("a", event(epoch=6, step=0))
    assert rows(progress)["linear"] == ["1/3", "6/10", "600"], "one event has no pace"
    clock.now = 30.0
    progress.show("a", event(epoch=7, step=0))  # an epoch in 10 s, four to go, and one of 100 s
    assert rows(progress)["linear"] == ["1/3", "7/10", "600", "2:20"]


def test_an_event_of_a_trial_that_is_over_is_passed_over(progress):
    progress.begin("a", "linear")
    progress.end("a")
    progress.show("a", event(epoch=1))
    assert rows(progress)["linear"][0] == "2/3"


# The time left, without what compiles. Times by hand: a step, a batch of an evaluation, and what
# the first of either takes more.


def events_of(epochs, steps, batches):
    """What a run reports, in order, with the functions that compile at it."""
    for epoch in range(1, epochs + 1):
        for step in range(1, steps + 1):
            yield event(epoch, epochs, step, steps), (epoch, step) == (1, 1)
        for batch in range(1, batches + 1):
            its = event(epoch, epochs, batch, None, "validation", None)
            yield its, (epoch, batch) == (1, 1)
        yield event(epoch, epochs, steps, steps, "epoch", None), False
    for batch in range(1, batches + 1):
        yield event(epochs, epochs, batch, None, "test", None), False


def times_left_of(epochs, steps, batches, seconds, compiling):
    """The time left after each event, and what is really left then, by a clock of its own."""
    clock = Clock()
    estimate, found = TimeEstimate(clock), []
    costs = {"train": seconds[0], "validation": seconds[1], "epoch": 0.0, "test": 0.0}
    run = [*events_of(epochs, steps, batches)]
    for at, (its, compiles) in enumerate(run):
        clock.now += costs[its.phase] + (compiling if compiles else 0.0)
        estimate.update(its)
        rest = sum(costs[later.phase] for later, _ in run[at + 1 :])
        found.append((its.phase, estimate.seconds_left, rest))
    return found


SIZES = {"epochs": st.integers(1, 6), "steps": st.integers(1, 9), "batches": st.integers(1, 3)}
SECONDS = st.floats(0.01, 100.0)


@given(**SIZES, step=SECONDS, batch=SECONDS, compiling=st.floats(0.0, 1e4))
def test_what_compiles_is_not_in_the_time_left(epochs, steps, batches, step, batch, compiling):
    slow = times_left_of(epochs, steps, batches, (step, batch), compiling)
    fast = times_left_of(epochs, steps, batches, (step, batch), 0.0)
    for (_, left, _), (_, other, _) in zip(slow, fast, strict=True):
        assert left == (other if other is None else pytest.approx(other, rel=1e-6, abs=1e-6))


@given(**SIZES, step=SECONDS, compiling=st.floats(0.0, 1e4))
def test_the_time_left_is_that_of_the_steps_left(epochs, steps, batches, step, compiling):
    """Where evaluations take none, from the second step on."""
    found = times_left_of(epochs, steps, batches, (step, 0.0), compiling)
    trained = [(left, rest) for phase, left, rest in found if phase == "train"]
    assert trained[0][0] is None
    for left, rest in trained[1:]:
        assert left == pytest.approx(rest, rel=1e-6, abs=1e-6)


@given(**SIZES, step=SECONDS, batch=SECONDS, compiling=st.floats(0.0, 1e4))
def test_evaluations_are_in_the_time_left(epochs, steps, batches, step, batch, compiling):
    """Behind each epoch: of the first evaluation the first batch compiles, so it is not known."""
    found = times_left_of(epochs, steps, batches, (step, batch), compiling)
    over = [left for phase, left, _ in found if phase == "epoch" and left is not None]
    first = epochs - len(over) + 1  # with a step an epoch nothing is known of the first
    for epoch, left in enumerate(over, start=first):
        validation = batches * batch - batch / epoch
        expected = (epochs - epoch) * (steps * step + validation)
        assert left == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_run_that_goes_on_with_an_evaluation_compiles_its_first_step_all_the_same():
    clock = Clock()
    estimate = TimeEstimate(clock)
    for seconds, its in (
        (0, event(1, 4, 1, None, "validation", None)),
        (0, event(1, 4, 1, 1, "epoch", None)),
        (1000, event(2, 4, 1, 1)),
        (5, event(3, 4, 1, 1)),
    ):
        clock.now += seconds
        estimate.update(its)
    assert estimate.seconds_left == pytest.approx(5.0)


def test_time_that_passes_is_taken_off():
    clock = Clock()
    estimate = TimeEstimate(clock)
    for second in (0.0, 10.0, 20.0):
        clock.now = second
        estimate.update(event(epoch=1, epochs=1, step=1 + int(second / 10), steps=10))
    assert estimate.seconds_left == pytest.approx(70.0)
    clock.now = 25.0
    assert estimate.seconds_left == pytest.approx(65.0)
    clock.now = 1e9
    assert estimate.seconds_left == 0.0


# Where the output is no terminal.


def lines_of(epochs, steps, batches=1):
    """What such a run prints there."""
    text, clock = io.StringIO(), Clock()
    progress = RunProgress(Console(file=text, width=40), clock)
    record = EpochRecord(
        epoch=1, step=1, learning_rate=0.1, train_loss=0.25, train_accuracy=0.5,
        validation_loss=0.75, validation_accuracy=0.625, seconds=1.0, images_per_second=1234.0,
    )  # fmt: skip
    with progress:
        progress.begin("mobilenet")
        for its, _ in events_of(epochs, steps, batches):
            clock.now += 1.0
            over = its.phase == "epoch"
            progress.show(dataclasses.replace(its, record=record if over else None))
    return text.getvalue().splitlines()


def test_each_epoch_leaves_a_line():
    lines = lines_of(epochs=20, steps=7)
    assert lines[0] == "compiling mobilenet ..."
    assert lines[1] == "step 1 of 140, epoch 1 of 20"
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [int(line.split()[1]) for line in epochs] == [*range(1, 21)]
    for words in ("0.2500", "50.00%", "0.7500", "62.50%", "1,234 images/s"):
        assert all(words in line for line in epochs)
    assert epochs[-1].endswith("; 0:00 left")


@given(epochs=st.integers(1, 3000), steps=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_many_epochs_leave_few_lines(epochs, steps):
    lines = lines_of(epochs, steps)
    assert len(lines) <= 120
    assert len([line for line in lines if line.startswith("epoch ")]) == min(epochs, 100)
    assert lines[-1].startswith(f"epoch {epochs} of {epochs}: ")


@pytest.mark.parametrize(("epochs", "steps"), [(1, 20_000), (2, 700)])
def test_long_epochs_leave_lines_within(epochs, steps):
    """No tenth of the work goes by without one, and they begin at once."""
    lines = [line for line in lines_of(epochs, steps) if line.startswith("step ")]
    places = [int(line.split()[1].replace(",", "")) for line in lines]
    assert places[:3] == [1, 10, 100] and len(places) < 20
    ends = sorted([0, *places, *(steps * epoch for epoch in range(1, epochs + 1))])
    assert max(b - a for a, b in itertools.pairwise(ends)) <= epochs * steps / 10 + 1


class Buffer(io.StringIO):
    """A file that knows whether what was written has been passed on."""

    held = False

    def write(self, text):
        self.held = True
        return super().write(text)

    def flush(self):
        self.held = False


def test_a_line_is_passed_on_at_once():
    pipe = Buffer()
    progress = RunProgress(Console(file=pipe))
    progress.begin("mobilenet")
    assert pipe.getvalue() and not pipe.held
    before = pipe.getvalue()
    progress.show(event(epoch=1, step=1))
    assert pipe.getvalue() > before and not pipe.held


def sweep_lines(trials, epochs=4):
    """What a sweep of so many trials prints there, which run two at a time."""
    text, clock = io.StringIO(), Clock()
    progress = SweepProgress(Console(file=text, width=200), {"a": trials}, {}, clock)
    with progress:
        for first in range(0, trials, 2):
            for trial in (first, first + 1):
                progress.begin(trial, "a")
            for its, _ in events_of(epochs, steps=5, batches=1):
                clock.now += 1.0
                for trial in (first, first + 1):
                    progress.show(trial, its)
            for trial in (first, first + 1):
                progress.end(trial)
    return text.getvalue().splitlines()


def test_a_sweep_of_few_trials_says_how_far_it_is():
    lines = sweep_lines(trials=2)
    assert lines[:2] == ["compiling a ...", "compiling a ..."]
    assert 5 <= len(lines[2:]) <= 10
    assert lines[2].startswith("0 of 2 trials ended, a in epoch 1/4, a in epoch 1/4; 1,200 images")
    assert lines[-1].endswith(" left")
    assert not [line for line in sweep_lines(trials=30) if "ended" in line], "each leaves a line"


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
