"""The attachment: bit-for-bit parity with the stock pipeline, restoration, step and branch, and strictness."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import svg
from svg.attaching import execution_device
from svg.attachment import StepClock
from svg.methods.dense import Dense
from svg.methods.one_pattern import OnePattern
from tests.tiny_pipelines import generate, tiny_hunyuan_video_pipeline, tiny_wan_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_wan_pipeline()


@pytest.fixture(scope="module")
def stock_video(pipeline):
    return generate(pipeline)


def test_dense_through_our_processor_equals_the_stock_pipeline_bit_for_bit(pipeline, stock_video):
    with svg.attach(pipeline, Dense()):
        video = generate(pipeline)
    assert torch.equal(video, stock_video)


def test_dense_with_fused_projections_equals_the_stock_pipeline_with_them(pipeline):
    fused = tiny_wan_pipeline()
    fused.transformer.fuse_qkv_projections()
    stock = generate(fused)
    with svg.attach(fused, Dense()):
        assert torch.equal(generate(fused), stock)


def test_the_pipeline_is_stock_again_after_the_block(pipeline, stock_video):
    processors = [block.attn1.processor for block in pipeline.transformer.blocks]
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2), "reference"):
        sparse = generate(pipeline)
    assert not torch.equal(sparse, stock_video)
    assert [block.attn1.processor for block in pipeline.transformer.blocks] == processors
    assert not pipeline.transformer._forward_pre_hooks
    assert torch.equal(generate(pipeline), stock_video)


def test_the_pipeline_is_stock_again_after_an_error_in_the_block(pipeline, stock_video):
    with pytest.raises(KeyError), svg.attach(pipeline, Dense()):
        raise KeyError("interrupted")
    assert torch.equal(generate(pipeline), stock_video)


def test_svg_with_a_window_that_covers_everything_equals_dense(pipeline, stock_video):
    with svg.attach(pipeline, svg.SparseVideoGen(density=1.0, block_size=2), "reference"):
        video = generate(pipeline)
    assert (video - stock_video).abs().max() < 1e-5


def test_step_layer_and_branch_are_right_at_every_call_also_in_a_second_video(pipeline):
    method = svg.SparseVideoGen(density=0.7, block_size=2, first_times_fp=0.34, first_layers_fp=0.5)
    with svg.attach(pipeline, method, "reference") as run:
        for _ in range(2):
            generate(pipeline)
            seen = [(call.step, call.branch, call.layer) for call in run.receipt.calls]
            assert seen == [(s, b, i) for s in range(3) for b in ("cond", "uncond") for i in range(2)]
            assert [call.is_dense for call in run.receipt.calls] == [s < 1 or i < 1 for s, _, i in seen]
    assert (run.receipt.dense_steps, run.receipt.dense_layers) == (1, 1)


def test_the_same_seed_gives_the_same_sparse_video_and_the_global_generator_is_untouched(pipeline):
    method = svg.SparseVideoGen(density=0.7, block_size=2, num_sampled_rows=3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with svg.attach(pipeline, method, "reference", seed=1):
        first, second = generate(pipeline), generate(pipeline)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_choice_that_all_heads_share_is_told_of_each(pipeline):
    with svg.attach(pipeline, OnePattern(pattern="temporal", density=0.7, block_size=2), "reference") as run:
        generate(pipeline)
    num_heads = pipeline.transformer.config.num_attention_heads
    assert num_heads > 1
    assert all(call.choice == [["temporal"] * num_heads] for call in run.receipt.sparse_calls)


def test_the_receipt_counts_density_over_sparse_calls_and_over_all(pipeline):
    with svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2, first_times_fp=0.34), "reference") as run:
        generate(pipeline)
    executed = run.receipt.density_executed[0]
    assert 0.6 < executed <= 0.7
    assert run.receipt.density_overall[0] == pytest.approx((1 + 2 * executed) / 3)


@dataclass(frozen=True)
class RefusingBackend:
    name: str = "refusing"

    def check(self, query, plan):
        raise ValueError("refusing computes nothing; use backend=reference")

    def __call__(self, query, key, value, plan):
        raise AssertionError("a backend that refused was called")


def test_a_refusal_raises_under_strict_and_is_recorded_otherwise(pipeline, stock_video):
    method = svg.SparseVideoGen(density=0.7, block_size=2)
    with pytest.raises(ValueError, match="use backend=reference"), svg.attach(pipeline, method, RefusingBackend()):
        generate(pipeline)
    with svg.attach(pipeline, method, RefusingBackend(), strict=False) as run:
        assert torch.equal(generate(pipeline), stock_video)
    assert all(call.is_dense and "reference" in call.fallback for call in run.receipt.calls)


def test_a_pipeline_offloaded_to_the_cpu_is_served_as_one_on_the_gpu_where_it_computes(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline), "_execution_device", property(lambda self: torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    run = svg.attach(pipeline, svg.SparseVideoGen(density=0.7, block_size=2))
    assert run.backend.name == "triton_block_sparse"
    assert type(run.operations).__name__ == "KernelOperations"


def test_a_pipeline_that_names_no_execution_device_computes_where_it_lies():
    assert execution_device(SimpleNamespace(device=torch.device("meta"))) == torch.device("meta")


def test_a_pipeline_of_an_unknown_family_is_refused_by_name():
    class StrangePipeline:
        device = torch.device("cpu")

    with pytest.raises(ValueError, match="StrangePipeline.*WanPipeline"):
        svg.attach(StrangePipeline(), Dense())


@pytest.mark.parametrize("method", ["svg", svg.SparseVideoGen, None])
def test_what_is_no_method_is_refused_before_anything_runs(pipeline, method):
    with pytest.raises(ValueError, match="it must be a method object, such as svg.SparseVideoGen"):
        svg.attach(pipeline, method)


def test_a_pipeline_is_under_one_attachment_at_a_time_and_stock_after_a_second_was_refused(pipeline, stock_video):
    method = svg.SparseVideoGen(density=0.7, block_size=2)
    with svg.attach(pipeline, method) as run:
        with pytest.raises(ValueError, match="under another svg.attach"), svg.attach(pipeline, Dense()):
            pass
        with pytest.raises(ValueError, match="entered twice"), run:
            pass
        generate(pipeline)
        assert len(run.receipt.sparse_calls) == len(run.receipt.calls) > 0
    assert torch.equal(generate(pipeline), stock_video)


def test_steps_that_share_a_timestep_are_refused():
    clock, schedule = StepClock(("cond", "uncond")), [9.0, 4.0, 4.0]
    for _ in range(2):
        with pytest.raises(ValueError, match="model.num_inference_steps is 3: two steps in a row have the timestep 4"):
            clock.advance(9, schedule)


def test_a_repeated_timestep_is_the_next_branch_and_a_changed_one_the_next_step():
    clock, first, second = StepClock(("cond", "uncond")), [9.0, 4.0], [9.0, 4.0]
    seen = []
    for timestep, schedule in [(9, first), (9, first), (4, first), (4, first), (9, second)]:
        is_new = clock.advance(timestep, schedule)
        seen.append((is_new, clock.step, clock.branch))
    assert seen == [
        (True, 0, "cond"),
        (False, 0, "uncond"),
        (False, 1, "cond"),
        (False, 1, "uncond"),
        (True, 0, "cond"),
    ]


def test_a_method_is_told_the_timesteps_that_the_transformer_is_given_rounding_included():
    told: list[float] = []

    class Listening:
        def dense_schedule(self, num_steps, num_layers, timesteps):
            told.extend(timesteps)
            return Dense().dense_schedule(num_steps, num_layers, timesteps)

        def plan(self, inputs, context):
            return Dense().plan(inputs, context)

    pipeline = tiny_hunyuan_video_pipeline().to(torch.bfloat16)
    given: list[float] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    with svg.attach(pipeline, Listening()):
        generate(pipeline, num_inference_steps=7, guidance_scale=1.0, max_sequence_length=24, output_type="latent")
    hook.remove()
    assert told == given
    assert told != [float(value) for value in pipeline.scheduler.timesteps]
