"""What the receipt says of blocks that a step cache skipped, and of sparse calls that ran dense."""

from __future__ import annotations

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import svg
from experiments import rows
from tests.tiny_pipelines import tiny_wan_pipeline

SETTINGS = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 4, "max_sequence_length": 16}
KEY = {"prompt_id": "p", "seed": 0}


def generate(pipeline):
    return pipeline("a red circle", generator=torch.Generator().manual_seed(0), output_type="latent", **SETTINGS)


def test_a_block_that_a_step_cache_skips_is_a_row_of_status_skipped():
    pipeline = tiny_wan_pipeline(num_layers=3)
    # So tolerant that every step after the first takes the cached rest.
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2), backend="reference") as run:
        generate(pipeline)
    places = [(step, layer, branch) for step in (1, 2, 3) for branch in ("cond", "uncond") for layer in (1, 2)]
    assert sorted(run.receipt.skipped) == sorted(places)
    found = list(rows.call_rows(run.receipt, 0.7, KEY))
    skipped = [row for row in found if row.status == "skipped"]
    assert sorted((row.step, row.layer, row.branch) for row in skipped) == sorted(places)
    assert all(row.value is None and row.reason == "a step cache skipped this block" for row in skipped)
    # What did run: three shares of each call.
    assert len(found) - len(skipped) == 3 * (4 * 3 * 2 - len(places))


def test_without_a_cache_nothing_is_skipped():
    pipeline = tiny_wan_pipeline()
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2), backend="reference") as run:
        generate(pipeline)
    assert run.receipt.skipped == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_call_that_fell_back_was_asked_for_sparse_and_computed_whole(strict):
    pipeline = tiny_wan_pipeline()
    attached = svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2), backend="sdpa", strict=strict)
    if strict:
        with pytest.raises(ValueError, match="sdpa computes dense plans only"), attached:
            generate(pipeline)
        return
    with attached as run:
        generate(pipeline)
    found = list(rows.call_rows(run.receipt, 0.7, KEY))
    assert {(row.protocol, row.value) for row in found} == {("requested", 0.7), ("tile", 1.0), ("token", 1.0)}
    assert all(row.backend == "sdpa" and "sdpa computes dense plans only" in row.reason for row in found)
