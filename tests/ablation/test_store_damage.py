"""Lines that cannot be vouched for are reported, kept and not used; the others count."""

import hashlib
import json
import os

import pytest
from journal_lines import seal
from stored_trials import TINY, journal_of, make_sweep, make_trial, recorded, snapshot

from mnet_jax.ablation import events
from mnet_jax.ablation.events import Sweep, to_line
from mnet_jax.ablation.store import Store, StoreError, key_of, missing


def resealed(line, value, *path):
    """A line with another value, its checksum made anew."""
    plain = json.loads(line)["event"]
    *steps, last = path
    inner = plain
    for step in steps:
        inner = inner[step]
    inner[last] = value
    return seal(plain)


DAMAGES = {
    "empty": lambda line: b"",
    "torn": lambda line: line[:-100],
    "zeros": lambda line: bytes(len(line)),
    "not text": lambda line: b"\xff\xfe\x00",
    "a list": lambda line: b"[]",
    "too deep": lambda line: b"[" * 100_000,
    "sealed, too deep": lambda line: (
        b'{"sha256":"%s","event":%s}'
        % (hashlib.sha256(b"[" * 100_000).hexdigest().encode(), b"[" * 100_000)
    ),
    "other JSON": lambda line: b'{"accuracy": 1}',
    "other event": lambda line: seal({"type": "Finished", "key": "0"}),
    "no event": lambda line: seal("Trial"),
    "twice": lambda line: line + line,
    "accuracy": lambda line: line.replace(b'"test_accuracy":0.9', b'"test_accuracy":0.99'),
    "NaN": lambda line: line.replace(b'"test_accuracy":0.9', b'"test_accuracy":NaN'),
    "spaces": lambda line: line.replace(b":", b": "),
    "seed": lambda line: resealed(line, 7, "config", "seed"),
    "illegal": lambda line: resealed(line, -1, "config", "seed"),
    "unknown field": lambda line: resealed(line, 0.5, "result", "f1"),
    "no result": lambda line: resealed(line, None, "result"),
    "text": lambda line: resealed(line, "5", "result", "params"),
    "sealed NaN": lambda line: resealed(line, float("nan"), "result", "test_loss"),
    "infinity": lambda line: resealed(line, float("inf"), "result", "history", 0, "seconds"),
    "too large": lambda line: resealed(line, 10**400, "result", "params"),
    "local time": lambda line: resealed(line, "2026-01-01T10:00:00+02:00", "finished"),
}


def test_the_format_is_what_it_says():
    for event in (make_trial(), make_sweep(), events.start("0" * 16, "worker")):
        line = to_line(event).removesuffix(b"\n")
        assert seal(json.loads(line)["event"]) == line
        assert json.loads(line)["event"]["type"] == type(event).__name__


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_doubtful_line_is_reported_and_kept(tmp_path, damage):
    before, bad, after = (make_trial(seed) for seed in range(3))
    lines = [to_line(trial).removesuffix(b"\n") for trial in (before, bad, after)]
    assert damage(lines[1]) != lines[1]
    lines[1] = damage(lines[1])
    journal_of(tmp_path).write_bytes(b"".join(line + b"\n" for line in lines))
    kept = snapshot(tmp_path)
    trials = Store(tmp_path)
    found = trials.read().trials
    assert found == {before.key: before, after.key: after}
    (complaint,) = trials.complaints
    assert complaint.startswith(f"{journal_of(tmp_path)}, line 2: not used, ")
    assert "\n" not in complaint and len(complaint) < 500
    assert missing(found, [before.config, bad.config]) == (bad.config,)
    assert snapshot(tmp_path) == kept

    trials.append(bad)
    assert Store(tmp_path).read().trials == {t.key: t for t in (before, after, bad)}
    assert journal_of(tmp_path).read_bytes().startswith(kept[journal_of(tmp_path)])
    assert trials.complaints == (complaint,), "each once"


EVENTS = {
    "unknown axis": (make_sweep(), "colour", "axes", 0),
    "negative seed": (make_sweep(), [0, -1], "seeds"),
    "no seeds": (make_sweep(), [], "seeds"),
    "a seeded arm": (make_sweep(), 3, "arms", 0, "seed"),
    "arms": (make_sweep(), {}, "arms"),
    "a key that leaves the folder": (events.start("0" * 16, "worker"), "../../up", "key"),
    "no key": (events.start("0" * 16, "worker"), "", "key"),
    "a process": (events.start("0" * 16, "worker"), "1", "pid"),
}


@pytest.mark.parametrize("oddity", EVENTS.values(), ids=EVENTS.keys())
def test_a_whole_line_of_an_odd_shape_is_reported_too(tmp_path, oddity):
    event, *change = oddity
    trial, lines = make_trial(), [to_line(e).removesuffix(b"\n") for e in (make_trial(1), event)]
    lines = [lines[0], resealed(lines[1], *change), to_line(trial).removesuffix(b"\n")]
    journal_of(tmp_path).write_bytes(b"".join(line + b"\n" for line in lines))
    store = Store(tmp_path)
    contents = store.read()
    assert trial.key in contents.trials and len(contents.trials) == 2
    assert contents.sweeps == () and contents.running == {}
    (complaint,) = store.complaints
    assert complaint.startswith(f"{journal_of(tmp_path)}, line 2: not used, ")
    assert "\n" not in complaint


