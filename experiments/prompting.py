"""The prompts of a run and the images that they begin from, checked before a model is loaded."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.loading import PROJECT
from experiments.schema import ModelConfig, PromptsConfig
from svg.prompts import Prompt, load_prompts, make_prompts
from svg.vbench import load_vbench

# Much larger than any video; PIL's own limit warns of, and then refuses, what may fill the memory.
MAX_PIXELS = 2**26


def load(config: PromptsConfig) -> list[Prompt]:
    """Return the prompts that the settings name; a relative path is looked for here, then in the project.

    Raises:
        ValueError: If there are none, or something of them cannot be read.
    """
    is_vbench = config.path is not None and Path(config.path).suffix == ".json"
    for name in ("dimension", "image_folder"):
        if getattr(config, name) is not None and not is_vbench:
            raise ValueError(f"prompts.{name} goes with prompts.path=FILE.json, a list of VBench")
    if config.path is None:
        return make_prompts(config.texts, "prompts.texts", [_find(image) for image in config.images])
    if config.images:
        raise ValueError("prompts.images goes with prompts.texts; beside prompts.path, images lie in its folder")
    path = _find(config.path)
    if not is_vbench:
        return load_prompts(path)
    return load_vbench(path, config.dimension, None if config.image_folder is None else _find(config.image_folder))


def _find(path: str) -> Path:
    here = Path(path)
    return here if here.exists() or not (PROJECT / here).exists() else PROJECT / here


@cache
def _image_parameter(pipeline: str) -> inspect.Parameter | None:
    """Return the parameter by which a class of diffusers takes an image."""
    import diffusers

    return inspect.signature(getattr(diffusers, pipeline).__call__).parameters.get("image")


def check_images(prompts: list[Prompt], model: ModelConfig) -> None:
    """Raise ``ValueError`` unless every prompt has an image that can be read, or none, as the pipeline takes it."""
    parameter = _image_parameter(model.pipeline)
    if model.size_from_image and parameter is None:
        raise ValueError(f"model.size_from_image is true, but {model.pipeline} takes no image; set it to false")
    for prompt in prompts:
        if prompt.image is not None and parameter is None:
            raise ValueError(
                f"prompt {prompt.prompt_id} has an image, but {model.pipeline} takes none; use text prompts"
            )
        if prompt.image is None and parameter is not None and parameter.default is inspect.Parameter.empty:
            raise ValueError(
                f"prompt {prompt.prompt_id} has no image, but {model.pipeline} begins from one; give prompts.images, "
                f"prompts.path=FOLDER with <id>.txt and <id>.png, or prompts=image_to_video"
            )
        if prompt.image is not None:
            open_image(prompt)


def open_image(prompt: Prompt) -> Image.Image:
    """Return a prompt's image as RGB, turned as its camera says, transparency on white.

    Raises:
        ValueError: If the file is no image, is damaged, or is larger than any video.
    """
    assert prompt.image is not None
    name = f"image {prompt.image} of prompt {prompt.prompt_id}"
    try:
        with Image.open(prompt.image) as file:
            if file.width * file.height > MAX_PIXELS:
                raise ValueError(f"{name} has {file.width} x {file.height} pixels; at most {MAX_PIXELS} are taken")
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        why = "it is no image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read: {why}") from None
