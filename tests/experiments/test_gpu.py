"""A whole comparison and a single step on a GPU: events for clocks, the compiled backend, the fastest dense kernel."""

from __future__ import annotations

import pytest
import torch

from analysis import load
from experiments import runner, step_planning, step_runner
from experiments.identity import Names
from experiments.schema import StepConfig
from tests.experiments.conftest import composed, planned
from tests.tiny_pipelines import tiny_wan_pipeline

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """The tiny pipeline with heads as wide as GPU kernels want them."""
    pipeline = tiny_wan_pipeline()
    pipeline.transformer = type(pipeline.transformer).from_config(pipeline.transformer.config, attention_head_dim=64)
    folder = tmp_path_factory.mktemp("wide")
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("backend", ["flex", "reference"])
def test_a_comparison_on_a_gpu_records_times_that_add_up(small, backend, wide_model):
    assert torch.cuda.is_available()
    # 512 x 512 pixels and 9 frames: 3 x 1024 tokens, enough for tiles of 128.
    settings = [
        *small,
        f"model.path={wide_model}",
        "device=cuda",
        "model.height=512",
        "model.width=512",
        "model.dtype=bfloat16",
    ]
    path = runner.run(planned(*settings, "method.sparsity=0.6", "method.block_size=128", f"backend={backend}"))
    rows = load.measurements(path.parent)
    whole = rows[rows["step"].isna() & rows["frame"].isna() & rows["head"].isna()]
    value = whole.groupby("quantity")["value"].sum()
    assert value["phase_s"] == pytest.approx(value["generation_s"], rel=1e-6)
    assert rows[rows["quantity"] == "step_s"]["value"].sum() == pytest.approx(value["denoise_s"], rel=1e-6)
    assert value["peak_memory_gib"] > 0
    assert value["attention_speedup"] > 0
    if backend == "flex":
        assert value["compile_s"] > 0


@pytest.mark.parametrize("compile", [False, True])
def test_a_step_on_a_gpu_is_timed_with_its_clocks_and_its_share_of_the_peak(compile, tmp_path):
    settings = ["model=wan_t2v_1_3b", "model.transformer.num_layers=3", "seconds=1", f"runs_dir={tmp_path}"]
    settings.append(f"compile={compile}")
    config = composed(*settings, config_name="step_latency", settings=StepConfig)
    path = step_runner.run(step_planning.check(config, Names("wan_t2v_1_3b", "svg")))
    rows = load.measurements(path.parent)
    value = rows.groupby("quantity")["value"].sum()
    assert value["phase_s"] == pytest.approx(value["step_s"], rel=0.1)
    assert value["dense_phase_s"] == pytest.approx(value["dense_step_s"], rel=0.1)
    assert value["check_error"] <= value["check_allowed"]
    assert value["sm_clock_mhz"] > 0
    assert 0 < value["dense_roofline_share"] < 1
    assert value["compile_s"] > 0 or not compile
    # The weights, and no map of every pair of tokens, which would take a GiB.
    assert value["weights_gib"] < value["peak_memory_gib"] < value["weights_gib"] + 3
