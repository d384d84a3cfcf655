"""The tree is what its maps say: docstrings of packages, CONTRIBUTING, paths in documents."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import mnet_jax

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("mnet_jax/**/__init__.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
WITHOUT_A_MAP = {"__init__", "__main__"}


def map_of(package):
    """The phrase for each module in the docstring of a package."""
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    return dict(re.findall(r"^- `(\w+)`: (.*?)[;.]$", text.replace("\n  ", " "), re.M))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_packages_docstring_names_its_modules(package):
    modules = {path.stem for path in package.glob("*.py")} - WITHOUT_A_MAP
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert map_of(package).keys() == modules | packages


def test_every_directory_with_modules_is_a_package():
    assert {path.parent for path in ROOT.glob("mnet_jax/**/*.py")} == {*PACKAGES}


def test_contributing_has_the_map_of_the_whole():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `(\w+)(/|\.py)` \| (.*?) \| [\w ]+ \|$", text, re.M)
    assert {name: phrase for name, _, phrase in rows} == map_of(ROOT / "mnet_jax")
    for name, kind, _ in rows:
        assert (ROOT / "mnet_jax" / f"{name}{kind}").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_in_documents_exist(document):
    named = re.findall(
        r"`((?:mnet_jax|experiments|tests|tools|docs)/[\w./]*)`", document.read_text()
    )
    assert not [path for path in named if not (ROOT / path).exists()]


def test_only_mnet_jax_is_installed():
    """Another top-level package, such as `experiments`, would hide a user's own."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = config["tool"]["setuptools"]["packages"]["find"]["include"]
    installed = {name.split(".")[0] for name in find_packages(str(ROOT), include=include)}
    assert installed == {mnet_jax.__name__}


def test_tests_mirror_the_packages():
    tops = {path.name for path in PACKAGES if path.parent.name == "mnet_jax"}
    directories = {path.parent.name for path in ROOT.glob("tests/*/test_*.py")}
    assert directories == tops
