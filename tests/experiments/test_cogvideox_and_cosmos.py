"""CogVideoX and Cosmos from the command line: they run against their dense twins, and what cannot work is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis import load
from experiments import loading
from svg.results import read_run
from tests.tiny_cogvideox import picture, tiny_cogvideox_i2v_pipeline, tiny_cogvideox_pipeline
from tests.tiny_cosmos import tiny_cosmos_pipeline

pytestmark = pytest.mark.slow

COGVIDEOX = ["model.height=64", "model.width=96", "model.max_sequence_length=5", "method.block_size=8"]
COSMOS = ["model.height=32", "model.width=48", "model.max_sequence_length=16", "method.block_size=2"]
MODELS = {
    "cogvideox1_5_t2v": (tiny_cogvideox_pipeline, COGVIDEOX),
    "cogvideox1_5_i2v": (tiny_cogvideox_i2v_pipeline, COGVIDEOX),
    "cosmos_t2w_7b": (tiny_cosmos_pipeline, COSMOS),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """The folders of a random pipeline of each model, and of a picture."""
    root = tmp_path_factory.mktemp("models")
    for name, (make, _) in MODELS.items():
        make().save_pretrained(root / name)
    picture().save(root / "picture.png")
    return root


@pytest.fixture
def settings(folders, tmp_path):
    """Return the settings of a short run of a model, with records in a fresh folder."""

    def of(model: str) -> list[str]:
        image = [f"prompts.images=[{folders / 'picture.png'}]"] if model.endswith("_i2v") else []
        return [
            f"model={model}",
            f"model.path={folders / model}",
            "model.revision=null",
            "model.dtype=float32",
            "model.num_frames=17",
            "model.num_inference_steps=3",
            "method.sparsity=0.7",
            "method.first_times_fp=0.34",
            "method.first_layers_fp=0.5",
            "quality.metrics=[psnr]",
            "device=cpu",
            "threads=1",
            f"runs_dir={tmp_path / 'runs'}",
            *MODELS[model][1],
            *image,
        ]

    return of


@pytest.mark.parametrize("method", ["svg", pytest.param("svg_upstream", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_records_quality_density_and_each_branchs_heads(call, settings, tmp_path, model, method):
    # The reference's widths are multiples of 128 tokens, and its older rule counts layers in 42.
    upstream = ["method.sparsity=null", "method.density=0.7", "method.threshold_rule=step_index"]
    status, _, err = call(*settings(model), f"method={method}", *(upstream if method == "svg_upstream" else []))
    assert status == 0, err
    rows = load.measurements(tmp_path / "runs")
    whole = rows[rows["frame"].isna() & rows["step"].isna()].set_index("quantity")
    assert 20 < whole.loc["psnr_db", "value"] < 100
    assert (whole.loc["dense_steps", "value"], whole.loc["dense_layers", "value"]) == (1, 1)
    assert 0.5 < whole[whole["protocol"] == "token"].loc["density_executed", "value"] <= 0.7
    assert whole.loc["pflops_sparse", "value"] < whole.loc["pflops_dense", "value"]
    choices = rows[rows["quantity"] == "head_choice"]
    assert set(choices["branch"]) == {"cond", "uncond"}
    assert set(rows[rows["quantity"] == "psnr_db"]["frame"].dropna()) == set(range(17))


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("cogvideox1_5_t2v", ["model.height=72"], "model.height is 72; this model takes multiples of 16"),
        ("cogvideox1_5_t2v", ["model.num_frames=81", "model.width=256"], "model.width makes 16 positions"),
        ("cogvideox1_5_t2v", ["model.num_frames=13"], r"model.num_frames is 13; this model takes 8k \+ 1 frames"),
        ("cogvideox1_5_i2v", ["prompts.images=[]"], "has no image, but CogVideoXImageToVideoPipeline begins from one"),
        ("cogvideox1_5_t2v", ["model.guardrail=true"], "model.guardrail is true, but CogVideoXPipeline has none"),
        ("cosmos_t2w_7b", ["model.vae_tiling=true"], "model.vae_tiling is true, but AutoencoderKLCosmos cannot"),
        ("cosmos_t2w_7b", ["model.width=40"], "model.width is 40; this model takes multiples of 16"),
        ("cosmos_t2w_7b", ["model.num_frames=65"], "model.num_frames makes 9 positions; this model knows at most 8"),
        (
            "cosmos_t2w_7b",
            ["model.pipeline=WanPipeline"],
            "holds a CosmosTextToWorldPipeline, and model.pipeline is Wan",
        ),
        ("cogvideox1_5_i2v", ["model.pipeline=CogVideoXPipeline"], "holds a CogVideoXImageToVideoPipeline, and"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(call, settings, tmp_path, model, arguments, words):
    status, out, err = call(*settings(model), *arguments)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if not line.startswith("note: cosmos_guardrail")]
    assert len(lines) == 1 and re.search(words, lines[0]), err
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_no_image_is_refused_in_one_line(call, settings, tmp_path):
    (tmp_path / "picture.png").write_text("not a picture")
    status, out, err = call(*settings("cogvideox1_5_i2v"), f"prompts.images=[{tmp_path / 'picture.png'}]")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and "picture.png of prompt" in err and "it is no image" in err


def test_a_note_and_the_record_say_that_no_guardrail_ran(call, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    loading._load.cache_clear()
    status, _, err = call(*settings("cosmos_t2w_7b"))
    assert status == 0 and "note: cosmos_guardrail is not installed" in err
    [path] = [path for path in (tmp_path / "runs").iterdir() if path.name.startswith("cosmos")]
    assert read_run(path).provenance["guardrail"] == "none"
    status, _, err = call(*settings("cosmos_t2w_7b"), "model.guardrail=true", "run_id=asked")
    assert status == 2 and "cosmos_guardrail is not installed" in err
