"""A token pattern as the integers that kernels read."""

from __future__ import annotations

from svg.block_mask import BlockMask
from svg.pattern import TokenPattern
from svg_kernels.tile_lists import PatternIntegers


def has_integers(mask: BlockMask | None) -> bool:
    """Return whether integers say what a mask keeps: its partial tiles are a ``TokenPattern``, or there are none."""
    return mask is None or isinstance(mask.pattern, TokenPattern) or not mask.has_partial


def pattern_integers(mask: BlockMask | None) -> PatternIntegers:
    """Return the integers of a mask that has them; those that keep nothing where it has whole tiles only."""
    if mask is None or not isinstance(mask.pattern, TokenPattern):
        assert has_integers(mask)
        return PatternIntegers()
    values = {name: getattr(mask.pattern, name) for name in PatternIntegers._fields}
    if mask.pattern.valid_stop is None:
        # No padding: every position is below the end.
        del values["valid_stop"]
    return PatternIntegers(**values)
