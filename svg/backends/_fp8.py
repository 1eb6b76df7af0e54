"""The precision of backends that know more than one: its settings, and what they are called in a record."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["bf16", "fp8"]
Scores = Literal["e4m3", "int8"]


def check_settings(name: str, precision: str, scores: str) -> None:
    """Raise ``ValueError`` unless the settings are known, and ``scores`` is given with ``precision=fp8`` only."""
    for setting, value, kind in (("precision", precision, Precision), ("scores", scores, Scores)):
        if value not in get_args(kind):
            raise ValueError(f"{setting} of {name} is {value!r}; it must be one of {', '.join(get_args(kind))}")
    if precision != "fp8" and scores != "e4m3":
        raise ValueError(f"scores of {name} is {scores!r}, which says how precision=fp8 rounds; set precision=fp8")


def name_of(name: str, precision: str, scores: str) -> str:
    """Return what a record calls a backend: its file, with ``_fp8`` or ``_fp8_int8`` where that is its precision."""
    if precision == "bf16":
        return name
    return f"{name}_fp8" if scores == "e4m3" else f"{name}_fp8_{scores}"
