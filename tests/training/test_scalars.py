"""The scalars of a run, which a resumed one goes on with, whatever has become of their file."""

import json
import os
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import one_line

from mnet_jax.training.monitoring import SCALARS_FILE, Scalars

LINES = [b'{"step": 1, "loss": 2.0}\n', b'{"step": 2, "loss": NaN}\n']


@pytest.mark.parametrize("taken", [2, 1])
def test_scalars_survive_a_kill_before_the_next_are_written(tmp_path, taken):
    with Scalars(tmp_path, from_step=0) as log:
        for step in (1, 2):
            log.write(step, {"loss": 1.0})
    resumed = Scalars(tmp_path, from_step=taken)  # and no more
    lines = [json.loads(line) for line in resumed.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, taken + 1)]


def resumed(directory, content):
    """What a resumed run leaves of a file's content, and what it warns of."""
    (directory / SCALARS_FILE).write_bytes(content)
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        with Scalars(directory, from_step=2):
            pass
    return (directory / SCALARS_FILE).read_bytes(), [str(warning.message) for warning in expected]


@pytest.mark.parametrize(
    "bad",
    [
        b"\0" * 64,  # what a power cut leaves
        b'{"step": 2, "lo',
        b'{"step": 2}',  # whole but for its end
        b"\n",
        b"{}\n",
        b"[]\n",
        b"2\n",
        b'{"step": "x"}\n',
        b'{"step": null}\n',
        b'{"step": true}\n',
        b'{"step": 2.0}\n',
        b'{"step": 2, "loss": "x"}\n',
        b'{"step": 2, "loss": []}\n',
        b"\xff\xfe\n",
        b'{"step": ' + b"9" * 5000 + b"}\n",
        b"[" * 10**5 + b"\n",
    ],
)
def test_a_line_that_cannot_be_read_is_dropped_with_a_warning(tmp_path, bad):
    left, expected = resumed(tmp_path, LINES[0] + bad)
    assert left == LINES[0]
    assert expected == [f"{tmp_path / SCALARS_FILE}: 1 of 2 lines cannot be read and are dropped"]
    left, expected = resumed(tmp_path, LINES[0] + bad.rstrip(b"\n") + b"\n" + LINES[1])
    assert left in (b"".join(LINES), LINES[0] + b'{"step": 2}\n' + LINES[1])


def test_what_can_be_read_stays_to_the_byte_without_a_word(tmp_path):
    content = b"".join(LINES)
    assert resumed(tmp_path, content) == (content, [])


@settings(deadline=None, max_examples=30)
@given(content=st.binary(max_size=50))
def test_no_content_stops_a_run(tmp_path_factory, content):
    directory = tmp_path_factory.mktemp("run")
    left, expected = resumed(directory, content)
    assert left in content
    assert bool(expected) == (left != content)
    assert resumed(directory, left) == (left, [])


def test_a_fifo_in_its_place_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / SCALARS_FILE)
    one_line(OSError, lambda: Scalars(tmp_path, from_step=0), "not a regular file", SCALARS_FILE)
