"""The precisions of backends that know more than one, and what such a backend is called in a record."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["bf16", "fp8", "fp8_int8", "fp8_qk"]

# What queries and keys become; values and probabilities become e4m3, too, but where they stay as they are.
SCORES: dict[str, Literal["e4m3", "int8"]] = {"fp8": "e4m3", "fp8_int8": "int8", "fp8_qk": "e4m3"}
WIDE_VALUES = frozenset({"fp8_qk"})


def check_precision(name: str, precision: str) -> None:
    """Raise ``ValueError`` unless a backend's precision is known."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision of {name} is {precision!r}; it must be one of {', '.join(get_args(Precision))}")


def name_of(name: str, precision: str) -> str:
    """Return what a record calls a backend: its file, and its precision where that is not the inputs' own."""
    return name if precision == "bf16" else f"{name}_{precision}"
