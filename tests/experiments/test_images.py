"""Prompts with images, from the command line to the record: sizes, experts, and what bad input gets."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import load
from experiments.entry import CONF
from experiments.generation import Generator
from experiments.loading import PROJECT
from experiments.prompting import open_image
from experiments.warmup import probe, warm_up
from svg.backends.reference import ReferenceBackend
from svg.prompts import Prompt, load_prompts
from svg.results import read_run
from tests.experiments.conftest import composed, planned
from tests.tiny_pipelines import tiny_wan_i2v_pipeline, tiny_wan_pipeline

pytestmark = pytest.mark.slow

GOOD = "prompts.images=[{good}]"
I2V = ["model.pipeline=WanImageToVideoPipeline", "model.max_sequence_length=512"]


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """The folder of a random WanImageToVideoPipeline."""
    folder = tmp_path_factory.mktemp("model") / "wan_i2v"
    tiny_wan_i2v_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompt_folder(tmp_path_factory):
    """Two prompts with an image each, one lying and one standing."""
    folder = tmp_path_factory.mktemp("prompts")
    for name, size in (("lying", (96, 64)), ("standing", (40, 60))):
        (folder / f"{name}.txt").write_text("a red circle moves right")
        pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32) * 7 % 256
        Image.fromarray(pixels.astype(np.uint8).reshape(size[1], size[0], 3)).save(folder / f"{name}.png")
    return folder


def test_compare_makes_a_video_in_the_shape_of_each_prompts_image(call, sparse, image_folder, prompt_folder, tmp_path):
    settings = [*sparse, *I2V, f"model.path={image_folder}", "model.size_from_image=true"]
    status, _, err = call(*settings, f"prompts.path={prompt_folder}")
    assert (status, err) == (0, "")
    [run] = (tmp_path / "runs").glob("tiny_wan-*")
    record = read_run(run)
    assert [prompt["image"] for prompt in record.prompts] == ["lying.png", "standing.png"]
    assert [(video.prompt_id, video.height, video.width) for video in record.videos] == [
        ("lying", 32, 48),
        ("standing", 48, 32),
    ]
    rows = load.measurements(tmp_path / "runs")
    psnr = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()]
    assert set(psnr["prompt_id"]) == {"lying", "standing"} and psnr["value"].between(5, 100).all()
    executed = rows[(rows["quantity"] == "density_executed") & (rows["protocol"] == "token")]
    assert executed["value"].between(0.5, 0.7).all()
    # The same text from another image is another video.
    assert not np.isclose(*psnr["value"])


def test_a_run_is_the_same_wherever_its_images_lie_and_another_with_other_images(
    small, image_folder, prompt_folder, tmp_path
):
    copy = tmp_path / "elsewhere.png"
    copy.write_bytes((prompt_folder / "lying.png").read_bytes())
    images = [prompt_folder / "lying.png", copy, prompt_folder / "standing.png"]
    settings = [*small, *I2V, f"model.path={image_folder}"]
    first, moved, other = (planned(*settings, f"prompts.images=[{image}]") for image in images)
    assert first.hash == moved.hash != other.hash
    assert first.prompts[0].prompt_id == moved.prompts[0].prompt_id != other.prompts[0].prompt_id


def test_compare_runs_two_experts_with_a_guidance_and_a_share_of_the_steps_each(call, sparse, tmp_path):
    folder = tmp_path / "wan2_2"
    tiny_wan_pipeline(boundary_ratio=0.5).save_pretrained(folder)
    settings = [*sparse, f"model.path={folder}", "model.guidance_scale_2=3", "method.first_times_fp=0.34"]
    for boundary in ("null", "0.9"):
        status, _, err = call(*settings, f"model.boundary_ratio={boundary}", f"run_id=at-{boundary}")
        assert (status, err) == (0, "")
    rows = load.measurements(tmp_path / "runs")
    psnr = rows[(rows["quantity"] == "psnr_db") & rows["frame"].isna()].set_index("run_id")["value"]
    assert psnr["at-null"] != psnr["at-0.9"]
    assert (rows[rows["quantity"] == "dense_steps"]["value"] == 1).all()
    assert len(rows[rows["quantity"] == "step_s"]) == 2 * 3


@pytest.mark.parametrize("method", ["svg", "dense"])
def test_both_experts_are_warmed_up_and_share_the_steps_as_before_afterwards(sparse, tmp_path, method):
    pipeline = tiny_wan_pipeline(boundary_ratio=0.5)
    plan = planned(*sparse[: -2 if method == "dense" else None], method=method)
    generator = Generator(pipeline, plan.config.model, torch.device("cpu"))
    # The method and the backend of the dense steps: not the probe's.
    arguments = generator, plan.method, plan.backend, ReferenceBackend()
    forwards = Counter()
    for name in ("transformer", "transformer_2"):
        getattr(pipeline, name).register_forward_pre_hook(lambda *_, name=name: forwards.update([name]))
    probe(generator, plan.prompts[0])
    assert forwards == {"transformer": 2}
    warm_up(*arguments, plan.prompts[0])
    steps = 1 if method == "dense" else 2
    assert forwards == {"transformer": 2 + 2 * steps, "transformer_2": 2 * steps}
    assert pipeline.config.boundary_ratio == 0.5


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (r"prompt p00-\w+ has no image, but WanImageToVideoPipeline begins from one; give prompts.images", []),
        (r"notes\.txt of prompt p00-\w+ cannot be read: it is no image", ["prompts.images=[{notes}]"]),
        (r"cut\.png of prompt p00-\w+ cannot be read: ", ["prompts.images=[{cut}]"]),
        (r"prompts.images: image nowhere.png of prompt 1 cannot be read: No such", ["prompts.images=[nowhere.png]"]),
        (r"prompts.texts: 1 texts and 2 images", ["prompts.images=[a.png,b.png]"]),
        (r"prompts.images goes with prompts.texts", ["prompts.images=[a.png]", "prompts.path=somewhere"]),
        (r"model.height is 40; this model takes multiples of 16", [GOOD, "model.height=40"]),
        (r"model.max_sequence_length is 16; .* takes 512 only", [GOOD, "model.max_sequence_length=16"]),
        (r"model.guidance_scale_2 is 3.0, but the checkpoint has one", [GOOD, "model.guidance_scale_2=3"]),
        (r"holds a WanImageToVideoPipeline, and model.pipeline is WanPipeline", ["model.pipeline=WanPipeline"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    call, small, image_folder, prompt_folder, tmp_path, words, arguments
):
    places = {"notes": tmp_path / "notes.txt", "cut": tmp_path / "cut.png", "good": prompt_folder / "lying.png"}
    places["notes"].write_text("no image")
    whole = places["good"].read_bytes()
    places["cut"].write_bytes(whole[: len(whole) // 2])
    arguments = [word.format(**places) for word in arguments]
    status, out, err = call(*small, *I2V, f"model.path={image_folder}", *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert re.search(words, err), err
    runs = tmp_path / "runs"
    assert not runs.exists() or all(entry.name == ".dense" for entry in runs.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prompts.images=[{image}]"], "has an image, but WanPipeline takes none"),
        (["model.size_from_image=true"], "model.size_from_image is true, but WanPipeline takes no image"),
    ],
)
def test_a_text_to_video_model_refuses_images(call, small, prompt_folder, arguments, words):
    arguments = [word.format(image=prompt_folder / "lying.png") for word in arguments]
    status, _, err = call(*small, *arguments)
    assert status == 2 and words in err and err.count("\n") == 1


def test_transparency_is_shown_on_white_and_a_camera_held_upright_turns_the_image(tmp_path):
    Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    image = open_image(Prompt("clear", "a cat", str(tmp_path / "clear.png")))
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(Prompt("turned", "a cat", str(tmp_path / "turned.jpg"))).size == (2, 4)


def test_the_prompt_set_has_six_texts_with_the_images_that_our_code_draws(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT / "tools")
    draw_prompts = importlib.import_module("draw_prompts")
    monkeypatch.delitem(sys.modules, "draw_prompts")
    prompts = load_prompts(PROJECT / "assets/prompts/image_to_video")
    assert [prompt.prompt_id for prompt in prompts] == sorted(draw_prompts.DRAWINGS)
    shapes = set()
    for prompt in prompts:
        kept, drawn = open_image(prompt), draw_prompts.DRAWINGS[prompt.prompt_id]()
        assert kept.size == drawn.size and len(prompt.text.split()) > 25
        # Another version of Pillow may round an edge in another way.
        assert np.abs(np.asarray(kept, dtype=np.float32) - np.asarray(drawn, dtype=np.float32)).mean() < 1
        shapes.add(np.sign(kept.width - kept.height))
    assert len(shapes) == 3


def test_480p_and_720p_are_one_override_and_begin_from_images():
    models = {size: composed(f"model=wan_i2v_14b_{size}", "prompts=image_to_video").model for size in ("480p", "720p")}
    assert [(model.height, model.width) for model in models.values()] == [(480, 832), (720, 1280)]
    assert [model.method_defaults["first_times_fp"] for model in models.values()] == [0.2, 0.35]
    assert all(model.size_from_image and model.max_sequence_length == 512 for model in models.values())
    experiment = composed("experiment=seed_wan_i2v")
    assert (experiment.model.path, experiment.prompts.path) == (models["720p"].path, "assets/prompts/image_to_video")
    assert (CONF.parent / experiment.prompts.path).is_dir()
