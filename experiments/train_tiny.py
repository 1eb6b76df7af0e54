"""Train the embedded model from nothing, in resumable pieces: ``python -m experiments.train_tiny --help``.

On several GPUs of one machine: ``torchrun --nproc-per-node 2 -m experiments.train_tiny``.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline

from experiments.tiny import autoencoder, diffusion, evaluate, export, resume
from experiments.tiny.budget import Budget
from experiments.tiny.clips import scenes
from experiments.tiny.ranks import Ranks

BANK_SEED, VAE_SEED, UNSEEN_SEED = 1_000_000, 2_000_000, 900_000


def main() -> None:
    options = _options()
    ranks = Ranks.join()
    try:
        _train(options, ranks)
    finally:
        ranks.leave()


def _train(options: argparse.Namespace, ranks: Ranks) -> None:
    device = ranks.device
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    torch.set_float32_matmul_precision("high")
    if ranks.rank == 0:
        print(f"training on {ranks.count} x {_name(device)}, torch {torch.__version__}", flush=True)
    piece = Budget(options.seconds - options.reserve, ranks=ranks)

    torch.manual_seed(options.seed)
    if options.start_from is None:
        tokenizer, stages = diffusion.build_tokenizer(), diffusion.STAGES
        model = diffusion.TextToLatents(diffusion.build_text_encoder(len(tokenizer)), diffusion.build_transformer())
        vae = _autoencoder(options, piece, ranks)
        bank, captions = _bank(options, vae, ranks)
        mean, deviation = export.set_latent_statistics(vae, bank)
    else:
        start = WanPipeline.from_pretrained(str(options.start_from)).to(torch.float32)
        tokenizer, stages = start.tokenizer, diffusion.STAGES[-1:]
        model = diffusion.TextToLatents(start.text_encoder, start.transformer)
        vae = start.vae.to(device).eval()
        if device.type == "cuda":
            autoencoder.make_fast(vae)
        bank, captions = _bank(options, vae, ranks)
        mean, deviation = (torch.tensor(v, device=device) for v in (vae.config.latents_mean, vae.config.latents_std))
    plain = copy.deepcopy(model)
    progress = resume.load(options.state, "diffusion", model)
    model.to(device)

    def save(average: dict[str, torch.Tensor]) -> None:
        if ranks.rank == 0:
            resume.save(options.state, "diffusion", model, progress)
            # What is exported is the average; later pieces without training export it again.
            resume.save_state(options.state, "average", average, {"step": str(progress.step)})

    weights = None
    if piece.tick() and progress.spent < options.diffusion_seconds:
        if device.type == "cuda":
            model.transformer.compile_repeated_blocks(dynamic=False)
        shape = (1, -1, 1, 1, 1)
        for part in bank.split(512):
            part.copy_((part.float() - mean.view(shape)) / deviation.view(shape))
        tokens = diffusion.token_table(tokenizer, captions).to(device)
        budget = Budget(options.diffusion_seconds, progress.spent, piece.left, ranks)
        weights = diffusion.train(model, bank, tokens, budget, progress, stages, save, options.seed, ranks)
    if ranks.rank > 0:
        return
    print(f"diffusion: {progress.spent:.0f} of {options.diffusion_seconds:.0f} s, {progress.step} steps", flush=True)

    if weights is None:
        average = resume.load_state(options.state, "average")
        if average is None:
            raise ValueError(f"--state={options.state} holds no trained model, and no time is left to train one")
        weights, _ = average
    pipe = export.pipeline(vae, plain, tokenizer, {name: value.detach().cpu() for name, value in weights.items()})
    export.save_pipeline(pipe, options.output)
    if options.evaluate:
        _evaluate(options, pipe.to(device), frozenset(captions), device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path("runs/train_tiny"), help="folder that training resumes from")
    parser.add_argument("--cache", type=Path, default=None, help="folder for the encoded bank (default: in the state)")
    parser.add_argument("--start-from", type=Path, default=None, help="folder of an exported pipeline to train further")
    parser.add_argument("--output", type=Path, default=Path("assets/tiny_wan"), help="folder of the exported pipeline")
    parser.add_argument("--seconds", type=float, default=570, help="wall-clock seconds of this piece")
    parser.add_argument("--vae-seconds", type=float, default=200, help="seconds of autoencoder training, once")
    parser.add_argument("--vae-batch", type=int, default=4, help="windows of 9 frames per step of the autoencoder")
    parser.add_argument("--min-psnr", type=float, default=33.0, help="dB below which diffusion training is not begun")
    parser.add_argument(
        "--diffusion-seconds", type=float, default=1200, help="seconds of diffusion training, all pieces"
    )
    parser.add_argument("--reserve", type=float, default=15, help="seconds kept for saving and evaluating")
    parser.add_argument("--bank", type=int, default=16_384, help="clips encoded for diffusion training")
    parser.add_argument("--pool", type=int, default=1536, help="clips drawn for autoencoder training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captions", type=int, default=64, help="unseen captions of the evaluation")
    parser.add_argument("--calibration", type=int, default=256, help="real clips that the check is tried on; 0: none")
    parser.add_argument(
        "--cudnn-benchmark",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="search for the fastest convolutions, once per shape",
    )
    parser.add_argument("--evaluate", action="store_true", help="generate videos for unseen captions and check them")
    return parser.parse_args()


def _autoencoder(options: argparse.Namespace, piece: Budget, ranks: Ranks) -> AutoencoderKLWan:
    """Return the autoencoder, rounded to bf16 as it is stored, trained as far as its budget and this piece allow."""
    device = ranks.device
    vae = autoencoder.build(options.seed)
    progress = resume.load(options.state, "autoencoder", vae)
    vae.to(device)
    if device.type == "cuda":
        autoencoder.make_fast(vae)
    if progress.spent < options.vae_seconds:
        pool = autoencoder.draw_pool(options.pool, VAE_SEED, device)
        piece.tick()
        budget = Budget(options.vae_seconds, progress.spent, piece.left, ranks)
        autoencoder.train(vae, budget, pool, progress, options.vae_batch, options.seed, ranks)
        if ranks.rank == 0:
            resume.save(options.state, "autoencoder", vae, progress)
    vae.to(torch.bfloat16).float().eval()
    scores = autoencoder.measure_psnr(vae, 8, UNSEEN_SEED, device)
    mean = evaluate.mean_psnr(scores)
    print(
        f"autoencoder: {progress.spent:.0f} s, {progress.step} steps, {mean:.2f} dB on unseen clips, worst "
        f"{min(scores):.2f}",
        flush=True,
    )
    if progress.spent < options.vae_seconds:
        raise SystemExit("the autoencoder's budget is not spent yet; run the same command again to go on")
    if mean < options.min_psnr:
        raise SystemExit(f"the autoencoder is below --min-psnr {options.min_psnr} dB; give it more --vae-seconds")
    return vae


def _bank(options: argparse.Namespace, vae: AutoencoderKLWan, ranks: Ranks) -> tuple[torch.Tensor, list[str]]:
    file = (options.cache or options.state) / "bank.pt"
    # All load it or all make it: rank 0 says which.
    if ranks.agree(file.exists()):
        stored = torch.load(file, map_location=ranks.device, weights_only=True)
        if stored["seed"] == BANK_SEED and len(stored["captions"]) == options.bank:
            return stored["latents"], stored["captions"]
    latents, captions = autoencoder.build_bank(vae, options.bank, BANK_SEED, ranks.device, ranks)
    if ranks.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"seed": BANK_SEED, "latents": latents, "captions": captions}, file)
    return latents, captions


def _evaluate(options: argparse.Namespace, pipe: WanPipeline, trained_on: frozenset[str], device: torch.device) -> None:
    pipe.set_progress_bar_config(disable=True)
    results: dict[str, Any] = {
        "device": _name(device),
        "torch": torch.__version__,
        "check_on_real_clips": evaluate.calibrate(options.calibration) if options.calibration else None,
        "autoencoder_psnr_db": autoencoder.measure_psnr(pipe.vae, 32, UNSEEN_SEED, device),
    }
    unseen = scenes(evaluate.CAPTION_SEED, options.captions, trained_on)
    for steps, guidance in ((20, 3.0), (20, 5.0), (10, 4.0)):
        videos = evaluate.generate(pipe, unseen, steps, guidance, evaluate.CAPTION_SEED)
        results[f"steps_{steps}_guidance_{guidance:g}"] = evaluate.score(videos, unseen)
        print(steps, guidance, results[f"steps_{steps}_guidance_{guidance:g}"], flush=True)
        evaluate.contact_sheet(videos[:12], options.state / f"sheet_{steps}_{guidance:g}.png")
    results["captions"] = [scene.caption for scene in unseen]
    (options.state / "evaluation.json").write_text(json.dumps(results, indent=1))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


if __name__ == "__main__":
    main()
