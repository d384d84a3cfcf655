"""How commands begin and end: signals at once and in one line, standard output, platforms."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnet_jax.commands import command_line, entry

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parents[1] / "support" / "entry_program.py"
COMMANDS = (
    "ablate", "activations", "benchmark", "bottlenecks", "convert", "cost", "evaluate", "features",
    "export", "manifold", "quantize", "train",
)  # fmt: skip
GO_ON = ("ablate", "train")
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device is full")


def call(program, *words, cwd, **options):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *program, *words],
        cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True, timeout=120,
        **{"stdout": subprocess.PIPE} | options,
    )  # fmt: skip


def stopped(number, moment, module, command, *words, cwd):
    return call([PROGRAM], number.name, moment, module, command, *words, cwd=cwd)


def test_every_command_is_known_here():
    assert sorted(command_line.COMMANDS) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_a_command_imports_is_one_line(command, tmp_path):
    done = stopped(signal.SIGINT, "at once", "mnet_jax.commands.terminal", command, cwd=tmp_path)
    goes_on = ", the same command goes on" if command in GO_ON else ""
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == f"experiments.{command}: interrupted{goes_on}\n"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("command", "code"), [("cost", 143), ("train", 143), ("ablate", 130)])
def test_sigterm_while_a_command_imports_is_one_line(command, code, tmp_path):
    done = stopped(signal.SIGTERM, "at once", "mnet_jax.commands.terminal", command, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)


@pytest.mark.parametrize("moment", ["collecting", "computing"])
def test_ctrl_c_ends_a_command_wherever_its_main_thread_is(moment, tmp_path):
    words = ("manifold", "--draws", "1", "--dimensions", "2")
    done = stopped(signal.SIGINT, moment, "mnet_jax.analysis.manifold", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "experiments.manifold: interrupted\n"


def test_ctrl_c_while_processes_measure_ends_them(tmp_path):
    """By an exception: its process waits for others, and none of them may be left."""
    words = ("cost", "--measure", "--resolution", "32", "--width", "0.25", "--rounds", "1")
    done = stopped(signal.SIGINT, "at once", "mnet_jax.benchmark.layers", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "experiments.cost: interrupted\n")


# Standard output.


@needs_full
@pytest.mark.parametrize("words", [["--width", "0.25"], ["--help"]])
def test_a_full_standard_output_is_one_line(words, tmp_path):
    with open("/dev/full", "w") as full:
        done = call(["-m", "experiments.cost"], *words, cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "experiments.cost: standard output: No space left on device\n"


def test_a_reader_who_leaves_ends_a_command_as_sigpipe_does(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        done = call(["-m", "experiments.cost"], "--width", "0.25", cwd=tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_closed_standard_output_is_one_line(tmp_path):
    done = call(["-m", "experiments.cost"], cwd=tmp_path, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (1, "experiments.cost: standard output is closed\n")


def test_a_closed_standard_error_does_not_get_into_files_or_standard_output(tmp_path):
    done = call(["-m", "experiments.cost"], "--zzz", cwd=tmp_path, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("line", ["train --list", "ablate --list", "cost --width 0.25"])
def test_an_encoding_that_lacks_our_signs_is_no_error(line, encoding, tmp_path):
    command, *words = line.split()
    done = call(
        ["-m", f"experiments.{command}"], *words,
        cwd=tmp_path, env={"PYTHONIOENCODING": encoding}, encoding=encoding,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\x" not in done.stdout and "\\u" not in done.stdout  # all of ours have a substitute


# Errors that nobody has caught.


@pytest.mark.parametrize("given", ["nosuch", "cuda,nosuch"])
def test_a_platform_that_is_not_there_is_one_line(given, tmp_path):
    words = ["--draws", "1", "--dimensions", "2"]
    done = call(["-m", "experiments.manifold"], *words, cwd=tmp_path, env={"JAX_PLATFORMS": given})
    assert (done.returncode, done.stdout) == (2, "")
    start = f"experiments.manifold: JAX_PLATFORMS: got {given!r}, legal: "
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1
    assert "cpu" in done.stderr.removeprefix(start)
    assert not [*tmp_path.iterdir()]


def test_a_sweep_stores_no_failures_of_a_platform_that_is_not_there(tmp_path):
    done = call(
        ["-m", "experiments.ablate"], "--epochs", "1", "--seeds", "1",
        cwd=tmp_path, env={"JAX_PLATFORMS": "nosuch", "TFDS_DATA_DIR": str(tmp_path / "data")},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "JAX_PLATFORMS: got 'nosuch'" in done.stderr
    assert not (tmp_path / "results" / "journal.jsonl").exists()


def test_an_error_about_a_file_is_one_line_and_others_are_tracebacks_without_escapes(capsys):
    full = OSError(28, "No space left on device", "a\nb")
    assert entry.report_error("cost", full) == 1
    assert capsys.readouterr().err == "experiments.cost: a\\nb: No space left on device\n"
    assert entry.report_error("cost", RuntimeError("\x1b[31m\nsecond")) == 1
    output = capsys.readouterr().err
    assert "RuntimeError: \\x1b[31m" in output and "\x1b" not in output
    assert output.startswith("experiments.cost: ")


@pytest.mark.parametrize(("code", "found"), [(None, 0), (0, 0), (2, 2), (143, 143)])
def test_a_command_that_has_reported_cause_it_ends_says_no_more(code, found, capsys):
    assert entry.report_error("cost", SystemExit(code)) == found
    assert capsys.readouterr().err == ""


def test_a_library_that_leaves_by_its_words_is_heard(capsys):
    assert entry.report_error("cost", SystemExit("no\x07 licence")) == 1
    assert capsys.readouterr().err == "experiments.cost: no\\x07 licence\n"
