"""Every family of the tiny models: built small, trained as its pipeline samples, exported as diffusers loads it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from transformers import T5EncoderModel, UMT5EncoderModel

import svg
from experiments import train_tiny
from experiments.tiny import autoencoder, card, clips, cogvideox_i2v, export, hunyuan_video, resume
from experiments.tiny import family as families
from experiments.tiny.cogvideox_i2v import CogVideoXImageToVideo
from experiments.tiny.family import Batch
from experiments.tiny.hunyuan_video import HunyuanVideo
from experiments.tiny.hunyuan_video_words import CAPTION_TOKENS, CROP
from experiments.tiny.wan import Wan
from svg import backends

SMALL = {
    "wan": Wan(
        num_frames=9, windows=((0.5, 5), (1.0, 9)), window_batch=2, stages=((0.3, 3, 4), (1.0, 5, 2)), base_dim=8
    ),
    "hunyuan_video": HunyuanVideo(
        num_frames=9,
        windows=((0.5, 5), (1.0, 9)),
        window_batch=2,
        stages=((0.3, 2, 4), (1.0, 3, 2)),
        widths=(8, 8, 8),
    ),
    "cogvideox_i2v": CogVideoXImageToVideo(
        num_frames=9,
        windows=((0.5, 5), (1.0, 9)),
        window_batch=2,
        stages=((0.3, 2, 4), (1.0, 6, 2)),
        widths=(8, 8, 8),
    ),
}
CAPTION = "a small red circle moves right over a navy striped background"


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.setattr(clips, "NUM_FRAMES", 9)
    monkeypatch.setattr(clips, "HEIGHT", 32)
    monkeypatch.setattr(clips, "WIDTH", 48)
    monkeypatch.setattr(clips, "SIZES", {"small": 4.0, "medium": 5.0, "big": 6.0})
    monkeypatch.setattr(families, "get", SMALL.__getitem__)


@pytest.fixture(params=families.FAMILIES)
def name(request):
    return request.param


def video(*size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def batch(family, clean, captions=(CAPTION,), share=0.0, is_dropped=False):
    tokenizers = family.build_tokenizers()
    generator = torch.Generator().manual_seed(0)
    return Batch(
        clean,
        family.tokens(tokenizers, list(captions) * len(clean)),
        family.tokens(tokenizers, [family.no_caption]),
        torch.full((len(clean),), is_dropped),
        share,
        generator,
        random.Random(0),
    )


def test_every_family_is_as_large_as_its_configuration_says(name):
    family = families.get(name)
    frames = family.latent_frames // family.patch[0]
    assert frames == 17
    assert frames * clips.HEIGHT * clips.WIDTH // (families.SPATIAL * 2) ** 2 == 4080
    parts = family.build_parts(family.build_tokenizers())
    modules = [family.build_autoencoder(0), *parts.children()]
    assert 2 * sum(parameter.numel() for module in modules for parameter in module.parameters()) < 30e6
    assert len(families.blocks(parts.transformer)) >= 6


def test_what_makes_training_fast_changes_no_gradient(name):
    family = SMALL[name]
    plain, fast = family.build_autoencoder(0), family.build_autoencoder(0)
    family.make_fast(fast)
    for vae in (plain, fast):
        torch.manual_seed(1)
        autoencoder.reconstruct(family, vae, video(1, 3, 9, 16, 24))[0].square().mean().backward()
    for first, second in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-5)


def test_training_encodes_and_decodes_as_the_pipeline(name):
    family = SMALL[name]
    vae = family.build_autoencoder(0).eval()
    with torch.no_grad():
        mean, log_variance = family.posterior(vae, video(1, 3, 9, 16, 24))
        expected = vae.encode(video(1, 3, 9, 16, 24)).latent_dist
        torch.testing.assert_close(mean, expected.mean)
        torch.testing.assert_close(log_variance, expected.logvar)
        decoded = family.decode(vae, mean)
        assert decoded.shape == (1, 3, 9, 16, 24)
        torch.testing.assert_close(decoded.clamp(-1, 1), vae.decode(mean).sample.clamp(-1, 1))


@pytest.mark.parametrize("name", ["hunyuan_video", "cogvideox_i2v"])
def test_an_autoencoder_without_a_place_for_latent_statistics_takes_them_into_its_weights(name):
    family = SMALL[name]
    vae = family.build_autoencoder(0).eval()
    clip = video(1, 3, 9, 16, 24)
    mean, deviation = torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16)
    with torch.no_grad():
        before = vae.encode(clip).latent_dist
        decoded = vae.decode(before.mean).sample
        mean, deviation = family.normalise(vae, mean, deviation)
        shape = (1, -1, 1, 1, 1)
        expected = (before.mean - mean.view(shape)) / deviation.view(shape)
        after = vae.encode(clip).latent_dist
        torch.testing.assert_close(after.mean, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after.std, before.std / deviation.view(shape), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(vae.decode(expected).sample, decoded, rtol=1e-4, atol=1e-5)
    assert vae.config.scaling_factor == 1.0


def perfect(name, clean, schedule):
    """Return what a transformer that knows the clean latents would predict, called as ``name``'s is."""

    def predict(hidden_states, timestep, **others):
        if name == "cogvideox_i2v":
            noisy = hidden_states[:, :, :16].transpose(1, 2)
            kept = schedule.alphas_cumprod[timestep].float().view(-1, 1, 1, 1, 1)
            noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
            return ((kept.sqrt() * noise - (1 - kept).sqrt() * clean).transpose(1, 2),)
        return ((hidden_states - clean) / (timestep / 1000).view(-1, 1, 1, 1, 1),)

    return predict


