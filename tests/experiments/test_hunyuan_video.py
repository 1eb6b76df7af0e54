"""HunyuanVideo from the command line: both pipelines run against their dense twins; other formats are refused."""

from __future__ import annotations

import pytest
from PIL import Image

from analysis import load
from experiments import warmup
from experiments.loading import find_folder
from svg.results import list_runs, read_run
from tests.experiments.conftest import composed
from tests.tiny_pipelines import tiny_hunyuan_video_i2v_pipeline, tiny_hunyuan_video_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path) -> list[str]:
    """Settings under which a run takes seconds; its model's folder is ``model`` in the same place as its records."""
    return [
        f"model.path={tmp_path / 'model'}",
        "model.revision=null",
        "model.dtype=float32",
        "model.vae_dtype=null",
        "model.num_inference_steps=3",
        "model.max_sequence_length=16",
        "method=svg",
        "method.block_size=2",
        "quality.metrics=[psnr]",
        "device=cpu",
        "threads=1",
        f"runs_dir={tmp_path / 'runs'}",
    ]


def test_text_to_video_runs_with_prompts_of_different_lengths_each_warmed_up(call, tmp_path, settings, monkeypatch):
    warmed = []

    def warm_up(*arguments):
        warm = real(*arguments)
        warmed.append(warm.probe.shape)
        return warm

    real = warmup.warm_up
    monkeypatch.setattr(warmup, "warm_up", warm_up)
    tiny_hunyuan_video_pipeline().save_pretrained(tmp_path / "model")
    size = ["model.height=32", "model.width=48", "model.num_frames=9", "method.sparsity=0.8"]
    prompts = ["prompts.texts=[a circle,a red circle moves right and left and right]"]
    status, _, err = call("model=hunyuan_video_t2v", *settings, *size, *prompts)
    assert status == 0, err
    rows = load.measurements(tmp_path / "runs")
    psnr = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()]
    assert len(psnr) == 2
    assert psnr["value"].between(20, 100).all()
    density = rows[(rows["quantity"] == "density_executed") & (rows["protocol"] == "token")]
    assert density["value"].between(0.7, 0.8).all()
    assert set(rows["branch"].dropna()) == {"cond"}
    assert rows[rows["quantity"] == "pflops_dense"]["value"].notna().all()
    # 3 frames of 6 tokens, and each prompt's words with the token that ends them.
    assert warmed == [(1, 2, 18 + 3, 16), (1, 2, 18 + 10, 16)]


def test_image_to_video_takes_its_shape_from_the_image(call, tmp_path, settings):
    tiny_hunyuan_video_i2v_pipeline().save_pretrained(tmp_path / "model")
    Image.linear_gradient("L").resize((60, 90)).save(tmp_path / "tall.png")
    size = ["model.height=64", "model.width=96", "model.num_frames=17", "method.sparsity=0.9"]
    prompts = ["prompts.texts=[a circle]", f"prompts.images=[{tmp_path / 'tall.png'}]"]
    status, _, err = call("model=hunyuan_video_i2v", *settings, *size, *prompts)
    assert status == 0, err
    [run] = list_runs(tmp_path / "runs")
    [video] = read_run(run).videos
    assert (video.height, video.width, video.frames) == (96, 64, 17)
    rows = load.measurements(tmp_path / "runs")
    [psnr] = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()]["value"]
    assert 20 < psnr < 100


@pytest.mark.parametrize("inside", ["", "ckpts", "ckpts/hunyuan-video-t2v-720p"])
@pytest.mark.parametrize("revision", ["main", "null"])
def test_the_authors_own_folder_is_refused_with_the_id_that_works(tmp_path, inside, revision):
    weights = tmp_path / "ckpts" / "hunyuan-video-t2v-720p" / "transformers" / "mp_rank_00_model_states.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    settings = [f"model.path={tmp_path / inside}", f"model.revision={revision}"]
    with pytest.raises(ValueError, match="authors' own format, use model.path=hunyuanvideo-community/HunyuanVideo$"):
        find_folder(composed("model=hunyuan_video_t2v", *settings).model)


def test_the_authors_own_repository_is_refused_with_the_id_that_works(monkeypatch):
    def missing(*arguments, **settings):
        raise OSError("tencent/HunyuanVideo-I2V has no file named model_index.json")

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", missing)
    settings = ["model.path=tencent/HunyuanVideo-I2V", "model.revision=main"]
    with pytest.raises(ValueError, match="use model.path=hunyuanvideo-community/HunyuanVideo-I2V: .* has no file"):
        find_folder(composed("model=hunyuan_video_i2v", *settings).model)


def test_a_folder_with_a_revision_is_refused(model_folder):
    with pytest.raises(ValueError, match="is a folder, which has no revision; set model.revision=null"):
        find_folder(composed("model=wan_t2v_1_3b", f"model.path={model_folder}", "model.revision=main").model)
