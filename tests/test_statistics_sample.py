"""Which calls and rows are sampled, and that a generation does not notice it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import svg
from svg.layout import TokenLayout
from svg.methods.dense import Dense
from svg.plan import AttentionPlan
from svg.statistics_sample import spread
from tests.methods.helpers import context_of, inputs_of, random_tensors
from tests.tiny_cogvideox import tiny_cogvideox_pipeline
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline, tiny_wan_pipeline

ALL = svg.StatisticsSample(layers_apart=1, steps_apart=1)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 30, 50, 61])
@pytest.mark.parametrize("apart", [1, 3, 8, 10])
def test_at_least_one_in_so_many_is_picked_evenly(count, apart):
    picked = spread(count, apart)
    assert len(picked) * apart >= count
    assert len(set(picked)) == len(picked)
    assert set(picked) <= set(range(count))
    # No stretch before, between or after them is left out.
    edges = [-1, *picked, count]
    assert max(b - a - 1 for a, b in pairwise(edges)) <= apart


def test_a_call_is_covered_where_its_layer_and_its_step_are():
    sample = svg.StatisticsSample(layers_apart=8, steps_apart=10)
    layout = TokenLayout(3, 5)
    covered = {
        (step, layer)
        for step in range(50)
        for layer in range(30)
        if sample.covers(context_of(layout, layer=layer, num_layers=30, step=step, num_steps=50))
    }
    assert covered == {(step, layer) for step in (5, 15, 25, 35, 45) for layer in (3, 11, 18, 26)}


def test_all_rows_are_measured_where_there_are_fewer_and_padding_is_none_of_them():
    layout = TokenLayout(3, 5, num_text_tokens=4)
    tensors = random_tensors(layout, batch=2)
    context = context_of(layout)
    assert ALL.measure(inputs_of(*tensors), AttentionPlan.dense(), context).num_rows == 19
    lengths = torch.tensor([19, 17])
    found = ALL.measure(inputs_of(*tensors, key_lengths=lengths), AttentionPlan.dense(lengths), context)
    assert (found.num_rows, found.num_video_rows) == (17, 15)


def test_fewer_rows_are_others_at_every_step_and_layer_and_the_same_each_time():
    layout = TokenLayout(7, 23)
    inputs, sample = inputs_of(*random_tensors(layout)), svg.StatisticsSample(num_rows=5)

    def entropy(**place: int) -> torch.Tensor:
        return sample.measure(inputs, AttentionPlan.dense(), context_of(layout, **place)).values["entropy"]

    assert torch.equal(entropy(), entropy())
    assert not torch.equal(entropy(), entropy(step=3))
    assert not torch.equal(entropy(), entropy(layer=2))
    assert not torch.equal(entropy(), entropy(seed=1))


@pytest.mark.parametrize("name", ["layers_apart", "steps_apart", "num_rows"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=rf"statistics\.{name} is 0; it must be at least 1"):
        svg.StatisticsSample(**{name: 0})


@pytest.mark.parametrize("method", [Dense(), svg.SparseVideoGen(density=0.7, block_size=2, first_layers_fp=0.5)])
def test_a_generation_is_the_same_with_and_without_statistics(method):
    pipeline = tiny_wan_pipeline()
    with svg.attach(pipeline, method, "reference"):
        alone = generate(pipeline)
    with svg.attach(pipeline, method, "reference", statistics=ALL) as run:
        assert torch.equal(generate(pipeline), alone)
    places = [(call.step, call.branch, call.layer) for call in run.receipt.sampled]
    assert places == [(call.step, call.branch, call.layer) for call in run.receipt.calls]
    for call, sampled in zip(run.receipt.calls, run.receipt.sampled, strict=True):
        assert ("regret" in sampled.statistics.values) == (not call.is_dense)


def test_a_second_generation_begins_a_new_sample():
    pipeline = tiny_wan_pipeline()
    with svg.attach(pipeline, Dense(), statistics=svg.StatisticsSample(layers_apart=2, steps_apart=3)) as run:
        for _ in range(2):
            generate(pipeline)
            places = [(call.step, call.branch, call.layer) for call in run.receipt.sampled]
            assert places == [(1, "cond", 1), (1, "uncond", 1)]


def test_text_in_the_sequence_and_two_prompt_lengths_and_two_branches_in_a_batch_are_measured():
    method = svg.SparseVideoGen(density=0.97, block_size=2)
    two = {"prompt": ["circle", "a red circle moves right and left and right and left and spins"]}
    for pipeline, settings, branches, num_rows in (
        (tiny_hunyuan_video_pipeline(), two, (), 18 + 2),
        (tiny_cogvideox_pipeline(), {"num_frames": 9, "height": 32, "width": 48}, ("uncond", "cond"), 12 + 16),
    ):
        with svg.attach(pipeline, method, "reference", statistics=svg.StatisticsSample()) as run:
            generate(pipeline, **settings)
        [call] = run.receipt.sampled
        assert (call.step, call.layer, call.item_branches) == (1, 1, branches)
        # Padding of the shorter prompt is no row.
        assert call.statistics.num_rows == num_rows
        assert {values.shape for values in call.statistics.values.values()} == {(2, 2)}
        assert all(values.isfinite().all() for values in call.statistics.values.values())
        assert (call.statistics.values["text_mass"] > 0).all()