def test_a_perfect_prediction_has_no_loss_and_gives_the_clean_latents_through_the_pipelines_scheduler(name):
    family = families.get(name)
    clean = torch.randn(2, 16, family.latent_frames, 4, 6, generator=torch.Generator().manual_seed(1))
    schedule = family.scheduler()
    parts = family.build_parts(family.build_tokenizers())
    predict = perfect(name, clean, schedule)
    predict.config = parts.transformer.config
    encoders = {part: getattr(parts, part) for part in family.text_encoders}
    known = SimpleNamespace(transformer=predict, **encoders)
    assert family.loss(known, batch(family, clean)) < 1e-6

    schedule.set_timesteps(8)
    latents = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    for timestep in schedule.timesteps:
        noisy = latents.transpose(1, 2) if name == "cogvideox_i2v" else latents
        prediction = predict(hidden_states=noisy, timestep=timestep.expand(2))[0]
        prediction = prediction.transpose(1, 2) if name == "cogvideox_i2v" else prediction
        latents = schedule.step(prediction, timestep, latents, return_dict=False)[0]
    # Wan's timesteps are whole numbers, and so not quite its noise levels.
    torch.testing.assert_close(latents, clean, rtol=0, atol=1e-2)


@pytest.mark.slow
def test_the_loss_of_one_batch_goes_down(name):
    torch.manual_seed(0)
    family = SMALL[name]
    parts = family.prepare(family.build_parts(family.build_tokenizers()))
    clean = torch.randn(2, 16, family.stages[0][1], 4, 6)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = family.loss(parts, batch(family, clean))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", [T5EncoderModel, UMT5EncoderModel])
def test_a_text_encoder_of_either_t5_has_its_own_classs_settings_and_the_width_asked_for(kind):
    encoder = families.build_t5(kind, width=24, vocab_size=11)
    assert type(encoder.config) is kind.config_class
    assert encoder(torch.tensor([[3, 1, 0]])).last_hidden_state.shape == (1, 3, 24)
    assert encoder.get_input_embeddings().weight.shape == (11, 24)


def test_every_caption_is_as_many_tokens_to_hunyuan_video_and_the_template_is_cut_off():
    family = SMALL["hunyuan_video"]
    captions = list({scene.caption for scene in clips.scenes(0, 300)})
    tokenizer = family.build_tokenizers()["tokenizer"]
    rows = family.tokens(family.build_tokenizers(), [*captions, family.no_caption])["ids"]
    assert rows.shape[1] == CROP + CAPTION_TOKENS + 1
    assert (rows[:, :CROP] == rows[0, :CROP]).all()
    assert tokenizer.decode(rows[captions.index(captions[0]), CROP]) == "a"
    assert not (rows[:-1] == tokenizer.unk_token_id).any()
    assert (rows[-1, CROP:-1] == tokenizer.unk_token_id).all()


