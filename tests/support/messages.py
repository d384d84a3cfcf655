"""Calls commands, and checks that an error is one line that says enough."""

import re
import sys

import pytest


def call_command(module, words, monkeypatch, capfd):
    """The exit code, standard output and standard error of a command in this process."""
    monkeypatch.setattr(sys, "argv", [module.COMMAND, *words])
    try:
        module.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    return (code, *capfd.readouterr())


def assert_refused(answer, command, *expected):
    """The answer of `call_command` is one line that says each of `told`, and code 2.

    Nothing is printed before, but for what says that a data set is read.
    """
    code, out, err = answer
    assert code == 2 and (not out or re.fullmatch(r"reading .+ \.\.\.\n", out)), out
    assert err.startswith(f"experiments.{command}: ") and err.count("\n") == 1, err
    for text in expected:
        assert text in err


def one_line(error, call, *words):
    """The message of the error that `call` raises: one line that says each of `words`."""
    with pytest.raises(error) as caught:
        call()
    (message,) = str(caught.value).splitlines()
    for word in words:
        assert str(word) in message
    return message
