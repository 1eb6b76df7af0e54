"""A whole comparison on a GPU: events for clocks, the compiled backend, the fastest dense kernel."""

from __future__ import annotations

import pytest
import torch

from analysis import load
from experiments import runner
from tests.experiments.conftest import planned
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
