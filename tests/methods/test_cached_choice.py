"""A choice that holds for several steps."""

from __future__ import annotations

import pytest
import torch

from svg.layout import TokenLayout
from svg.methods.cached_choice import CachedChoice
from svg.methods.svg import SparseVideoGen
from tests.methods.helpers import context_of, random_inputs

LAYOUT = TokenLayout(8, 30)
SETTINGS = {"density": 0.4, "block_size": 6, "num_sampled_rows": 8}


def choices(method, steps, num_heads=16):
    """Return the assignment and whether the heads were profiled, step by step, on other inputs each step."""
    state: dict = {}
    plans = [
        method.plan(random_inputs(LAYOUT, num_heads=num_heads, seed=step), context_of(LAYOUT, step=step, state=state))
        for step in steps
    ]
    return [plan.assignment for plan in plans], ["error" in plan.diagnostics for plan in plans]


def test_heads_are_profiled_at_the_first_sparse_step_and_every_few_steps_after_it():
    assigned, profiled = choices(CachedChoice(every=3, **SETTINGS), range(2, 10))
    assert profiled == [True, False, False, True, False, False, True, False]
    assert torch.equal(assigned[0], assigned[2]) and torch.equal(assigned[3], assigned[5])
    # Sixteen heads on other inputs do not all choose alike again.
    assert not torch.equal(assigned[0], assigned[3])


def test_a_choice_at_every_step_is_svg():
    ours, profiled = choices(CachedChoice(every=1, **SETTINGS), range(4))
    theirs, _ = choices(SparseVideoGen(**SETTINGS), range(4))
    assert all(profiled) and all(map(torch.equal, ours, theirs))


def test_another_layer_decides_for_itself():
    method, inputs = CachedChoice(every=9, **SETTINGS), random_inputs(LAYOUT, num_heads=16)
    plans = [method.plan(inputs, context_of(LAYOUT, layer=layer, state={})) for layer in (1, 2)]
    assert all("error" in plan.diagnostics for plan in plans)


def test_no_steps_between_two_decisions_is_refused():
    with pytest.raises(ValueError, match=r"method\.every is 0; it must be at least 1"):
        CachedChoice(every=0, density=0.4)
