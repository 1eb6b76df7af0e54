"""Checkpoints of another family, another format or with something missing, from the command line: one line, no run."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.experiments.test_bad_input import refused
from tests.tiny_pipelines import tiny_hunyuan_video_pipeline, tiny_wan_i2v_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def hunyuan_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "hunyuan_video"
    tiny_hunyuan_video_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_to_video_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "wan_i2v"
    tiny_wan_i2v_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def broken(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "broken")


HUNYUAN = ["model=hunyuan_video_t2v", "model.revision=null", "model.dtype=float32", "model.vae_dtype=null"]


def other_family(arguments: list[str]) -> list[str]:
    """Return arguments without the model's path."""
    return [word for word in arguments if not word.startswith("model.path=")]


def test_a_checkpoint_of_another_family_is_refused_by_both_names(call, tmp_path, sparse, model_folder):
    line = refused(call, tmp_path, *HUNYUAN, "method=svg", *sparse, f"model.path={model_folder}")
    assert f"model.path={model_folder} holds a WanPipeline, and model.pipeline is HunyuanVideoPipeline; choose" in line


@pytest.mark.parametrize("inside", ["", "ckpts", "ckpts/hunyuan-video-t2v-720p"])
def test_the_authors_own_folder_is_refused_with_the_id_that_works(call, tmp_path, sparse, inside):
    weights = tmp_path / "official" / "ckpts" / "hunyuan-video-t2v-720p" / "transformers" / "mp_rank_00_model_states.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"a pickle")
    path = tmp_path / "official" / inside
    line = refused(call, tmp_path, *HUNYUAN, "method=svg", *sparse, f"model.path={path}")
    assert f"model.path={path} holds no model_index.json" in line
    assert "use model.path=hunyuanvideo-community/HunyuanVideo" in line


def to_pickle(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (to_pickle, "has no safetensors in transformer, but diffusion_pytorch_model.bin; other formats are not loaded"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "is half there: its part tokenizer is missing"),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(),
            "is half there: scheduler/scheduler_",
        ),
        (
            lambda folder: (folder / "transformer" / "config.json").write_text("{"),
            "transformer: config.json cannot be read",
        ),
        (lambda folder: (folder / "vae" / "config.json").write_text("[]"), "vae: config.json is damaged"),
        (
            lambda folder: (folder / "model_index.json").write_text('{"_class_name": 7}'),
            "holds a 7, and model.pipeline",
        ),
    ],
)
def test_a_missing_file_or_a_pickle_is_refused_by_name(call, tmp_path, sparse, broken, damage, words):
    damage(broken)
    line = refused(call, tmp_path, "method=svg", *sparse, f"model.path={broken}")
    assert f"model.path={broken}" in line and words in line


def test_a_file_in_place_of_a_folder_is_refused(call, tmp_path, sparse, model_folder):
    file = model_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert f"model.path={file} is not a folder" in refused(call, tmp_path, "method=svg", *sparse, f"model.path={file}")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.height=40", "model.height is 40; this model takes multiples of 16, such as 32"),
        ("model.width=47", "model.width is 47; this model takes multiples of 16, such as 48"),
        ("model.num_frames=10", "model.num_frames is 10; this model takes 4k + 1 frames, such as 9"),
    ],
)
def test_a_size_that_hunyuan_video_cannot_divide_is_refused(call, tmp_path, sparse, hunyuan_folder, setting, words):
    path = f"model.path={hunyuan_folder}"
    assert words in refused(call, tmp_path, *HUNYUAN, "method=svg", *sparse, path, setting)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "cannot be read: it is no image"),
        ("folder", "cannot be read: Is a directory"),
        ("text", "cannot be read: it is no image"),
        ("huge", "has 16384 x 8192 pixels; at most"),
    ],
)
def test_an_image_that_is_none_is_refused(call, tmp_path, sparse, image_to_video_folder, kind, words):
    image = tmp_path / "image.png"
    if kind == "folder":
        image.mkdir()
    else:
        image.write_bytes({"empty": b"", "text": b"<svg/>", "huge": b""}[kind])
    if kind == "huge":
        Image.new("1", (2**14, 2**13)).save(image)
    settings = [*other_family(sparse), f"model.path={image_to_video_folder}", f"prompts.images=[{image}]"]
    line = refused(call, tmp_path, "method=svg", *settings, "model.pipeline=WanImageToVideoPipeline")
    assert re.search(rf"image {image} of prompt .* {words}", line), line
