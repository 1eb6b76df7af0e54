"""Runs with compiled blocks: another identity, another dense twin, and nothing compiled while the clock runs."""

from __future__ import annotations

import pytest
import torch

from analysis import load
from experiments import runner, step_planning, step_runner
from experiments.identity import Names
from experiments.schema import StepConfig, VideoConfig
from svg import compiling
from svg.results import list_runs, read_run
from tests.experiments.conftest import composed, planned

STEP = (
    "model=tiny_wan",
    "model.transformer.num_layers=3",
    "model.height=64",
    "model.width=96",
    "model.num_frames=17",
    "model.max_sequence_length=7",
    "method.block_size=8",
    "method.density=0.9",
    "method.sparsity=null",
    "seconds=0",
    "device=cpu",
    "threads=1",
)


@pytest.fixture
def compiler(monkeypatch):
    """Compile to what runs uncompiled, which takes seconds less; returns how often that was asked for."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setitem(compiling.OPTIONS, "backend", keep)
    yield graphs
    torch._dynamo.reset()


def planned_step(*settings: str) -> step_planning.StepPlan:
    config = composed(*STEP, *settings, config_name="step_latency", settings=StepConfig)
    return step_planning.check(config, Names("tiny_wan", "svg"))


def test_whether_blocks_are_compiled_is_part_of_a_runs_identity(sparse):
    assert planned(*sparse, "compile=true").hash != planned(*sparse).hash
    assert planned_step("compile=true").hash != planned_step().hash


@pytest.mark.slow
def test_a_comparison_compiles_before_anything_is_timed_and_has_a_twin_that_is_compiled_too(
    sparse, compiler, monkeypatch
):
    counts, measure = [], runner._measure

    def counting(*arguments):
        counts.append(len(compiler))
        found = measure(*arguments)
        counts.append(len(compiler))
        return found

    monkeypatch.setattr(runner, "_measure", counting)
    path = runner.run(planned(*sparse, "compile=true"))
    assert counts[0] == counts[1] > 0
    rows = load.measurements(path.parent).set_index("quantity")["value"]
    assert 0 < rows["compile_s"] < rows["warmup_s"]
    assert read_run(path).config["compile"] is True
    runner.run(planned(*sparse))
    keys = {video.dense_key for run in list_runs(path.parent) for video in read_run(run).videos}
    assert len(keys) == 2


@pytest.mark.slow
def test_steps_and_whole_videos_run_in_what_the_warm_up_has_compiled_for_two_blocks(compiler, monkeypatch, tmp_path):
    counts, compiled, compile_blocks = [], [], compiling.compile_blocks

    def noting(*arguments):
        compiled.append(arguments)
        return compile_blocks(*arguments)

    def counting(measure):
        def counted(*arguments):
            before = len(compiled)
            counts.append(len(compiler))
            found = measure(*arguments)
            counts.append(len(compiler))
            assert len(compiled) > before
            return found

        return counted

    monkeypatch.setattr(compiling, "compile_blocks", noting)
    for name in ("_time", "_run_whole"):
        monkeypatch.setattr(step_runner, name, counting(getattr(step_runner, name)))
    settings = *STEP, "compile=true", "model.num_inference_steps=2", f"runs_dir={tmp_path}"
    config = composed(*settings, config_name="video_latency", settings=VideoConfig)
    path = step_runner.run(step_planning.check(config, Names("tiny_wan", "svg")))
    assert len(counts) == 4 and len(set(counts)) == 1 and counts[0] > 0
    rows = load.measurements(path.parent).set_index("quantity")["value"]
    assert 0 < rows["compile_s"] < rows["warmup_s"]
