"""Composes the settings of a sweep's jobs: Hydra once for each choice of files, plain values set on the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf, open_dict

from experiments.entry import names_of, typed
from experiments.identity import Names
from experiments.schema import Config


class Composer:
    """Returns a job's settings as Hydra composes them, which by itself takes a tenth of a second and more for each.

    Args:
        master: The sweep's settings, Hydra's own among them.
        loader: Hydra's configuration loader.
        expanded: The overrides of every job.
    """

    def __init__(self, master: Any, loader: Any, expanded: Sequence[Sequence[str]]) -> None:
        self._master, self._loader = master, loader
        self._parser = OverridesParser.create(config_loader=loader)
        seen: dict[str, set[str]] = {}
        for text in {text for overrides in expanded for text in overrides}:
            seen.setdefault(text.partition("=")[0], set()).add(text)
        self._varying = {key for key, texts in seen.items() if len(texts) > 1 and self._is_plain(key, seen)}
        self._bases: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._parsed: dict[str, Override] = {}
        self._settings: dict[tuple[str, ...], Config] = {}
        self._dependent: dict[tuple[str, ...], set[str]] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[Config, Names]:
        """Return the checked settings of a job and its names. Raises as Hydra and ``entry.typed`` do."""
        late = [text for text in overrides if text.partition("=")[0] in self._varying]
        early = tuple(text for text in overrides if text not in late)
        if early not in self._bases:
            base = self._loader.load_sweep_config(self._master, list(early))
            choices = base.hydra.runtime.choices
            with open_dict(base):
                del base["hydra"]
            self._bases[early] = base, choices
        base, choices = self._bases[early]
        # Every job of this base sets the same keys, so that nothing of the last one is left.
        ConfigLoaderImpl._apply_overrides_to_config([self._parse(text) for text in late], base)
        if early not in self._settings:
            self._settings[early] = typed(base)
        changed = {text.partition("=")[0].partition(".")[0] for text in late} | self._interpolated(early)
        settings = replace(self._settings[early], **{name: _plain(base, name) for name in changed})
        task = [text for text in overrides if not text.lstrip("+~").startswith("hydra")]
        return settings, names_of(choices, task, is_sweep=True)

    def _interpolated(self, early: tuple[str, ...]) -> set[str]:
        """Return the settings of a base that may depend on other ones."""
        if early not in self._dependent:
            content = OmegaConf.to_container(self._bases[early][0], resolve=False)
            assert isinstance(content, dict)
            self._dependent[early] = {str(name) for name, value in content.items() if "${" in str(value)}
        return self._dependent[early]

    def _is_plain(self, key: str, others: dict[str, set[str]]) -> bool:
        """Return whether a key is a value that may be set last: no group, and no part of another key."""
        if key.startswith(("+", "~", "hydra.")) or self._loader.repository.group_exists(key):
            return False
        related = [other for other in others if other != key and _contains(key, other)]
        return all(self._loader.repository.group_exists(other) for other in related)

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]


def _contains(one: str, other: str) -> bool:
    """Return whether one of two keys is part of the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _plain(settings: Any, name: str) -> Any:
    value = settings[name]
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
