"""Loads a diffusers pipeline from a folder, or from Hugging Face at a pinned revision; safetensors only."""

from __future__ import annotations

import gc
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments import fp8_linear, weights
from experiments.parts import guardrail_parts, set_vae_tiling
from experiments.schema import ModelConfig
from svg import models

PROJECT = Path(__file__).resolve().parent.parent
# Files up to this size are hashed whole, greater ones in evenly spaced slices.
WHOLE_BYTES, SLICE_BYTES, SLICES = 64 * 2**20, 2**16, 256

# Formats of weights that run code when they are read.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# From this size on, loading takes long enough for a progress bar.
BIG_BYTES = 2**30


def find_folder(model: ModelConfig) -> Path:
    """Return the local folder of a model's pipeline, downloading it where ``model.revision`` is given.

    A relative path is looked for in the working directory, then in the project.

    Raises:
        ValueError: If the family is not implemented, the folder is missing, or the download fails.
    """
    _check_source(model)
    if model.revision is None:
        return _own_folder(model)
    try:
        folder = _downloaded(model, local_files_only=False)
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model.path={model.path} at model.revision={model.revision} cannot be had{_better(model.path)}: {why}"
        ) from error
    check_kind(folder, model.pipeline)
    return folder


def find_folder_here(model: ModelConfig) -> Path | None:
    """Return what ``find_folder`` returns, but download nothing: None where a checkpoint is not here, or not all of it.

    Raises:
        ValueError: If the family is not implemented, or a folder is missing or holds something else.
    """
    _check_source(model)
    if model.revision is None:
        return _own_folder(model)
    try:
        folder = _downloaded(model, local_files_only=True)
        check_folder(folder)
    except (OSError, ValueError):
        return None
    check_kind(folder, model.pipeline)
    return folder


def _check_source(model: ModelConfig) -> None:
    if model.pipeline not in models.known_pipelines():
        known = ", ".join(models.known_pipelines())
        raise ValueError(f"model.pipeline={model.pipeline} is not implemented; implemented are: {known}")
    if model.revision is not None and Path(model.path).is_dir():
        check_folder(Path(model.path))
        raise ValueError(f"model.path={model.path} is a folder, which has no revision; set model.revision=null")


def _own_folder(model: ModelConfig) -> Path:
    for folder in (Path(model.path), PROJECT / model.path):
        if folder.is_dir():
            check_folder(folder)
            check_kind(folder, model.pipeline)
            return folder.resolve()
    raise ValueError(
        f"model.path={model.path} is not a folder; give the folder of a diffusers pipeline, or a Hugging Face id "
        f"together with model.revision"
    )


def _downloaded(model: ModelConfig, local_files_only: bool) -> Path:
    from diffusers import DiffusionPipeline

    settings = {"revision": model.revision, "use_safetensors": True, "local_files_only": local_files_only}
    return Path(DiffusionPipeline.download(model.path, **settings))


def _better(path: str | Path) -> str:
    """Say where diffusers finds a model that lies here in its authors' own format; nothing where it does not."""
    ids = models.diffusers_ids(path)
    return f"; the model is in its authors' own format, use model.path={' or '.join(ids)}" if ids else ""


