"""Train an embedded model from nothing, in resumable pieces: ``python -m experiments.train_tiny --help``.

On several GPUs of one machine: ``torchrun --nproc-per-node 2 -m experiments.train_tiny``.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from experiments.tiny import autoencoder, card, diffusion, evaluate, export, resume
from experiments.tiny import family as families
from experiments.tiny.budget import Budget
from experiments.tiny.clips import scenes
from experiments.tiny.family import Family, Parts
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
    family = families.get(options.family)
    if options.vae_batch is not None:
        family = replace(family, window_batch=options.vae_batch)
    if options.start_from is None:
        tokenizers, stages = family.build_tokenizers(), family.stages
        model = family.build_parts(tokenizers)
        vae = _autoencoder(options, family, piece, ranks)
        bank, captions = _bank(options, family, vae, ranks)
        mean, deviation = family.normalise(vae, *export.latent_statistics(bank))
    else:
        start = getattr(diffusers, family.pipeline).from_pretrained(str(options.start_from)).to(torch.float32)
        stages = family.stages[-1:]
        tokenizers = {name: part for name, part in start.components.items() if name.startswith("tokenizer")}
        model = Parts(**{name: start.components[name] for name in (*family.text_encoders, "transformer")})
        vae = start.vae.to(device).eval()
        if device.type == "cuda":
            family.make_fast(vae)
        bank, captions = _bank(options, family, vae, ranks)
        mean, deviation = (each.to(device) for each in family.statistics(vae))
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
        model = family.prepare(model)
        if device.type == "cuda":
            for block in families.blocks(model.get_submodule("transformer")).values():
                block.compile(dynamic=False)
        shape = (1, -1, 1, 1, 1)
        for part in bank.split(512):
            part.copy_((part.float() - mean.view(shape)) / deviation.view(shape))
        tokens = family.tokens(tokenizers, [*captions, family.no_caption])
        tokens = {name: table.to(device) for name, table in tokens.items()}
        budget = Budget(options.diffusion_seconds, progress.spent, piece.left, ranks)
        weights = diffusion.train(family, model, bank, tokens, budget, progress, stages, save, options.seed, ranks)
    if ranks.rank > 0:
        return
    print(f"diffusion: {progress.spent:.0f} of {options.diffusion_seconds:.0f} s, {progress.step} steps", flush=True)

    if weights is None:
        average = resume.load_state(options.state, "average")
        if average is None:
            raise ValueError(f"--state={options.state} holds no trained model, and no time is left to train one")
        weights, _ = average
    weights = {name: value.detach().cpu() for name, value in weights.items()}
    pipe = export.pipeline(family, vae, plain, tokenizers, weights)
    export.save_pipeline(pipe, options.output or families.folder(options.family))
    if options.evaluate:
        _evaluate(options, family, pipe.to(device), frozenset(captions), device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=families.FAMILIES, default="wan", help="what is trained (default: wan)")
    parser.add_argument("--state", type=Path, default=Path("runs/train_tiny"), help="folder that training resumes from")
    parser.add_argument("--cache", type=Path, default=None, help="folder for the encoded bank (default: in the state)")
    parser.add_argument("--start-from", type=Path, default=None, help="folder of an exported pipeline to train further")
    parser.add_argument(
        "--output", type=Path, default=None, help="folder of the exported pipeline (default: assets/tiny_FAMILY)"
    )
    parser.add_argument("--seconds", type=float, default=570, help="wall-clock seconds of this piece")
    parser.add_argument("--vae-seconds", type=float, default=200, help="seconds of autoencoder training, once")
    parser.add_argument(
        "--vae-batch",
        type=int,
        default=None,
        help="windows of 9 frames per step of the autoencoder",
    )
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


def _autoencoder(options: argparse.Namespace, family: Family, piece: Budget, ranks: Ranks) -> Any:
    """Return the autoencoder, rounded to bf16 as it is stored, trained as far as its budget and this piece allow."""
    device = ranks.device
    vae = family.build_autoencoder(options.seed)
    progress = resume.load(options.state, "autoencoder", vae)
    vae.to(device)
    if device.type == "cuda":
        family.make_fast(vae)
    if progress.spent < options.vae_seconds:
        pool = autoencoder.draw_pool(options.pool, VAE_SEED, device, family.num_frames)
        piece.tick()
        budget = Budget(options.vae_seconds, progress.spent, piece.left, ranks)
        autoencoder.train(family, vae, budget, pool, progress, options.seed, ranks)
        if ranks.rank == 0:
            resume.save(options.state, "autoencoder", vae, progress)
    vae.to(torch.bfloat16).float().eval()
    scores = autoencoder.measure_psnr(family, vae, 8, UNSEEN_SEED, device)
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


def _bank(options: argparse.Namespace, family: Family, vae: Any, ranks: Ranks) -> tuple[torch.Tensor, list[str]]:
    file = (options.cache or options.state) / "bank.pt"
    # All load it or all make it: rank 0 says which.
    if ranks.agree(file.exists()):
        stored = torch.load(file, map_location=ranks.device, weights_only=True)
        if stored["seed"] == BANK_SEED and len(stored["captions"]) == options.bank:
            return stored["latents"], stored["captions"]
    latents, captions = autoencoder.build_bank(family, vae, options.bank, BANK_SEED, ranks.device, ranks)
    if ranks.rank == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"seed": BANK_SEED, "latents": latents, "captions": captions}, file)
    return latents, captions


def _evaluate(
    options: argparse.Namespace, family: Family, pipe: Any, trained_on: frozenset[str], device: torch.device
) -> None:
    pipe.set_progress_bar_config(disable=True)
    results: dict[str, Any] = {
        "device": _name(device),
        "torch": torch.__version__,
        "training": _training(options.state),
        "check_on_real_clips": evaluate.calibrate(options.calibration) if options.calibration else None,
        "autoencoder_psnr_db": autoencoder.measure_psnr(family, pipe.vae, 32, UNSEEN_SEED, device),
    }
    unseen = scenes(evaluate.CAPTION_SEED, options.captions, trained_on)
    for steps, guidance in family.samplings:
        videos = evaluate.generate(pipe, family, unseen, steps, guidance, evaluate.CAPTION_SEED)
        name = card.sampling(steps, guidance)
        results[name] = evaluate.score(videos, unseen)
        print(name, results[name], flush=True)
        evaluate.contact_sheet(videos[:12], options.state / f"sheet_{steps}_{guidance:g}.png")
    results["captions"] = [scene.caption for scene in unseen]
    (options.state / "evaluation.json").write_text(json.dumps(results, indent=1))


def _training(state: Path) -> dict[str, dict[str, Any]]:
    """Return how long each part was trained in a state, and by how many processes at most, a GPU each."""
    stored = {part: resume.load_state(state, part) for part in ("autoencoder", "diffusion")}
    return {
        part: {
            "seconds": float(saved[1]["spent"]),
            "steps": int(saved[1]["step"]),
            "processes": int(saved[1].get("processes", 1)),
        }
        for part, saved in stored.items()
        if saved is not None
    }


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


if __name__ == "__main__":
    main()
