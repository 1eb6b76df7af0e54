"""Draw the atlas of a run's heads: ``python -m experiments.head_patterns [run=FOLDER] [SETTING=VALUE ...]``."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from experiments import planning, runner
from experiments.entry import CONF, command
from experiments.schema import HeadPatternsConfig


@partial(command, settings=HeadPatternsConfig, config_name="head_patterns")
def main(config: HeadPatternsConfig, names: planning.Names) -> None:
    path = Path(config.run) if config.run is not None else runner.run(planning.check(config, names))
    words = [str(path.absolute())]
    if config.output is not None:
        words += ["--output", str(Path(config.output).absolute())]
    # Drawing reads records alone, in a process that needs no model.
    drawn = subprocess.run([sys.executable, "-m", "analysis.head_patterns", *words], cwd=CONF.parent)
    if drawn.returncode != 0:
        sys.exit(drawn.returncode)


if __name__ == "__main__":
    main()
