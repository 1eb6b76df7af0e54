"""Linear layers in FP8, by torchao: which of a model's, in which form, and where that cannot be.

Weights, once, and what they multiply, as it comes, are rounded to e4m3 with a scale for each row. This is done to the
layers that every video token goes through. The others, for modulation, embeddings and text, take next to no time.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import Any

import torch

from experiments.schema import ModelConfig
from svg.models import adapter_named

LEAST_CAPABILITY = (8, 9)
LEAST_TORCHAO = (0, 17)
# That a scale is made of: a token of zeros would have the scale 0 without, and become NaN.
LEAST_VALUE = 1e-12
INSTEAD = "use model.linear_precision=bf16"
EXTRA = f"install the extra fp8 (make setup-torchao), or {INSTEAD}"


def check(model: ModelConfig, device: torch.device) -> None:
    """Raise ``ValueError`` unless a model's linear layers can have the precision that is asked for, on this device."""
    if model.linear_precision == "bf16":
        return
    check_model(model)
    asked = f"model.linear_precision={model.linear_precision}"
    if device.type == "cuda" and not has_products(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ValueError(
            f"{asked} needs compute capability 8.9 (Ada) or newer, this GPU has {major}.{minor}; {INSTEAD}"
        )
    if find_spec("torchao") is None:
        raise ValueError(f"{asked} needs torchao, which is not installed; {EXTRA}")
    found = version_of("torchao")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < LEAST_TORCHAO:
        raise ValueError(f"{asked} needs torchao {'.'.join(map(str, LEAST_TORCHAO))} or newer, found {found}; {EXTRA}")


def has_products(device: torch.device) -> bool:
    """Return whether a device is a GPU that multiplies in FP8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def check_model(model: ModelConfig) -> None:
    """Raise ``ValueError`` unless a model has layers that can be in FP8, whatever machine runs it."""
    if model.dtype != "bfloat16":
        raise ValueError(
            f"model.linear_precision=fp8 is of layers in bfloat16, and model.dtype is {model.dtype}; use "
            f"model.dtype=bfloat16, or {INSTEAD}"
        )
    _patterns(model.pipeline)


def quantise(transformer: torch.nn.Module, pipeline: str, device: torch.device) -> None:
    """Give a transformer's layers that every video token goes through weights in FP8, in place.

    Args:
        transformer: With weights in bfloat16.
        pipeline: Class of its pipeline in diffusers.
        device: Where it computes.

    Raises:
        ValueError: If one of the layers has a size that FP8 products do not take, or a row of zeros.
    """
    from torchao.quantization import quantize_

    quantize_(transformer, _configuration(pipeline, device), filter_fn=None)
    check_layers(transformer, pipeline)


def for_pipeline(pipeline: str, parts: list[str], device: torch.device) -> Any:
    """Return what diffusers' ``from_pretrained`` takes as ``quantization_config``, for the same layers.

    Args:
        pipeline: Class in diffusers.
        parts: What its transformers are called in it.
        device: Where it computes.
    """
    from diffusers import PipelineQuantizationConfig, TorchAoConfig

    # Not by modules_to_not_convert: a name there also means every longer one that ends like it.
    mapping = {part: TorchAoConfig(_configuration(pipeline, device)) for part in parts}
    return PipelineQuantizationConfig(quant_mapping=mapping)


def check_layers(transformer: torch.nn.Module, pipeline: str) -> None:
    """Raise ``ValueError`` unless every layer that is to be in FP8 is, and computes.

    torchao passes over sizes that it cannot take, and divides a row of zeros by zero.
    """
    layers = {name: module for name, module in transformer.named_modules() if _is_chosen(name, pipeline)}
    if not layers:
        raise ValueError(
            f"model.linear_precision is fp8, but {type(transformer).__name__} has no layer that its adapter's "
            f"video_layers name; {INSTEAD}"
        )
    for name, module in layers.items():
        scale = getattr(module.weight, "scale", None)
        if scale is None:
            columns, rows = tuple(module.weight.shape)
            raise ValueError(
                f"model.linear_precision=fp8 takes layers whose sizes are multiples of 16, and {name} is {rows} x "
                f"{columns}; {INSTEAD}"
            )
        if not bool(scale.all()):
            raise ValueError(
                f"model.linear_precision=fp8 scales a row of weights by its greatest, and {name} has one of zeros; "
                f"{INSTEAD}"
            )


def _patterns(pipeline: str) -> tuple[str, ...]:
    patterns: tuple[str, ...] = getattr(adapter_named(pipeline), "video_layers", ())
    if not patterns:
        raise ValueError(
            f"model.linear_precision is fp8, but the adapter of {pipeline} does not say in video_layers of which "
            f"layers; {INSTEAD}"
        )
    return patterns


def _is_chosen(name: str, pipeline: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in _patterns(pipeline))


def _configuration(pipeline: str, device: torch.device) -> Any:
    """Return torchao's configuration: one form for the layers of these names, and nothing for the others."""
    from torchao.quantization import FqnToConfig

    form = _on_gpu() if device.type == "cuda" else _on_cpu()
    return FqnToConfig({f"re:{pattern}": form for pattern in _patterns(pipeline)})


def _on_gpu() -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    # Its settings of the compiler would stay for the whole process, and make other runs in it others.
    return Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), activation_value_lb=LEAST_VALUE, set_inductor_config=False
    )


@cache
def _on_cpu() -> Any:
    """Return the same for a CPU: torchao's own one refuses it, though its tensors and torch's product compute there."""
    from torchao.core.config import AOBaseConfig
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import Float8Tensor, PerRow, register_quantize_module_handler
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs

    class Float8OnCpu(AOBaseConfig):
        """Marks layers for the function below."""

    @register_quantize_module_handler(Float8OnCpu)
    def quantised(module: torch.nn.Linear, mark: Float8OnCpu) -> torch.nn.Linear:
        weight: torch.Tensor = module.weight
        if not any(size % 16 for size in weight.shape):
            form = {"granularity": PerRow(), "mm_config": Float8MMConfig()}
            activations = QuantizeTensorToFloat8Kwargs(granularity=PerRow(), hp_value_lb=LEAST_VALUE)
            weight = Float8Tensor.from_hp(weight, **form, act_quant_kwargs=activations)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        return module

    return Float8OnCpu()
