"""The command that makes a recorded run again."""

from __future__ import annotations

import re
import shlex

import pandas as pd

_VERB = re.compile(r"-m (experiments\.\w+)")
# Runs of these are told apart by more than what the command line set.
_WHOLE = ("experiments.bench_kernels",)
# Where the files of one machine lay.
_FOLDERS = ("runs_dir=", "store_dir=")


def again(run: pd.Series) -> str:
    """Return the command line that makes a run again at its commit, without the rest of its sweep.

    It is the verb that made it with the run's own settings; where the record names no verb of ours, the command line
    of the process. Empty where the record holds none.

    Args:
        run: A row of `analysis.load.runs`.
    """
    command = run.get("provenance.command")
    said = "" if command is None or pd.isna(command) else str(command)
    verb = _VERB.search(said)
    if verb is None or verb[1] in _WHOLE:
        return without_folders(said)
    overrides = run["overrides"] if isinstance(run["overrides"], list) else []
    return shlex.join(["python", "-m", verb[1], *_kept(overrides)])


def without_folders(command: str) -> str:
    """Return a command line without the folders of its records and videos, which are of one machine."""
    try:
        words = shlex.split(command)
    except ValueError:
        # Whatever it is, it is no command line.
        return command
    kept = _kept(words)
    return command if kept == words else shlex.join(kept)


def _kept(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith(_FOLDERS)]
