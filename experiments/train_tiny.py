"""Train the embedded model from nothing, in resumable pieces: ``python -m experiments.train_tiny --help``."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch

from experiments.tiny import autoencoder, diffusion, evaluate, export
from experiments.tiny.budget import Budget
from experiments.tiny.clips import scenes

BANK_SEED, VAE_SEED, UNSEEN_SEED = 1_000_000, 2_000_000, 900_000


def main() -> None:
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    print(f"training on {_name(device)}, torch {torch.__version__}", flush=True)
    piece = Budget(options.seconds)

    vae = _autoencoder(options, device)
    bank, captions = _bank(options, vae, device)
    mean, deviation = export.set_latent_statistics(vae, bank)
    vae.save_pretrained(options.state / "vae")
    tokenizer = diffusion.build_tokenizer()
    torch.manual_seed(options.seed)
    model = diffusion.TextToLatents(diffusion.build_text_encoder(len(tokenizer)), diffusion.build_transformer())
    state, spent = _resume(options.state, model)
    model.to(device)

    left = options.seconds - piece.elapsed - options.reserve
    if left > 0 and spent < options.diffusion_seconds:
        if device.type == "cuda":
            model.transformer.compile_repeated_blocks(dynamic=False)
        shape = (1, -1, 1, 1, 1)
        bank = ((bank.float() - mean.view(shape)) / deviation.view(shape)).to(torch.bfloat16)
        budget = Budget(options.diffusion_seconds, spent, left)
        diffusion.train(model, bank, diffusion.token_table(tokenizer, captions).to(device), budget, state, options.seed)
        spent = budget.spent
        _save(options.state, model, state, spent)
    print(f"diffusion: {spent:.0f} of {options.diffusion_seconds:.0f} s, {state['step']} steps", flush=True)

    plain = diffusion.TextToLatents(diffusion.build_text_encoder(len(tokenizer)), diffusion.build_transformer())
    weights = state["ema"] if "ema" in state else dict(model.named_parameters())
    averaged = {name.replace("._orig_mod", ""): value.detach().cpu() for name, value in weights.items()}
    pipe = export.pipeline(vae, plain, averaged)
    export.save_pipeline(pipe, options.output)
    if options.evaluate:
        _evaluate(options, pipe.to(device), vae, frozenset(captions), device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("runs/train_tiny"), help="folder that training resumes from")
    parser.add_argument("--cache", type=Path, default=None, help="folder for the encoded bank (default: in the state)")
    parser.add_argument("--output", type=Path, default=Path("assets/tiny_wan"), help="folder of the exported pipeline")
    parser.add_argument("--seconds", type=float, default=570, help="wall-clock seconds of this piece")
    parser.add_argument("--vae-seconds", type=float, default=200, help="seconds of autoencoder training, once")
    parser.add_argument("--min-psnr", type=float, default=30.0, help="dB below which diffusion training is not begun")
    parser.add_argument("--diffusion-seconds", type=float, default=1200, help="seconds of diffusion training, all pieces")
    parser.add_argument("--reserve", type=float, default=15, help="seconds kept for saving and evaluating")
    parser.add_argument("--bank", type=int, default=12_288, help="clips encoded for diffusion training")
    parser.add_argument("--pool", type=int, default=1536, help="clips drawn for autoencoder training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captions", type=int, default=64, help="unseen captions of the evaluation")
    parser.add_argument("--calibration", type=int, default=256, help="real clips that the check is tried on; 0: none")
    parser.add_argument("--evaluate", action="store_true", help="generate videos for unseen captions and check them")
    return parser.parse_args()


def _autoencoder(options: argparse.Namespace, device: torch.device) -> torch.nn.Module:
    folder = options.state / "vae"
    if (folder / "config.json").exists():
        from diffusers import AutoencoderKLWan

        return AutoencoderKLWan.from_pretrained(folder).to(device).eval()
    vae = autoencoder.build(options.seed)
    autoencoder.train(vae, options.vae_seconds, device, VAE_SEED, options.pool)
    vae.to(torch.bfloat16).float()
    scores = autoencoder.measure_psnr(vae, 8, UNSEEN_SEED, device)
    print(f"autoencoder: {evaluate.mean_psnr(scores):.2f} dB on unseen clips, worst {min(scores):.2f}", flush=True)
    if evaluate.mean_psnr(scores) < options.min_psnr:
        raise SystemExit(f"the autoencoder is below --min-psnr {options.min_psnr} dB; give it more --vae-seconds")
    return vae


def _bank(options: argparse.Namespace, vae: torch.nn.Module, device: torch.device) -> tuple[torch.Tensor, list[str]]:
    file = (options.cache or options.state) / "bank.pt"
    if file.exists():
        stored = torch.load(file, map_location=device, weights_only=True)
        if stored["seed"] == BANK_SEED and len(stored["captions"]) == options.bank:
            return stored["latents"], stored["captions"]
    latents, captions = autoencoder.build_bank(vae, options.bank, BANK_SEED, device)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"seed": BANK_SEED, "latents": latents, "captions": captions}, file)
    return latents, captions


def _resume(path: Path, model: torch.nn.Module) -> tuple[dict, float]:
    stored = export.load_state(path)
    if stored is None:
        return {"step": 0}, 0.0
    tensors, metadata = stored
    weights = {name.removeprefix("weight/"): value for name, value in tensors.items() if name.startswith("weight/")}
    model.load_state_dict(weights, strict=False)
    square = {name.removeprefix("square/"): value for name, value in tensors.items() if name.startswith("square/")}
    return {"step": int(metadata["step"]), "square": square}, float(metadata["spent"])


def _save(path: Path, model: torch.nn.Module, state: dict, spent: float) -> None:
    tensors = {f"weight/{name}": value.float() for name, value in model.named_parameters()}
    tensors |= {f"square/{name}": value.to(torch.bfloat16) for name, value in state["square"].items()}
    export.save_state(path, tensors, {"step": str(state["step"]), "spent": f"{spent:.1f}"})


def _evaluate(options: argparse.Namespace, pipe, vae, trained_on: frozenset[str], device: torch.device) -> None:
    pipe.set_progress_bar_config(disable=True)
    results = {
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
