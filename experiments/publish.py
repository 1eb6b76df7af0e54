"""Send finished runs to Weights & Biases: ``python -m experiments.publish [run_id=NAME] [SETTING=VALUE ...]``."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from experiments import tracked, tracking
from experiments.entry import command
from experiments.schema import Config
from svg.results import RecordError, RunSchemaError, check_whole, list_runs, read_run


@partial(command, config_name="publish")
def main(config: Config, names: Any) -> None:
    if config.tracking.mode == "off":
        raise ValueError("tracking.mode is 'off'; to publish, it must be offline or online")
    root = Path(config.runs_dir)
    everything = [path for path in list_runs(root) if config.run_id in (None, path.name)]
    paths = [path for path in everything if _is_complete(path)]
    if not paths:
        asked = "" if config.run_id is None else f" of run_id={config.run_id}"
        raise ValueError(f"runs_dir={root} holds no complete run{asked}")
    tracking.check(config.tracking)
    for path in paths:
        tracking.publish(config.tracking, path)
        print(f"{path.name}: published ({config.tracking.mode})", flush=True)
    if config.run_id is None:
        group = config.tracking.group
        sweeps = tracked.by_sweep(everything) if group is None else {group: everything}
        for group, members in sweeps.items():
            tracking.publish_sweep(config.tracking, group, members)
            print(f"{group}: table of {len(members)} runs published", flush=True)


def _is_complete(path: Path) -> bool:
    """Return whether a run can be sent; a damaged one is told of, and keeps no other from being sent."""
    try:
        record = read_run(path)
        check_whole(path, record.measurements_sha256)
    except RunSchemaError:
        raise
    except RecordError as error:
        warnings.warn(f"not published: {error}", stacklevel=2)
        return False
    return record.status == "complete"


if __name__ == "__main__":
    main()
