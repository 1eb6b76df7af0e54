"""Hydra's part of a sweep of this project: it expands the sweep, and the command decides which jobs run.

Hydra finds its plugins in packages of this name only, and its scanner cannot load a dataclass of lazy annotations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


class RunSweeper(BasicSweeper):
    """Expands as Hydra's own sweeper does, then hands all jobs at once to the command's ``sweep``, if it has one."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._sweep: Callable[..., Any] | None = getattr(task_function, "sweep", None)

    def sweep(self, arguments: list[str]) -> Any:
        if self._sweep is None:
            return super().sweep(arguments)
        assert self.hydra_context is not None
        return self._sweep(self.config, self.hydra_context.config_loader, self.launcher, self.expand(arguments))

    def expand(self, arguments: list[str]) -> list[Sequence[str]]:
        """Return the overrides of every job, in the order of a nested loop over what is swept."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        return [job for batch in self.split_arguments(overrides, self.max_batch_size) for job in batch]


@dataclass
class RunSweeperConf(BasicSweeperConf):
    """Settings of Hydra's own sweeper."""

    _target_: str = "hydra_plugins.svg_bench.run_sweeper.RunSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="runs", node=RunSweeperConf, provider="svg_bench")