def test_hunyuan_video_encodes_captions_in_training_as_its_pipeline_does(small_world):
    family = SMALL["hunyuan_video"]
    tokenizers = family.build_tokenizers()
    parts = family.build_parts(tokenizers).eval()
    pipe = export.pipeline(family, family.build_autoencoder(0), parts, tokenizers)
    seen = {}
    known = SimpleNamespace(
        text_encoder=pipe.text_encoder,
        text_encoder_2=pipe.text_encoder_2,
        transformer=lambda **given: (seen.update(given), (torch.zeros(1),))[1],
    )
    tokens = family.tokens(tokenizers, [CAPTION])
    with torch.no_grad():
        hunyuan_video.predict(known, torch.zeros(1, 16, 3, 8, 12), torch.ones(1), tokens, torch.full((1,), 4.0))
        text, pooled, mask = pipe.encode_prompt(CAPTION, max_sequence_length=32)
    length = CAPTION_TOKENS + 1
    assert mask.sum() == length
    torch.testing.assert_close(seen["encoder_hidden_states"], text[:, :length])
    torch.testing.assert_close(seen["pooled_projections"], pooled)
    assert seen["guidance"].tolist() == [4000.0] and seen["timestep"].tolist() == [1000.0]


def test_hunyuan_videos_loss_is_least_where_the_prediction_is_guided_by_the_scale_it_was_told():
    family = families.get("hunyuan_video")
    clean = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    parts = family.build_parts(family.build_tokenizers())
    nothing = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    captioned = batch(family, clean).tokens["ids"].shape[0]
    told = []

    def predict(error, hidden_states, timestep, encoder_hidden_states, guidance, **others):
        scale = (guidance / 1000).view(-1, 1, 1, 1, 1)
        told.append(guidance / 1000)
        velocity = (hidden_states - clean) / (timestep / 1000).view(-1, 1, 1, 1, 1)
        # The second call of a step is without caption.
        return (nothing if len(told) % 2 == 0 else nothing + scale * (velocity - nothing) + error,)

    def loss(error):
        encoders = {part: getattr(parts, part) for part in family.text_encoders}
        known = SimpleNamespace(transformer=lambda **given: predict(error, **given), **encoders)
        return family.loss(known, batch(family, clean, share=0.9))

    assert captioned == 2
    assert loss(0.0) < 1e-6
    assert (told[0] > 1).all() and (told[0] <= hunyuan_video.GREATEST_GUIDANCE).all() and (told[1] == 1).all()
    assert loss(1.0) > 1e-3


def test_cogvideox_sees_in_training_what_its_pipeline_gives_it(small_world, monkeypatch):
    monkeypatch.setattr(cogvideox_i2v, "IMAGE_NOISE", (-100.0, 0.0))
    family = SMALL["cogvideox_i2v"]
    tokenizers = family.build_tokenizers()
    vae = family.build_autoencoder(0)
    # The pipeline samples the image's latents.
    vae.encoder.conv_out.conv.bias.data[16:] = -30
    pipe = export.pipeline(family, vae, family.build_parts(tokenizers), tokenizers)
    pipe.set_progress_bar_config(disable=True)
    [scene] = clips.scenes(3, 1)
    seen = []
    stock = pipe.transformer.forward

    def spy(**given):
        seen.append(given)
        return stock(**given)

    spy.config = pipe.transformer.config
    monkeypatch.setattr(pipe.transformer, "forward", spy)
    size = {"height": clips.HEIGHT, "width": clips.WIDTH, "num_frames": family.num_frames}
    noise = torch.randn(1, *family.noise_shape)
    pipe(
        prompt=[scene.caption],
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
        latents=noise,
        **size,
        **family.call([scene], [5]),
    )
    clip = (clips.draw([scene], 5, num_frames=family.num_frames) * 255).round() / 127.5 - 1
    with torch.no_grad():
        data = replace(batch(family, family.encode(pipe.vae, clip)), numbers=SimpleNamespace(random=lambda: 1.0))
        family.loss(SimpleNamespace(text_encoder=pipe.text_encoder, transformer=spy), data)
    sampled, trained = seen
    assert sampled["hidden_states"].shape == trained["hidden_states"].shape
    torch.testing.assert_close(sampled["hidden_states"][:, :, :16], noise)
    torch.testing.assert_close(sampled["hidden_states"][:, :, 16:], trained["hidden_states"][:, :, 16:])
    assert sampled["hidden_states"][:, 0, 16:].abs().max() > 0.1
    assert sampled["encoder_hidden_states"].shape == trained["encoder_hidden_states"].shape
    assert torch.equal(sampled["ofs"], trained["ofs"])
    for first, second in zip(sampled["image_rotary_emb"], trained["image_rotary_emb"], strict=True):
        torch.testing.assert_close(first, second)


