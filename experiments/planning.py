"""What a command line asks for, checked before anything is loaded: the run's names, settings and hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments import prompting
from experiments.building import build_backend, build_dense_backend, build_method
from experiments.loading import find_folder, fingerprint
from experiments.schema import Config
from svg.methods.dense import Dense
from svg.prompts import Prompt
from svg.quality import metrics_by_name
from svg.quality.protocol import PROTOCOLS
from svg.results import config_hash


@dataclass(frozen=True)
class Names:
    """What the files of ``conf/`` that were picked are called, and how the run was asked for."""

    model: str
    method: str
    overrides: list[str] = field(default_factory=list)
    experiment: str | None = None
    is_sweep: bool = False


@dataclass(frozen=True)
class Plan:
    """A run whose settings have been checked; nothing is loaded yet.

    Args:
        settings: Everything that decides what is measured, and nothing else: what the run's hash is made of.
    """

    config: Config
    names: Names
    method: Any
    backend: Any
    device: torch.device
    prompts: list[Prompt]
    folder: Path
    settings: dict[str, Any]

    @property
    def run_id(self) -> str:
        """The folder's name: the given one, or model, method, kept fraction and hash."""
        if self.config.run_id is not None:
            return self.config.run_id
        density = getattr(self.method, "density_requested", None)
        kept = "" if density in (None, 1.0) else f"-{density:g}"
        return f"{self.names.model}-{self.names.method}{kept}-{self.hash[:8]}"

    @property
    def hash(self) -> str:
        return config_hash(self.settings)


def check(config: Config, names: Names) -> Plan:
    """Return the checked plan of a run.

    Raises:
        ValueError: If a setting is wrong; one line that names it, its value and the rule.
    """
    device = pick_device(config.device)
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    backend = build_backend(config.backend, device.type)
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
    folder = find_folder(config.model)
    prompting.check_images(prompts, config.model)
    # The weights count, wherever they lie, sizes included; defaults have gone into the method.
    without = ("method_defaults", "upstream", "geometry", "transformer")
    model = {name: value for name, value in asdict(config.model).items() if name not in without}
    model |= {"name": names.model, "fingerprint": fingerprint(folder)}
    if config.model.revision is None:
        del model["path"]
    settings = {
        "seed": config.seed,
        "seeds": config.seeds,
        "model": model,
        "method": {"name": names.method, **fields_of(method), "_target_": config.method["_target_"]},
        "backend": {"name": backend.name, **fields_of(backend)},
        "dense_backend": config.dense_backend,
        "prompts": [prompt.identity for prompt in prompts],
        "quality": {"metrics": config.quality.metrics, "protocols": config.quality.protocols},
        "device": config.device,
        "threads": config.threads,
    }
    return Plan(config, names, method, backend, device, prompts, folder, settings)


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
