"""A token pattern as the integers that kernels read."""

from __future__ import annotations

from svg.pattern import TokenPattern
from svg_kernels.tile_lists import PatternIntegers


def pattern_integers(pattern: TokenPattern | None) -> PatternIntegers:
    """Return the integers of a pattern; those that keep nothing where a mask has whole tiles only."""
    if pattern is None:
        return PatternIntegers()
    values = {name: getattr(pattern, name) for name in PatternIntegers._fields}
    if pattern.valid_stop is None:
        # No padding: every position is below the end.
        del values["valid_stop"]
    return PatternIntegers(**values)
