"""Who imports what, read from the sources."""
import ast
import re
import sys

import pytest

from tests.helpers import ROOT

SOURCES = [ROOT / "train.py", ROOT / "infer.py", *sorted((ROOT / "pix2pix").glob("*.py"))]


def imported(path):
    """Full names: `from pix2pix import data` is pix2pix.data."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(path, module):
    return any(f"{name}.".startswith(f"{module}.") for name in imported(path))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_four_packages_and_the_standard_library_are_all_that_it_needs(path):
    allowed = sys.stdlib_module_names | {"torch", "torchvision", "numpy", "PIL", "pix2pix"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


def test_infer_needs_nothing_of_training():
    assert uses(ROOT / "infer.py", "pix2pix.weights")
    assert not uses(ROOT / "infer.py", "train") and not uses(ROOT / "infer.py", "pix2pix.run")


def test_only_repairs_use_damage():
    """Whoever reads the plain colorizer never meets it."""
    assert [path.name for path in SOURCES if uses(path, "pix2pix.damage")] == ["repair.py"]


def test_the_scripts_alone_use_repairs():
    """Whoever reads the plain colorizer meets them in two lines."""
    users = [path.name for path in SOURCES if uses(path, "pix2pix.repair")]
    assert users == ["train.py", "infer.py"]


def test_every_test_that_the_readme_names_is_there():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "README.md").read_text("utf-8"))
    assert len(named) >= 10
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{file}::{test}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_imports_train(path):
    assert not uses(path, "train")
