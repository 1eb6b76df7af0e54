"""What changes the hash of code, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import svg

ROOT = Path(svg.__file__).parents[1]
METHOD = '''"""A method."""
import lonely_helper
from . import shared
from svg.layout import TokenLayout

def plan(x):
    """Say what it does."""
    return shared.double(x)  # twice
'''
SHARED = "def double(x):\n    return 2 * x\n"


@pytest.fixture
def package(tmp_path):
    """A package of somebody else's, with two modules, beside a module that is not of it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text(METHOD)
    (folder / "shared.py").write_text(SHARED)
    (folder / "unused.py").write_text("x = 1\n")
    (tmp_path / "lonely_helper.py").write_text("x = 1\n")
    return tmp_path


def hash_of(folder: Path, module: str = "theirs.method") -> str:
    """Return the hash as a process of its own finds it: a running one's code does not change."""
    code = f"from svg.code_hash import code_hash; print(code_hash({module!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def edit(folder: Path, name: str, old: str, new: str) -> None:
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("theirs/method.py", "  # twice", "  # two times"),
        ("theirs/method.py", '    """Say what it does."""\n', ""),
        ("theirs/method.py", '"""A method."""', '"""Another text."""'),
        ("theirs/shared.py", "2 * x", "(2 *\n            x)"),
        ("theirs/unused.py", "1", "2"),
        ("lonely_helper.py", "1", "2"),
    ],
)
def test_words_layout_and_what_is_not_imported_do_not_count(package, name, old, new):
    before = hash_of(package)
    edit(package, name, old, new)
    assert hash_of(package) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("theirs/method.py", "shared.double(x)", "shared.double(x + 1)"), ("theirs/shared.py", "2 *", "3 *")],
)
def test_a_change_of_the_code_or_of_what_it_imports_counts(package, name, old, new):
    before = hash_of(package)
    edit(package, name, old, new)
    assert hash_of(package) != before


def test_what_it_imports_of_ours_counts(package):
    before = hash_of(package)
    edit(package, "theirs/method.py", "from svg.layout import TokenLayout\n", "from svg.order import inverse\n")
    changed = hash_of(package)
    edit(package, "theirs/method.py", "from svg.order import inverse\n", "from svg.layout import TokenLayout\n")
    assert hash_of(package) == before != changed


def test_the_place_of_the_code_does_not_count(package, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (package / "theirs").rename(other / "theirs")
    (package / "lonely_helper.py").rename(other / "lonely_helper.py")
    before = hash_of(other)
    (other / "theirs").rename(package / "theirs")
    assert hash_of(package) == before


def test_a_module_that_is_not_there_is_refused(package):
    with pytest.raises(AssertionError, match="ValueError: the module theirs.none has no file"):
        hash_of(package, "theirs.none")
