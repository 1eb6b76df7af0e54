"""A token pattern as the integers that kernels read."""

from __future__ import annotations

from svg.block_mask import Pairs
from svg.pattern import TokenPattern
from svg_kernels.tile_lists import PatternIntegers


def pattern_integers(pattern: Pairs | None) -> PatternIntegers:
    """Return the integers of a pattern; those that keep nothing where a mask has whole tiles only.

    Raises:
        ValueError: If the pattern is no band with sink and text, which integers say.
    """
    if pattern is None:
        return PatternIntegers()
    if not isinstance(pattern, TokenPattern):
        raise ValueError("kernels know partial tiles of a band only; set method.layout_transform=true")
    values = {name: getattr(pattern, name) for name in PatternIntegers._fields}
    if pattern.valid_stop is None:
        # No padding: every position is below the end.
        del values["valid_stop"]
    return PatternIntegers(**values)
