"""Which code computes a result, as a hash of syntax trees: comments, docstrings and layout do not count."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# Packages of ours that are followed; a module of another one is followed within its own.
PACKAGES = ("svg", "svg_kernels")


@cache
def code_hash(*modules: str) -> str:
    """Return 16 hex digits of the code of some modules and of what they import, lazily or not.

    Read once in a process, whose code does not change either.

    Followed are imports within the packages of ``PACKAGES`` and within the package that each module stands in. A
    package's own ``__init__`` counts where it is itself imported.

    Args:
        modules: Full names.

    Raises:
        ValueError: If a module has no file that could tell its versions apart.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    packages = {*PACKAGES, *(name.partition(".")[0] for name in waiting)}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        file = _file(name)
        if file is None:
            raise ValueError(f"the module {name} has no file, so that a change of its code could not be told")
        found[name], imported = _read(name, file)
        # A name that is imported from a module may be a module itself.
        waiting += [other for other in imported if other.partition(".")[0] in packages and _file(other) is not None]
    lines = [f"{name} {digest}\n" for name, digest in sorted(found.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@cache
def _read(name: str, file: Path) -> tuple[str, tuple[str, ...]]:
    """Return the hash of one file and the names that it imports; what is no Python is hashed byte by byte."""
    content = file.read_bytes()
    if file.suffix != ".py":
        return hashlib.sha256(content).hexdigest(), ()
    tree = ast.parse(content, file.name)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imported = tuple(dict.fromkeys(other for node in ast.walk(tree) for other in _imports(node, package)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _imports(node: ast.AST, package: str) -> list[str]:
    """Return the modules that a statement imports, and what may be one: ``from svg import store`` is ``svg.store``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
    origin = ".".join([*above, *([node.module] if node.module else [])])
    inner = [f"{origin}.{alias.name}" for alias in node.names]
    return inner if all(_file(name) for name in inner) else [origin, *inner]


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        del node.body[0]


def _file(name: str) -> Path | None:
    """Return the file of a module; None where there is no such module, or it has none."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return None if file is None else Path(file)
    return _find(name)


@cache
def _find(name: str) -> Path | None:
    package, _, own = name.rpartition(".")
    if not package:
        spec = importlib.util.find_spec(name)
        return None if spec is None or not spec.has_location or spec.origin is None else Path(spec.origin)
    above = _file(package)
    if above is not None:
        return _beside([str(above.parent)], own) if above.name == "__init__.py" else None
    # A package without an __init__ has folders, and no file.
    return _beside(getattr(sys.modules.get(package), "__path__", ()), own)


def _beside(folders: Iterable[str], own: str) -> Path | None:
    for folder in folders:
        for file in (Path(folder, own, "__init__.py"), Path(folder, f"{own}.py")):
            if file.is_file():
                return file
        compiled = next(iter(sorted(Path(folder).glob(f"{own}.*.so"))), None)
        if compiled is not None:
            return compiled
    return None
