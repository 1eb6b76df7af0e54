"""The embedded model's world, its check, and training that stops and goes on."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from experiments import train_tiny
from experiments.tiny import autoencoder, clips, resume
from experiments.tiny.budget import Budget
from experiments.tiny.check import check
from experiments.tiny.ranks import Ranks
from experiments.tiny.wan import Wan

ROOT = Path(__file__).parents[2]
SCENE = clips.Scene("big", "red", "triangle", "moves right", "navy", "striped")


def draw(scene, seed=3):
    return clips.draw([scene], seed)[0].permute(1, 2, 3, 0).numpy()


def trained_captions():
    parts = [clips.scenes(train_tiny.BANK_SEED + at, 512) for at in range(0, 16_384, 512)]
    return {scene.caption for part in parts for scene in part}


def test_the_caption_says_the_scene():
    assert SCENE.caption == "a big red triangle moves right over a navy striped background"
    slid = replace(SCENE, slide="sliding left")
    assert slid.caption == "a big red triangle moves right over a navy striped background sliding left"


def test_a_caption_gives_back_its_scene_and_another_text_none():
    for scene in clips.scenes(0, 300):
        assert clips.scene_of(scene.caption) == scene
    for text in ("", "a cat", "a big red triangle moves right", SCENE.caption + " sliding up", "a" + SCENE.caption):
        with pytest.raises(ValueError, match="no caption of the little world"):
            clips.scene_of(text)


def test_the_first_frames_are_of_the_ablations_captions_as_the_tool_draws_them(tmp_path, monkeypatch):
    folder = ROOT / "assets/prompts/first_frames"
    texts = yaml.safe_load((ROOT / "conf/prompts/ablation.yaml").read_text())["texts"]
    assert [file.read_text().strip() for file in sorted(folder.glob("*.txt"))] == texts
    runpy.run_path(str(ROOT / "tools/draw_first_frames.py"))["draw"](tmp_path, texts[:3])
    for file in sorted(tmp_path.glob("*.png")):
        kept, drawn = (np.asarray(Image.open(where / file.name), dtype=int) for where in (folder, tmp_path))
        assert kept.shape == (96, 160, 3) and np.abs(kept - drawn).max() <= 1
    assert len(list(tmp_path.iterdir())) == 6


def test_every_word_of_every_caption_is_in_the_vocabulary():
    words = {word for scene in clips.scenes(0, 500) for word in scene.caption.split()}
    assert words <= set(clips.vocabulary())


def test_clips_are_the_same_each_time_and_differ_between_seeds():
    assert torch.equal(clips.draw([SCENE], 1), clips.draw([SCENE], 1))
    assert not torch.equal(clips.draw([SCENE], 1), clips.draw([SCENE], 2))


@pytest.mark.parametrize("shape", clips.SHAPES)
@pytest.mark.parametrize("motion", ["moves left", "moves up", "spins", "grows", "shrinks", "bounces"])
def test_the_check_passes_a_clip_with_its_caption_and_no_other_shape_colour_or_motion(shape, motion):
    if (shape, motion) == ("circle", "spins"):
        motion = "moves down"
    scene = replace(SCENE, shape=shape, motion=motion)
    video = draw(scene)
    right = check(video, scene)
    assert right.is_shape_right and right.is_motion_right
    for other in set(clips.SHAPES) - {shape}:
        assert not check(video, replace(scene, shape=other)).is_shape_right
    for other in set(clips.COLOURS) - {"red"}:
        assert not check(video, replace(scene, colour=other)).is_shape_right
    for other in set(clips.MOTIONS) - {motion}:
        verdict = check(video, replace(scene, motion=other))
        assert verdict.is_shape_right and not verdict.is_motion_right


def test_a_video_without_the_shape_fails_the_check():
    assert not check(draw(SCENE) * 0.4, SCENE).is_shape_right


def test_more_frames_are_the_same_clip_in_smaller_steps():
    scenes = [replace(SCENE, slide="sliding left"), replace(SCENE, motion="bounces"), replace(SCENE, motion="grows")]
    few, many = clips.draw(scenes, 5), clips.draw(scenes, 5, num_frames=2 * clips.NUM_FRAMES - 1)
    torch.testing.assert_close(many[:, :, ::2], few, rtol=0, atol=1e-4)
    assert not torch.equal(many[:, :, 1::2], few[:, :, 1:])


def test_no_shape_leaves_the_picture():
    for seed, (shape, motion) in enumerate(itertools.product(clips.SHAPES, clips.MOTIONS)):
        video = draw(replace(SCENE, shape=shape, motion=motion, pattern="plain"), seed)
        border = torch.from_numpy(video).amax(-1)
        edges = torch.cat([border[:, 0], border[:, -1], border[:, :, 0], border[:, :, -1]], 1)
        assert edges.max() < 0.5, (shape, motion)


@pytest.mark.parametrize("name", ["demo", "smoke", "ablation"])
def test_the_prompts_are_captions_of_the_grammar_and_unseen_in_training(name):
    texts = yaml.safe_load((ROOT / f"conf/prompts/{name}.yaml").read_text())["texts"]
    assert {word for text in texts for word in text.split()} <= set(clips.vocabulary())
    if name != "smoke":
        assert not set(texts) & trained_captions()
        assert len(set(texts)) == len(texts)


def test_a_saved_training_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    progress = resume.Progress()
    optimizer = resume.adamw(dict(model.named_parameters()), progress, lr=0.1)
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    progress = resume.Progress(1, 2.5, resume.squares(model, optimizer))
    resume.save(tmp_path, "linear", model, progress)

    again = nn.Linear(3, 2)
    loaded = resume.load(tmp_path, "linear", again)
    assert (loaded.step, loaded.spent) == (1, 2.5)
    torch.testing.assert_close(again.weight, model.weight)
    squares = resume.squares(again, resume.adamw(dict(again.named_parameters()), loaded, lr=0.1))
    for name, square in resume.squares(model, optimizer).items():
        torch.testing.assert_close(squares[name], square, rtol=1e-2, atol=0)


def test_a_state_of_which_a_file_is_missing_is_refused(tmp_path):
    tensors = {f"weight/{index}": torch.zeros(2 * 2**20) for index in range(3)}
    resume.save_state(tmp_path, "model", tensors, {"step": "1", "spent": "0"})
    assert len(list(tmp_path.iterdir())) > 1
    (tmp_path / "model-0.safetensors").unlink()
    with pytest.raises(ValueError, match="half-written"):
        resume.load_state(tmp_path, "model")


def test_a_budget_counts_what_earlier_pieces_spent():
    budget = Budget(10.0, spent=4.0, piece=100.0)
    assert 0.4 <= budget.share < 0.5 and budget.left <= 6.0 and not budget.is_spent
    assert Budget(10.0, spent=10.0).is_spent


def _together(rank, folder, results):
    """What one of two processes does: agree on a value, average a gradient, gather, encode its share of a bank."""
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": (folder / "port").read_text(),
    }
    torch.set_num_threads(1)
    clips.NUM_FRAMES, clips.HEIGHT, clips.WIDTH = 5, 16, 24
    clips.SIZES = {"small": 2.0, "medium": 2.5, "big": 3.0}
    autoencoder.BANK_PART = 2
    family = Wan(num_frames=5, base_dim=8)
    ranks = Ranks.join()
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    weight.grad = torch.arange(24.0).view(2, 3, 2, 2) * (rank + 1)
    ranks.average_gradients([weight])
    bank, captions = autoencoder.build_bank(family, family.build_autoencoder(0), 7, 5, ranks.device, ranks)
    results.put((rank, ranks.agree(10.0 + rank), weight.grad.flatten().tolist(), bank.float().tolist(), captions))
    ranks.leave()


@pytest.mark.slow
def test_two_processes_agree_average_their_gradients_and_build_one_bank(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_together, args=(rank, tmp_path, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    first, second = sorted(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    assert first[1] == second[1] == 10.0
    assert first[2] == second[2] == (torch.arange(24.0) * 1.5).tolist()
    monkeypatch.setattr(clips, "NUM_FRAMES", 5)
    monkeypatch.setattr(clips, "HEIGHT", 16)
    monkeypatch.setattr(clips, "WIDTH", 24)
    monkeypatch.setattr(clips, "SIZES", {"small": 2.0, "medium": 2.5, "big": 3.0})
    monkeypatch.setattr(autoencoder, "BANK_PART", 2)
    family = Wan(num_frames=5, base_dim=8)
    alone, captions = autoencoder.build_bank(family, family.build_autoencoder(0), 7, 5, torch.device("cpu"))
    assert first[4] == second[4] == captions and len(captions) == 7
    for bank in (first[3], second[3]):
        torch.testing.assert_close(torch.tensor(bank), alone.float(), rtol=1e-2, atol=1e-2)


def test_the_model_card_says_what_the_evaluation_measured():
    folder = ROOT / "assets/tiny_wan"
    card = (folder / "README.md").read_text(encoding="utf-8")
    measured = json.loads((folder / "evaluation.json").read_text())
    psnr = measured["autoencoder_psnr_db"]
    assert f"{sum(psnr) / len(psnr):.2f} dB (worst {min(psnr):.2f})" in card
    five, three = measured["steps_20_guidance_5"], measured["steps_20_guidance_3"]
    for what in ("shape", "motion"):
        assert f"| {five[what]:.0%} ({three[what]:.0%}) |".replace("%", " %") in card
    real = measured["check_on_real_clips"]
    assert real["real_shape"] == real["real_motion"] == 1 and "it passes 100 % with" in card
    for what in ("mismatched_shape", "mismatched_motion"):
        assert f"{real[what]:.1%}".replace("%", " %") in card
    assert len(measured["captions"]) == 64 and not set(measured["captions"]) & trained_captions()
