"""Print an experiment as a sweep of Weights & Biases: ``python -m experiments.wandb_sweep NAME [SETTING=VALUE]``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import OmegaConf

from experiments.entry import CONF, one_line
from experiments.help import headline

# What is run for each combination: every agent makes one run of the experiment and sends it at once.
_COMMAND = ("${env}", "${interpreter}", "-m")
# As the comment at the top of an experiment says, where it is not for experiments.compare; a plan sends nothing.
_RUN_WITH = re.compile(r"^# Run it with .*?experiments\.(?!plan\b)(\w+)", re.MULTILINE)
_FIXED = ("hydra.mode=RUN", "tracking=wandb", "tracking.mode=online")


def sweep_of(name: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sweep that ``wandb sweep`` takes: a grid over what the experiment sweeps.

    Args:
        name: File of ``conf/experiment``.
        settings: Further settings; one of several values is swept, too, and takes the place of the file's.

    Raises:
        ValueError: If there is no such experiment, or neither it nor a setting has several values.
        HydraException: If a setting cannot be read.
    """
    folder = CONF / "experiment"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ValueError(f"experiment={name} is not in {folder.parent.name}/{folder.name}; known are {known}")
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {}
    given = [f"{key}={value}" for key, value in params.items()]
    overrides = {text.key_or_group: text for text in OverridesParser.create().parse_overrides([*given, *settings])}
    swept = {key: override for key, override in overrides.items() if override.is_sweep_override()}
    if not swept:
        raise ValueError(f"experiment={name} has one value of each setting; give one of them several, as seed=0,1,2")
    verb = found[1] if (found := _RUN_WITH.search(file.read_text(encoding="utf-8"))) else "compare"
    fixed = [str(override.input_line) for key, override in overrides.items() if key not in swept]
    return {
        "name": name,
        "description": headline(file),
        "program": f"experiments/{verb}.py",
        "method": "grid",
        "command": [*_COMMAND, f"experiments.{verb}", f"experiment={name}", *_FIXED, *fixed, "${args_no_hyphens}"],
        "parameters": {key: {"values": _values(override)} for key, override in swept.items()},
    }


def _values(override: Any) -> list[Any]:
    """Return what a setting is swept over: numbers and booleans as they are, all else as Hydra reads it."""
    if isinstance(override.value(), Glob):
        raise ValueError(f"{override.input_line} names no values here; write them out: {override.key_or_group}=A,B")
    pairs = zip(override.sweep_iterator(), override.sweep_string_iterator(), strict=True)
    return [value if isinstance(value, int | float) else text for value, text in pairs]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.wandb_sweep", description=__doc__)
    parser.add_argument("experiment", help="a sweep of conf/experiment")
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="as the experiment's command takes them")
    options = parser.parse_args(arguments)
    try:
        sweep = sweep_of(options.experiment, options.settings)
    except (ValueError, HydraException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    print(
        "# wandb sweep THIS_FILE prints the name for `wandb agent`; a run that is already complete is not sent again."
    )
    print(OmegaConf.to_yaml(OmegaConf.create(sweep)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
