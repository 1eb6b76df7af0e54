"""What a run is known by: its settings, the code that makes it, and the machine that its times belong to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from experiments.building import dense_backend_modules
from experiments.schema import Config, ModelConfig
from svg import models, provenance
from svg.code_hash import code_hash
from svg.results import config_hash


@dataclass(frozen=True)
class Names:
    """What the files of ``conf/`` that were picked are called, and how the run was asked for."""

    model: str
    method: str
    overrides: list[str] = field(default_factory=list)
    experiment: str | None = None
    is_sweep: bool = False
    sweep: str | None = None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Checked settings, of which nothing is built yet, and the folder that their run belongs in.

    Args:
        settings: Everything that decides what is measured, and nothing else: neither names nor paths. The run's hash
            is made of it.
    """

    config: Config
    names: Names
    method: Any
    backend: Any
    device: torch.device
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """What a person calls the run: model, method and kept fraction."""
        density = getattr(self.method, "density_requested", None)
        kept = "" if density in (None, 1.0) else f"-{density:g}"
        return f"{self.names.model}-{self.names.method}{kept}"

    @property
    def run_id(self) -> str:
        """The folder's name: the given one, or the title and a hash of the settings and the machine."""
        if self.config.run_id is not None:
            return self.config.run_id
        return f"{self.title}-{timed_hash(self.settings, self.device.type)}"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.config.runs_dir) / self.run_id

    @cached_property
    def hash(self) -> str:
        return config_hash(self.settings)


def model_settings(model: ModelConfig, without: Collection[str]) -> dict[str, Any]:
    """Return a model's settings for a record, by name.

    The precision of linear layers stands there where it is not the model's own, so that records from before there was
    a choice are of the same model.
    """
    without = {*without, *(["linear_precision"] if model.linear_precision == "bf16" else [])}
    return {name: value for name, value in asdict(model).items() if name not in without}


def code_of(config: Config, method: Any, backend: Any, device_type: str, *more: str) -> str:
    """Return the hash of the code of method, both backends and the model's adapter, and of what is named besides."""
    parts = [
        type(method).__module__,
        type(backend).__module__,
        *dense_backend_modules(config.dense_backend, device_type),
        models.module_of(config.model.pipeline),
        *more,
    ]
    return code_hash(*dict.fromkeys(parts))


def timed_hash(settings: dict[str, Any], device_type: str) -> str:
    """Return 8 hex digits of settings and machine: times of another one, or of other versions, are another run.

    Args:
        settings: What is measured, with the hash of the code that does.
        device_type: ``"cpu"`` or ``"cuda"``.
    """
    return config_hash({"settings": config_hash(settings), "machine": _machine(device_type)})[:8]


@cache
def _machine(device_type: str) -> dict[str, Any]:
    return provenance.hardware(device_type)
