"""A captured call is the one that was planned on, in every family, for a method that remembers earlier steps, too."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import svg
from experiments.replay_scores import joined, scores
from experiments.rows import head_rows
from svg.captures.inputs import runs_of_heads
from svg.captures.recorder import Recorder, Selection, appearing, calls_of
from svg.methods.cached_choice import CachedChoice
from svg.methods.dense import Dense
from svg.methods.random_choice import RandomChoice
from svg.results import RecordError
from tests.fake_captures import write_capture
from tests.methods.helpers import context_of, inputs_of, random_tensors
from tests.tiny_cogvideox import tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline, tiny_wan_pipeline

CPU = torch.device("cpu")
SVG = svg.SparseVideoGen(density=0.8, block_size=2, num_sampled_rows=7)
CASES = {
    "cogvideox": (
        tiny_cogvideox_pipeline,
        SVG,
        {"num_frames": 17, "height": 64, "width": 96, "max_sequence_length": 5},
        {"cond", "uncond"},
    ),
    "cosmos": (tiny_cosmos_pipeline, SVG, {"num_frames": 17}, {"cond", "uncond"}),
    "hunyuan_video, prompts of two lengths": (
        tiny_hunyuan_video_pipeline,
        SVG,
        {"prompt": ["a red circle moves right", "a red circle"], "negative_prompt": None},
        {"cond0", "cond1"},
    ),
    "wan, two experts, remembered choices": (
        partial(tiny_wan_pipeline, boundary_ratio=0.9),
        CachedChoice(density=0.8, block_size=2, num_sampled_rows=2, every=3),
        {"num_inference_steps": 4},
        {"cond", "uncond"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_replay_chooses_in_every_family_as_the_generation_did(name, tmp_path):
    make, method, settings, branches = CASES[name]
    with svg.attach(make(), method, statistics=Recorder(Selection(), tmp_path)) as run:
        generate_latents(run.pipeline, settings)
    receipt = run.receipt
    counts = {"num_layers": receipt.num_layers, "num_steps": receipt.num_steps, "timesteps": receipt.timesteps}
    capture = write_capture(tmp_path, calls_of(receipt), [0, 1], **counts)
    rows = [row for row in scores(method, capture, CPU, None) if row.quantity in ("head_choice", "head_error")]
    expected = list(head_rows(receipt, {"prompt_id": "p00", "seed": 0}))
    places = ("step", "layer", "branch", "head", "quantity", "protocol")
    found, wanted = (
        {tuple(getattr(row, place) for place in places): row.value for row in many} for many in (rows, expected)
    )
    wanted = {place: value for place, value in wanted.items() if place[4] != "head_margin"}
    assert {place[2] for place in found} == branches
    assert found == pytest.approx(wanted, rel=1e-4)


def generate_latents(pipeline, settings) -> None:
    pipeline.set_progress_bar_config(disable=True)
    generate(pipeline, **{"output_type": "latent"} | settings)


def test_a_capture_appears_whole_or_not_at_all_and_takes_no_other_writers_place(tmp_path):
    path = tmp_path / "captures" / "p00-s0"
    with appearing(path) as partial:
        (partial / "file").write_text("whole")
        with pytest.raises(RecordError, match=rf"capture {path} is being written by process \d+"), appearing(path):
            pass
    assert (path / "file").read_text() == "whole"
    # What a killed writer left goes when the same is captured again.
    (path.parent / ".partial-p00-s0-1").mkdir()
    with pytest.raises(ZeroDivisionError), appearing(path) as partial:
        (partial / "file").write_text("half")
        raise ZeroDivisionError
    assert (path / "file").read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("heads", "runs"), [([0, 1, 2], ["0 1 2"]), ([4], ["4"]), ([1, 2, 5, 7, 8], ["1 2", "5", "7 8"])]
)
def test_heads_that_follow_one_another_are_planned_together(heads, runs):
    assert [" ".join(map(str, heads[run])) for run in runs_of_heads(heads)] == runs


def test_plans_of_some_heads_join_to_the_plan_of_all():
    layout = svg.TokenLayout(4, 6)
    query, key, value = random_tensors(layout, num_heads=5)
    whole = SVG.plan(inputs_of(query, key, value), context_of(layout))
    parts = []
    for heads in (slice(0, 2), slice(2, 5)):
        inputs = inputs_of(*(x[:, heads] for x in (query, key, value)))
        parts.append((SVG.plan(inputs, context_of(layout)), inputs.num_heads))
    plan = joined(parts)
    assert plan.patterns == whole.patterns
    assert torch.equal(plan.assignment, whole.assignment)
    assert torch.allclose(plan.diagnostics["error"], whole.diagnostics["error"], rtol=1e-5)


def test_a_plan_that_heads_share_and_one_that_is_dense_join_to_one_for_each_head():
    layout = svg.TokenLayout(4, 6)
    inputs = inputs_of(*random_tensors(layout, num_heads=2))
    coins = RandomChoice(density=0.8, block_size=2).plan(inputs, context_of(layout))
    plan = joined([(Dense().plan(inputs, context_of(layout)), 1), (coins, 2)])
    assert [pattern.name for pattern in plan.patterns] == ["dense", "spatial", "temporal"]
    assert plan.assignment.tolist() == [[0, *(coins.assignment[0] + 1).tolist()]]
    assert plan.diagnostics == {}
