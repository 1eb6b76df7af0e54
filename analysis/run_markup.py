"""Every run of the report as an element to unfold: the command that makes it again, its configuration, its machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from analysis.again import again, without_folders
from analysis.elements import descriptions, of_runs


def run_details(runs: pd.DataFrame, labels: Mapping[str, str], places: Mapping[str, int]) -> str:
    """Return every run as an element to unfold.

    Args:
        runs: From `analysis.load.runs`.
        labels: What every run is called, by its id, in the order in which they are to stand.
        places: Place of every run in ``runs``, by its id.
    """
    parts, by_id = [], runs.set_index("run_id", drop=False)
    for run_id, label in labels.items():
        run = by_id.loc[run_id]
        config, provenance = _nested(run, "config."), _nested(run, "provenance.")
        overrides = run["overrides"] if isinstance(run["overrides"], list) else []
        facts_of = {
            "run": run["run_id"],
            "status": run["status"],
            "error": run["error.message"],
            "made": run["created"],
            "backend": run["backend"],
            "dense backend": run["dense_backend"],
            "configuration": run.get("config_hash"),
            "folder": run["path"],
        }
        listed = descriptions((name, str(value)) for name, value in facts_of.items() if not pd.isna(value))
        blocks = [("Command that makes it again", again(run)), ("Overrides", without_folders(shlex.join(overrides)))]
        blocks += [("Command of the process", without_folders(str(provenance.pop("command", ""))))]
        blocks += [("Configuration", _json(config)), ("Provenance", _json(provenance))]
        text = "".join(f"<h4>{name}</h4><pre tabindex=0>{escape(block)}</pre>" for name, block in blocks if block)
        flag = "" if run["status"] == "complete" else f" <strong>{escape(run['status'])}</strong>"
        parts.append(
            f'<details id="run-{places[run_id]}"{of_runs([run_id], places)}>'
            f"<summary>{escape(label)} <code>{escape(run_id)}</code>{flag}</summary>"
            f'<dl class="facts">{listed}</dl>{text}</details>'
        )
    return "".join(parts)


def _nested(run: pd.Series, prefix: str) -> dict[str, Any]:
    values = {name.removeprefix(prefix): value for name, value in run.items() if str(name).startswith(prefix)}
    return {name: value for name, value in values.items() if isinstance(value, list) or not pd.isna(value)}


def _json(values: dict[str, Any]) -> str:
    texts = {name: json.dumps(value, default=_plain, ensure_ascii=False) for name, value in values.items()}
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