def test_lines_that_end_by_crlf_are_as_good(tmp_path):
    """As an editor leaves them, or Git's autocrlf; and each checksum still counts."""
    trials = [make_trial(seed) for seed in range(3)]
    content = b"".join(map(to_line, trials)).replace(b"\n", b"\r\n")
    journal_of(tmp_path).write_bytes(content)
    store = Store(tmp_path)
    assert store.read().trials == {t.key: t for t in trials} and store.complaints == ()

    store.append(more := make_trial(3))
    assert journal_of(tmp_path).read_bytes() == content + to_line(more)
    assert Store(tmp_path).read().trials == {t.key: t for t in (*trials, more)}

    at = content.index(b"jax")
    journal_of(tmp_path).write_bytes(content[:at] + b"J" + content[at + 1 :])
    store = Store(tmp_path)
    assert list(store.read().trials) == [t.key for t in trials[1:]]
    assert "checksum" in store.complaints[0]


@pytest.mark.parametrize("name", ["journal.jsonl", "leases/{}.lock"])
def test_a_fifo_in_the_place_of_a_file_is_refused(tmp_path, name):
    """Nobody writes into it, so who opened it would wait for ever."""
    config = make_trial().config
    path = tmp_path / name.format(key_of(config))
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(StoreError, match=f"^cannot write .*: {path.name} is not a regular file$"):
        next(Store(tmp_path).lease_trials({}, [config]))
    if path == journal_of(tmp_path):
        with pytest.raises(StoreError, match=f"^cannot read .*: {path.name} is not a regular f"):
            Store(tmp_path).read()


def test_any_bit_that_flips_is_noticed(tmp_path):
    """Every byte, one bit of it in turn: what it touches is not used, the rest is unharmed."""
    trials = [make_trial(seed, spec=TINY) for seed in range(2)]
    lines = [to_line(trial) for trial in trials]
    whole = b"".join(lines)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        journal_of(tmp_path).write_bytes(flipped)
        store = Store(tmp_path)
        found = store.read().trials
        assert store.complaints, place
        # The first line's break joins it to the second.
        unharmed = [] if place == len(lines[0]) - 1 else [trials[place < len(lines[0])]]
        assert list(found.values()) == unharmed, place


@pytest.mark.parametrize("bit", range(8))
def test_any_bit_of_a_line_counts(bit):
    line = to_line(events.start("0" * 16, "worker")).removesuffix(b"\n")
    for place in range(len(line)):
        flipped = bytearray(line)
        flipped[place] ^= 1 << bit
        with pytest.raises(ValueError):
            events.from_line(bytes(flipped))


def table_of(directory):
    """What a report shows of the trials: everything but when they ended."""
    trials = Store(directory).read().trials
    return {key: (trial.config, trial.result, trial.cause) for key, trial in trials.items()}


def run_all(directory, sweep):
    """A sweep whose trials take no time; the seeds that it ran."""
    ran = []
    with Store(directory) as store:
        known = store.read().trials
        store.append(sweep)
        for config in store.lease_trials(known, sweep.configs):
            ran.append(config.seed)
            store.append(make_trial(config.seed, config.seed / 8, spec=TINY))
    return ran


@pytest.mark.slow
def test_a_kill_at_any_byte_of_the_journal(tmp_path, monkeypatch, exhaustive):
    """Cut anywhere, a sweep that is called again loses no line that was whole and runs no more
    than what is missing; the table is the same, and the torn piece is kept.
    """
    monkeypatch.setattr(os, "fsync", lambda file: None)  # power stays on, and it takes minutes
    sweep = make_sweep(seeds=(0, 1), spec=TINY)
    (whole := tmp_path / "whole").mkdir()
    assert run_all(whole, sweep) == [0, 1]
    content, table = journal_of(whole).read_bytes(), table_of(whole)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    around = {0, *(end + offset for end in ends for offset in (-2, -1, 0, 1))}
    some = {length for length in around if length <= len(content)} | {*range(0, len(content), 17)}
    for length in range(len(content) + 1) if exhaustive else sorted(some):
        (cut := tmp_path / str(length)).mkdir()
        journal_of(cut).write_bytes(content[:length])
        complete, torn = content[:length].rpartition(b"\n")[0::2]
        stored = complete.count(b'"type":"Trial"}')
        calls = complete.count(b'"type":"Sweep"}')

        store = Store(cut)
        assert len(store.read().trials) == stored, length
        assert [("cut off" in line) for line in store.complaints] == [True] * bool(torn), length
        assert journal_of(cut).read_bytes() == content[:length], "reading changes nothing"

        assert run_all(cut, sweep) == [0, 1][stored:], length
        assert table_of(cut) == table, length
        assert sorted(trial.config.seed for trial in recorded(cut)) == [0, 1], length
        assert len(recorded(cut, Sweep)) == calls + 1, length
        aside = [path.read_bytes() for path in cut.glob("journal.torn-*")]
        assert aside == [torn] * bool(torn), length


def test_a_torn_piece_is_set_aside_again_after_a_kill_in_between(tmp_path):
    """The piece was copied, the journal not yet cut: the next writer does it, with one copy."""
    trial = make_trial()
    journal_of(tmp_path).write_bytes(torn := to_line(trial)[:-1])
    copied = tmp_path / f"journal.torn-{hashlib.sha256(torn).hexdigest()[:8]}"
    copied.write_bytes(torn)
    store = Store(tmp_path)
    store.append(trial)
    assert store.read().trials == {trial.key: trial}
    assert [*tmp_path.glob("journal.torn-*")] == [copied]
    assert copied.name in store.complaints[0]


def test_a_second_torn_piece_has_its_own_place(tmp_path):
    store = Store(tmp_path)
    for piece in (b'{"sha256":"0', b'{"sha256":"1'):
        with journal_of(tmp_path).open("ab") as file:
            file.write(piece)
        store.append(make_trial())
    assert {path.read_bytes() for path in tmp_path.glob("journal.torn-*")} == {
        b'{"sha256":"0', b'{"sha256":"1',
    }  # fmt: skip
