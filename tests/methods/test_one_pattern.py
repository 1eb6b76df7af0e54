"""One pattern for all heads."""

from __future__ import annotations

import pytest

from svg.layout import TokenLayout
from svg.methods.one_pattern import OnePattern
from svg.methods.svg import SparseVideoGen
from tests.methods.helpers import context_of, random_inputs

LAYOUT = TokenLayout(6, 20)


@pytest.mark.parametrize(("kind", "index"), [("spatial", 0), ("temporal", 1)])
@pytest.mark.parametrize("settings", [{}, {"rounding": "token"}, {"sink": "none"}, {"key_order": "plain"}])
def test_its_mask_is_the_very_one_of_svg(kind, index, settings):
    settings = {"density": 0.5, "block_size": 4} | settings
    plan = OnePattern(pattern=kind, **settings).plan(random_inputs(LAYOUT), context_of(LAYOUT))
    assert plan.patterns == (SparseVideoGen(**settings).palette(LAYOUT)[index],)
    assert plan.patterns[0].name == kind
    assert plan.assignment.tolist() == [[0]]


def test_a_pattern_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"method\.pattern is 'both'; it must be one of spatial, temporal"):
        OnePattern(pattern="both", density=0.5)
