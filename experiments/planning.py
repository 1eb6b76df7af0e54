"""What a command line asks for, checked before anything is loaded: the run's names, settings and hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments import fp8_linear, prompting
from experiments.building import build_backend, build_dense_backend, build_method
from experiments.identity import Checked, Names, code_of, model_settings
from experiments.loading import find_folder, find_folder_here, fingerprint
from experiments.schema import Config
from svg.methods.dense import Dense
from svg.prompts import Prompt
from svg.quality import metrics_by_name
from svg.quality.protocol import PROTOCOLS
from svg.statistics_sample import StatisticsSample


@dataclass(frozen=True, kw_only=True)
class Plan(Checked):
    """A run of videos whose settings have been checked; nothing is loaded yet.

    Args:
        folder: Of the pipeline; None where its checkpoint is not downloaded yet. Then ``settings`` lack the fingerprint
            of the weights, and the run will have another id.
    """

    prompts: list[Prompt]
    folder: Path | None

    @property
    def statistics(self) -> StatisticsSample | None:
        """Which attention calls give statistics; None: none."""
        return statistics_of(self.config, self.method)


def check(config: Config, names: Names, may_download: bool = True) -> Plan:
    """Return the checked plan of a run.

    Args:
        config: Its settings.
        names: What they were picked from.
        may_download: Whether a checkpoint that is not here is downloaded; else the plan says that it is not.

    Raises:
        ValueError: If a setting is wrong; one line that names it, its value and the rule.
    """
    device = pick_device(config.device)
    fp8_linear.check(config.model, device)
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    backend = build_backend(config.backend, device.type, method)
    if config.dense_backend != "auto":
        build_dense_backend(config.dense_backend)
    if not isinstance(method, Dense):
        # Refuses where a method needs a kept fraction and nobody gave one.
        getattr(method, "density_requested", None)
    for metric in config.quality.metrics:
        if metric not in metrics_by_name():
            raise ValueError(f"quality.metrics holds {metric!r}; known are {', '.join(sorted(metrics_by_name()))}")
    for protocol in config.quality.protocols:
        if protocol not in PROTOCOLS:
            raise ValueError(f"quality.protocols holds {protocol!r}; known are {', '.join(PROTOCOLS)}")
    if config.quality.metrics and not config.quality.protocols:
        raise ValueError("quality.protocols is empty, so no metric would be measured; give one, such as standard")
    prompts = prompting.load(config.prompts)
    # What stands there twice would be measured twice, and narrow every interval.
    _once("quality.metrics", config.quality.metrics)
    _once("quality.protocols", config.quality.protocols)
    _once("prompts", [prompt.identity for prompt in prompts])
    folder = find_folder(config.model) if may_download else find_folder_here(config.model)
    prompting.check_images(prompts, config.model)
    # The weights count, wherever they lie and whatever they are called; defaults have gone into the method.
    without = ("path", "revision", "method_defaults", "upstream", "geometry", "transformer")
    model = model_settings(config.model, without)
    sample = statistics_of(config, method)
    is_copy = isinstance(method, Dense) and config.backend.get("name") == "auto"
    settings = {
        "seed": config.seed,
        "seeds": config.seeds,
        "model": model | {"fingerprint": None if folder is None else fingerprint(folder)},
        "method": {**fields_of(method), "_target_": config.method["_target_"]},
        # A dense run that asks for no backend is its twin's copy, and no other kernel's video.
        "backend": {"name": "auto"} if is_copy else {"name": backend.name, **fields_of(backend)},
        "dense_backend": config.dense_backend,
        "compile": config.compile,
        "prompts": [prompt.identity for prompt in prompts],
        "quality": {"metrics": config.quality.metrics, "protocols": config.quality.protocols},
        "statistics": None if sample is None else fields_of(sample),
        "device": device.type,
        "threads": config.threads,
        "code": _code(config, method, backend, device.type, sample),
    }
    return Plan(
        config=config,
        names=names,
        method=method,
        backend=backend,
        device=device,
        settings=settings,
        prompts=prompts,
        folder=folder,
    )


def statistics_of(config: Config, method: Any) -> StatisticsSample | None:
    """Return which attention calls of a method's generations give statistics; None: none."""
    asked = config.statistics
    if not (asked.dense if isinstance(method, Dense) else asked.sparse):
        return None
    return StatisticsSample(layers_apart=asked.layers_apart, steps_apart=asked.steps_apart, num_rows=asked.num_rows)


def _code(config: Config, method: Any, backend: Any, device_type: str, sample: StatisticsSample | None) -> str:
    """Return the hash of the code that makes a run's videos and compares them."""
    metrics = [metrics_by_name()[name].measure.__module__ for name in config.quality.metrics]
    more = [*metrics, "svg.quality.protocol"] if metrics else []
    if sample is not None:
        more.append(type(sample).__module__)
    return code_of(config, method, backend, device_type, "experiments.generation", *more)


def _once(name: str, values: list[Any]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{name} holds {twice!r} twice; give it once")


def pick_device(name: str) -> torch.device:
    """Return the device that ``device=`` names.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no CUDA GPU here; use device=cpu or device=auto")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    return device


def fields_of(thing: Any) -> dict[str, Any]:
    """Return the settings of a method or backend, as plain values."""
    return {name: value for name, value in vars(thing).items() if not name.startswith("_")}