def train(monkeypatch, *arguments):
    shared = {"seconds": 300, "reserve": 1, "bank": 16, "pool": 16, "captions": 2, "calibration": 0, "min-psnr": 0}
    given = [f"--{option}={value}" for option, value in shared.items()]
    monkeypatch.setattr("sys.argv", ["train_tiny", *given, *map(str, arguments)])
    train_tiny.main()


@pytest.mark.slow
def test_training_makes_a_pipeline_that_runs_sparse_and_goes_on_where_it_stopped(
    name, tmp_path, small_world, monkeypatch
):
    first = ["--family", name, "--state", tmp_path / "state", "--output", tmp_path / "first"]
    train(monkeypatch, *first, "--vae-seconds", 3, "--diffusion-seconds", 4)
    steps = resume.load_state(tmp_path / "state", "diffusion")[1]["step"]
    train(monkeypatch, *first, "--vae-seconds", 3, "--diffusion-seconds", 8)
    assert int(resume.load_state(tmp_path / "state", "diffusion")[1]["step"]) > int(steps) > 0
    second = ["--family", name, "--state", tmp_path / "state2", "--output", tmp_path / "second", "--evaluate"]
    train(monkeypatch, "--start-from", tmp_path / "first", *second, "--diffusion-seconds", 4)

    def weights(folder, part):
        return [file.read_bytes() for file in sorted((tmp_path / folder / part).glob("*.safetensors"))]

    assert weights("first", "vae") == weights("second", "vae")
    assert weights("first", "transformer") != weights("second", "transformer")
    assert all(file.stat().st_size < 2**24 for file in (tmp_path / "first").rglob("*") if file.is_file())
    result = json.loads((tmp_path / "state2" / "evaluation.json").read_text())
    assert set(result["steps_20_guidance_5"]) == {"shape", "motion"} and len(result["captions"]) == 2

    family = SMALL[name]
    pipe = getattr(diffusers, family.pipeline).from_pretrained(tmp_path / "first", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    with svg.attach(pipe, svg.SparseVideoGen(sparsity=0.8, block_size=4), backend=backends.get("reference")) as run:
        [frames] = pipe(
            prompt=[CAPTION],
            height=clips.HEIGHT,
            width=clips.WIDTH,
            num_frames=family.num_frames,
            num_inference_steps=2,
            output_type="np",
            **family.call(clips.scenes(3, 1), [5]),
        ).frames
    assert frames.shape == (9, 32, 48, 3)
    assert run.receipt.density_executed is not None


@pytest.mark.parametrize("name", ["hunyuan_video", "cogvideox_i2v"])
def test_a_models_card_says_what_was_measured(name, tmp_path, monkeypatch):
    family = families.get(name)
    folder, state = tmp_path / "model", tmp_path / "state"
    (folder / "vae").mkdir(parents=True)
    state.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "X", "vae": ["diffusers", "SomeAutoencoder"]}')
    save_file({"a": torch.zeros(3, 4, dtype=torch.bfloat16), "b": torch.zeros(())}, folder / "vae/a.safetensors")
    results = {
        "device": "SOME GPU",
        "training": {"autoencoder": {"seconds": 301.4, "steps": 4321, "processes": 2}},
        "autoencoder_psnr_db": [35.0, 36.0],
        "captions": ["a", "b", "c"],
    }
    for place, sampling in enumerate(family.samplings):
        results[card.sampling(*sampling)] = {"shape": 0.91 + place / 100, "motion": 0.71 + place / 100}
    (state / "evaluation.json").write_text(json.dumps(results))
    monkeypatch.setattr("sys.argv", ["card", "--family", name, "--state", str(state), "--folder", str(folder)])
    card.main()
    written = (folder / "README.md").read_text()
    for words in (
        "| vae | `SomeAutoencoder` | 13 |",
        "| autoencoder | 301 s | 2 | 4,321 |",
        "| VAE, PSNR on 2 unseen clips | 35.50 dB (worst 35.00) | 34 dB |",
        "| colour, shape and motion, 10 steps, guidance 4 | 73% | 75 % |",
        "17 token frames of 240 = 4080 tokens",
        "guidance_scale=4,",
        "SOME GPU, 3 captions",
    ):
        assert words in " ".join(written.split())
    assert json.loads((folder / "evaluation.json").read_text()) == results
    (state / "evaluation.json").unlink()
    with pytest.raises(SystemExit, match=r"evaluation.json is not there"):
        card.main()
