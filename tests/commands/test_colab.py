"""Every cell of the notebook, on the CPU, with the package that is installed."""

import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
PARAMETERS = f"""
SOURCE, DATASET, EPOCHS, SEEDS = {str(ROOT)!r}, "digits", 1, 2
FLAGS = ["--width", "0.25", "--resolution", "8", "--repeats", "1"]
"""


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "experiments" / "colab.ipynb", as_version=4)


@pytest.fixture
def registry(tmp_path):
    """Skips where pip can reach no registry: what builds a package comes from there."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "setuptools"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode:
        pytest.skip("no package registry")


def tagged(notebook, tag):
    return next(cell for cell in notebook.cells if tag in cell.metadata.get("tags", ()))


def resolving(notebook):
    """The install cell, which finds out what it would install and leaves it at that."""
    source = tagged(notebook, "install").source
    assert '"--quiet"' in source
    return source.replace('"--quiet"', '"--dry-run"')


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.usefixtures("quickly_compiled")
def test_every_cell_runs_and_the_install_keeps_what_a_runtime_has(notebook, registry, tmp_path):
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as it is kept
    tagged(notebook, "parameters").source = PARAMETERS
    tagged(notebook, "install").source = resolving(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    would_install = text_of(tagged(notebook, "install")).partition("Would install")[2]
    assert re.findall(r"([\w-]+)-\d\S*", would_install) == ["mnet_jax"]
    kept = (tmp_path / "constraints.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in kept} >= {"jax", "jaxlib", "numpy"}
    train, ablate, use = (
        text_of(next(cell for cell in notebook.cells if cell.id == name))
        for name in ("train", "ablate", "use")
    )
    assert "images right" in train
    assert re.search(r"relu6 .*[0-9] ± [0-9]", ablate)
    assert use.startswith("mobilenet_v2 (1, 10) ")
    shown = next(cell for cell in notebook.cells if cell.id == "report").outputs[0]
    assert "<iframe" in shown["data"]["text/html"] and "relu6" in shown["data"]["text/html"]


def test_without_the_repositorys_address_the_install_says_so(notebook, tmp_path):
    program = tagged(notebook, "parameters").source + "\n" + tagged(notebook, "install").source
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.stderr.splitlines()[-1].startswith("ValueError: SOURCE: got 'git+https://github")