def check_folder(folder: Path) -> None:
    """Raise ``ValueError`` unless every part that ``model_index.json`` names is there with all of its weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"model.path={folder} holds no model_index.json; it is no folder of a diffusers pipeline{_better(folder)}"
        )
    parts = _read_json(index)
    for part, kind in parts.items():
        # A guardrail comes from a package of its own.
        if part.startswith("_") or not isinstance(kind, list) or kind[0] is None or part == "safety_checker":
            continue
        if not (folder / part).is_dir():
            raise ValueError(f"model.path={folder} is half there: its part {part} is missing")
        if "tokenizer" in part or "processor" in part:
            continue
        settings = "scheduler_config.json" if "scheduler" in part else "config.json"
        if not (folder / part / settings).is_file():
            raise ValueError(f"model.path={folder} is half there: {part}/{settings} is missing")
        _read_json(folder / part / settings)
        if "scheduler" not in part:
            _check_weights(folder, part)


def check_kind(folder: Path, pipeline: str) -> None:
    """Raise ``ValueError`` if the folder holds another pipeline than the one asked for."""
    kind = _read_json(folder / "model_index.json").get("_class_name")
    if kind != pipeline:
        raise ValueError(
            f"model.path={folder} holds a {kind}, and model.pipeline is {pipeline}; choose another path, or the model "
            f"that belongs to it"
        )


def _check_weights(folder: Path, part: str) -> None:
    names = {file.name for file in (folder / part).glob("*.safetensors")}
    for index in (folder / part).glob("*.safetensors.index.json"):
        lacking = sorted(set(_read_json(index).get("weight_map", {}).values()) - names)
        if lacking:
            raise ValueError(f"model.path={folder} is half there: {part}/{lacking[0]} is missing")
    if not names:
        others = sorted(file.name for file in (folder / part).iterdir() if file.suffix in PICKLES)
        instead = f", but {others[0]}" if others else ""
        raise ValueError(f"model.path={folder} has no safetensors in {part}{instead}; other formats are not loaded")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path={file.parent}: {file.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"model.path={file.parent}: {file.name} is damaged")
    return content


def load_pipeline(model: ModelConfig, folder: Path, device: torch.device) -> Any:
    """Return the pipeline in ``folder`` on a device; loaded once for a sweep in one process.

    Raises:
        ValueError: If the files cannot be loaded, or the linear layers cannot have the precision that is asked for.
    """
    marks = tuple((file.as_posix(), file.stat().st_mtime_ns) for file in _files(folder))
    sampler = (model.flow_shift, model.boundary_ratio)
    dtypes = (model.dtype, model.vae_dtype or model.dtype)
    is_fp8 = model.linear_precision == "fp8"
    pipeline = _load(model.pipeline, folder, *dtypes, is_fp8, *sampler, model.guardrail, device, marks)
    set_vae_tiling(pipeline, model.vae_tiling)
    return pipeline


def forget() -> None:
    """Let the pipeline go that was loaded last, and its memory where nobody else holds it."""
    _load.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@lru_cache(maxsize=1)
def _load(
    name: str,
    folder: Path,
    dtype: str,
    vae_dtype: str,
    is_fp8: bool,
    flow_shift: float | None,
    boundary_ratio: float | None,
    guardrail: bool | None,
    device: torch.device,
    marks: tuple,
) -> Any:
    import diffusers
    import transformers

    if sum(file.stat().st_size for file in _files(folder)) < BIG_BYTES:
        # Loaded before a bar could be read.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    parts = guardrail_parts(name, guardrail)
    if is_fp8:
        parts["quantization_config"] = fp8_linear.for_pipeline(name, transformer_parts(folder), device)
    types = {"default": getattr(torch, dtype), "vae": getattr(torch, vae_dtype)}
    if (folder / "image_encoder").is_dir():
        # Small, and like the autoencoder run once a video.
        types["image_encoder"] = types["vae"]
    with weights.all_weights(folder):
        try:
            pipeline = getattr(diffusers, name).from_pretrained(
                folder, dtype=types, use_safetensors=True, local_files_only=True, **parts
            )
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise ValueError(f"model.path={folder} cannot be loaded as {name}: {why}") from error
    weights.check_parts(folder, pipeline.components)
    if is_fp8:
        for transformer in models.adapter_for(pipeline).transformers(pipeline):
            fp8_linear.check_layers(transformer, name)
    if flow_shift is not None:
        pipeline.scheduler = with_flow_shift(pipeline.scheduler, flow_shift)
    if boundary_ratio is not None and getattr(pipeline, "transformer_2", None) is not None:
        pipeline.register_to_config(boundary_ratio=boundary_ratio)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def transformer_parts(folder: Path) -> list[str]:
    """Return what the transformers of a pipeline's folder are called in it: one, or two experts."""
    index = _read_json(folder / "model_index.json")
    return [part for part, kind in index.items() if part.startswith("transformer") and kind[0] is not None]


def with_flow_shift(scheduler: Any, flow_shift: float) -> Any:
    """Return a scheduler like this one with another shift of its flow."""
    name = next((name for name in ("flow_shift", "shift") if name in scheduler.config), None)
    if name is None:
        raise ValueError(f"model.flow_shift is {flow_shift}, but {type(scheduler).__name__} has none; set it to null")
    return type(scheduler).from_config(scheduler.config, **{name: flow_shift})


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors") and file.is_file())


def fingerprint(folder: Path) -> str:
    """Return 32 hex digits that change with the weights or the settings of a pipeline's folder."""
    states = [(file, file.stat()) for file in _files(folder)]
    return _fingerprint(folder, tuple((file, state.st_mtime_ns, state.st_size) for file, state in states))


@lru_cache(maxsize=16)
def _fingerprint(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, size in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= WHOLE_BYTES:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
                continue
            for index in range(SLICES):
                stream.seek((size - SLICE_BYTES) * index // (SLICES - 1))
                digest.update(stream.read(SLICE_BYTES))
    return digest.hexdigest()[:32]
