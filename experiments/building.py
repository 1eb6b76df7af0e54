"""From settings to objects: the method by its ``_target_``, backends by name, every wrong key or type one line."""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from svg import backends
from svg.methods.svg_upstream import SvgUpstream


def build_method(settings: Mapping[str, Any], defaults: Mapping[str, Any], upstream: Mapping[str, Any]) -> Any:
    """Return the method that ``conf/method/*.yaml`` describes.

    Args:
        settings: ``_target_`` and the fields of the class.
        defaults: The model's values for fields that are null here; ``sparsity`` only where ``density`` is null too.
        upstream: The model family's values for what only the reference code's method has.

    Raises:
        ValueError: If the class is not there, or a field is unknown, of the wrong type or out of range.
    """
    target = settings.get("_target_")
    method_class = _find(target)
    given = {name: value for name, value in settings.items() if name != "_target_"}
    known = inspect.signature(method_class).parameters
    # Most methods lack some of these fields; svg_upstream has all that any of ours has.
    for group, names in (("model.method_defaults", defaults), ("model.upstream", upstream)):
        check_keys(group, names, {*known, *inspect.signature(SvgUpstream).parameters})
    check_keys("method", given, known)
    if given.get("density") is not None:
        defaults = {name: value for name, value in defaults.items() if name != "sparsity"}
    for name, value in {**defaults, **upstream}.items():
        if name in known and given.get(name) is None:
            given[name] = value
    hints = typing.get_type_hints(method_class)
    # A null that stays is the class's own default, unless null is one of its values.
    given = {name: value for name, value in given.items() if value is not None or _fits(None, hints.get(name, Any))}
    for name, value in given.items():
        _check_type(f"method.{name}", value, hints.get(name, Any))
    return method_class(**given)


def build_backend(settings: Mapping[str, Any], device_type: str, method: Any = None) -> Any:
    """Return the backend of ``conf/backend/*.yaml``: ``name`` and its fields; ``auto`` fits the device and the method.

    Raises:
        ValueError: If the name or a field is unknown, or a field has the wrong type.
    """
    given = {name: value for name, value in settings.items() if name != "name"}
    name = settings.get("name")
    if name == "auto":
        check_keys("backend", given, ())
        name = backends.fitting(device_type, method)
    if not isinstance(name, str):
        raise ValueError(f"backend.name is {name!r}; it must be auto or one of {', '.join(backends.names())}")
    backend_class = type(backends.get(name))
    check_keys("backend", given, [field for field in inspect.signature(backend_class).parameters if field != "name"])
    hints = typing.get_type_hints(backend_class)
    for field, value in given.items():
        _check_type(f"backend.{field}", value, hints.get(field, Any))
    return backends.get(name, **given)


def build_dense_backend(name: str) -> Any:
    """Return a dense backend by name: a file of ``svg/backends``, ``sdpa_`` and a kernel, or a file and its precision.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in backends.names() and name.startswith("sdpa_"):
        return backends.get("sdpa", kernel=name.removeprefix("sdpa_"))
    file, found, rest = name.partition("_fp8")
    if found and file in ("triton_block_sparse", "reference") and rest in ("", "_int8", "_qk"):
        return backends.get(file, precision=f"fp8{rest}")
    try:
        return backends.get(name)
    except ValueError:
        known = ", ".join(["auto", *backends.names()])
        raise ValueError(f"dense_backend is {name!r}; it must be one of {known}") from None


def dense_backend_modules(name: str, device_type: str) -> list[str]:
    """Return the full names of the modules that compute dense attention; of ``auto``, those of every candidate.

    Raises:
        ValueError: If there is no dense backend of this name.
    """
    if name == "auto":
        return backends.time_dense_modules(device_type)
    return [type(build_dense_backend(name)).__module__]


def check_keys(group: str, given: Mapping[str, Any], known: typing.Iterable[str]) -> None:
    """Raise ``ValueError`` for the first key that is not known, with the nearest one that is."""
    allowed = sorted(known)
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {group}.{near[0]}?" if near else f"known are {', '.join(allowed) or 'none'}"
            raise ValueError(f"{group}.{key} is no setting of this {group}; {hint}")


def _find(target: object) -> Any:
    if not isinstance(target, str) or "." not in target:
        raise ValueError(f"method._target_ is {target!r}; it must be the full name of a class")
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method._target_={target} cannot be imported: {error}") from None


def _check_type(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ValueError(f"{name} is {value!r}; it must be {_words(hint)}")


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    return True


def _words(hint: Any) -> str:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, str(hint))
