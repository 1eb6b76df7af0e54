"""What tells runs apart: the knobs that differ between them, and the machine and code each of them ran on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

# Settings that change no pixel and no second; the last three say what is measured besides.
_SILENT = (
    *("runs_dir", "run_id", "store_dir", "tracking", "overwrite", "experiment", "hydra", "progress"),
    *("statistics", "operators", "steps"),
)
# Named on their own, outside the configuration.
_NAMES = ("model", "method", "backend", "dense_backend")
# Shown wherever they are set: a table of sparse attention without them says nothing.
_ALWAYS = ("config.method.sparsity", "config.method.density")
# What decides a dense video besides the model's settings.
_OF_DENSE = ("model", "dense_backend", "config.compile", "config.device")
# Each backend has some of its own.
_OF_BACKEND = ("config.backend.", "config.dense_backend.")
# Hash of the code that made a run.
_CODE = "config.code"
# Said of machines that would read alike, where it differs between them: name, and the word for it.
_TOLD = {"gpu.driver": "driver"}
# The model itself is among the settings, by its fingerprint.
_PER_MOMENT = ("provenance.command", "provenance.load_average", "provenance.model_path")


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, by run id, what identifies each run among the others.

    Columns: ``knobs``, the settings in which complete runs of a model differ (a dict, names without ``config.`` and
    ``method.``; one that was refused holds them as they were asked for, and its error names the wrong one);
    ``settings``, a text that is equal for runs that differ in nothing but their seeds; ``environment``, a letter for
    machine, versions and code, null for a damaged run: runs of two letters are never averaged.
    """
    table = runs.set_index("run_id", drop=False)
    chosen = [name for name in table if _is_setting(name)]
    texts = {name: table[name].map(as_text) for name in (*chosen, "backend", "dense_backend")}
    # That a backend has no such setting is said by the backend's name.
    texts |= {
        name: text.where(table[name].map(_is_set)) for name, text in texts.items() if name.startswith(_OF_BACKEND)
    }
    # Dense and sparse runs have different backends by nature, and different knobs: compared within a method.
    own = [name for name in texts if name.startswith(("config.method.", _CODE)) or name not in chosen]
    whole = table["status"] == "complete"
    methods = table["method"]
    # A setting that each model has its own value of is said by the model's name.
    others = {name: texts[name][whole].groupby(table["model"][whole]).nunique() for name in texts if name not in own}
    differing = {name: set(methods) for name, counts in others.items() if (counts > 1).any()}
    letters = _letters(table)
    for name in own:
        # A method's default may be each model's own, too; which backend ran is said wherever the method has several.
        alike = [methods[whole], *([table["model"][whole]] if name in chosen else [])]
        if name == _CODE:
            # The letter says which commit it was; and of one commit, other settings say all of the code.
            alike.append(letters[whole])
        counts = texts[name][whole].groupby(alike).nunique()
        if name == _CODE:
            counts = counts.where(_commits(table[whole]).groupby(alike).nunique() > 1, 1)
        differing[name] = set(methods if name in _ALWAYS else counts.index[counts > 1].get_level_values(0))
    facts = pd.DataFrame(index=table.index)
    order = sorted(differing, key=lambda name: name not in _ALWAYS)
    columns = {name: table[name].tolist() for name in order}
    facts["knobs"] = [
        {
            _short(name): _plain(columns[name][row])
            for name in order
            if method in differing[name] and _is_set(columns[name][row])
        }
        for row, method in enumerate(methods)
    ]
    facts["settings"] = _lines(table, [*_NAMES, *chosen])
    facts["environment"] = letters
    return facts


def _commits(table: pd.DataFrame) -> pd.Series:
    """Return the commit of each run, where it is known and was clean; else the run itself, which is like no other."""
    unknown = table["run_id"].astype(str)
    commits = table.get("provenance.commit", unknown)
    is_dirty = table.get("provenance.dirty", pd.Series(False, table.index)).fillna(True).astype(bool)
    return commits.where(commits.notna() & ~is_dirty, unknown)


def environments(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the provenance behind each letter of `describe`: keys as in ``run.json``, joined by dots."""
    table = runs.set_index("run_id", drop=False)
    columns = _environment_columns(table)
    found: dict[str, dict[str, Any]] = {}
    for run_id, letter in _letters(table).dropna().items():
        facts = {name.removeprefix("provenance."): _plain(table.at[run_id, name]) for name in columns}
        found.setdefault(letter, {name: value for name, value in facts.items() if _is_set(value)})
    return dict(sorted(found.items()))


def knob_text(knobs: dict[str, Any]) -> str:
    """Return knobs as a person would type them: ``sparsity=0.25 block_size=64``."""
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in knobs.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())


def machine_text(facts: dict[str, Any]) -> str:
    """Return one line about a machine and the code that ran on it, from `environments`."""
    parts = [str(facts.get("gpu.name", facts.get("cpu.name", "unknown machine")))]
    if "gpu.name" not in facts and "cpu.cores" in facts:
        parts.append(counted(facts["cpu.cores"], "core"))
    if "gpu.name" not in facts and "threads" in facts:
        parts.append(counted(facts["threads"], "thread"))
    if "versions.torch" in facts:
        parts.append(f"torch {facts['versions.torch']}")
    if "commit" in facts:
        parts.append(f"commit {facts['commit'][:10]}" + (" with uncommitted changes" if facts.get("dirty") else ""))
    return ", ".join(parts)


def machine_texts(runs: pd.DataFrame) -> dict[str, str]:
    """Return the line about each letter of `describe`; of those that would read alike, with the versions that differ.

    Two may read alike all the same: what is left differs in nothing that a reader would ask for.
    """
    found = environments(runs)
    texts = {letter: machine_text(facts) for letter, facts in found.items()}
    alike: dict[str, list[str]] = {}
    for letter, text in texts.items():
        alike.setdefault(text, []).append(letter)
    for letters in alike.values():
        names = sorted({name for letter in letters for name in found[letter] if _told(name)})
        for name in names:
            values = {letter: found[letter].get(name) for letter in letters}
            if len(set(values.values())) > 1:
                for letter, value in values.items():
                    texts[letter] += f", {_told(name)} {value}" if value is not None else f", no {_told(name)}"
    return texts


def _told(name: str) -> str:
    """Return the word for a fact that tells machines of one line apart; empty for others."""
    return name.removeprefix("versions.") if name.startswith("versions.") else _TOLD.get(name, "")


def dense_settings(run: pd.Series) -> dict[str, str]:
    """Return what of a run decides its dense videos, prompt, seed and machine apart, as texts by name.

    Args:
        run: A row of `analysis.load.runs`.
    """
    named = [name for name in run.index if name in _OF_DENSE or str(name).startswith("config.model.")]
    found = {str(name): as_text(run[name]) for name in named}
    # Records from before there was a choice have no such column, or none of their own.
    return found | {"config.compile": "true" if found.get("config.compile") == "true" else "false"}


def _letters(table: pd.DataFrame) -> pd.Series:
    columns = _environment_columns(table)
    # Nobody knows where a damaged run was made.
    texts = pd.Series(_lines(table, columns), table.index).where(table["status"] != "damaged")
    order = table["created"].argsort(kind="stable")
    names = {text: _letter(index) for index, text in enumerate(texts.iloc[order].dropna().unique())}
    return texts.map(names).astype("string")


def _lines(table: pd.DataFrame, names: list[str]) -> list[str]:
    """A text for each row, equal where all of these columns are."""
    columns = [[as_text(value) for value in table[name].tolist()] for name in names]
    return [json.dumps([column[row] for column in columns]) for row in range(len(table))]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"A{index}"


def _environment_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in table if name.startswith("provenance.") and name not in _PER_MOMENT]


def _is_setting(column: str) -> bool:
    parts = column.split(".")
    if parts[0] != "config" or parts[1] in _SILENT or column in ("config.backend", "config.dense_backend"):
        return False
    return parts[-1] not in ("seed", "seeds", "name") and not parts[-1].startswith("_")


def _short(column: str) -> str:
    return column.removeprefix("config.").removeprefix("method.")


def _is_set(value: Any) -> bool:
    return isinstance(value, list) or (value is not None and not pd.isna(value))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def as_text(value: Any) -> str:
    """Return a setting's value as text, equal for equal values, whatever type pandas gave them."""
    return json.dumps(_plain(value), sort_keys=True, default=str) if _is_set(value) else "null"


def listed(names: Iterable[str]) -> str:
    """Return names once each, in order, with commas."""
    return ", ".join(dict.fromkeys(names))


def natural(text: str) -> list[tuple[str, float]]:
    """Return a key that sorts texts by their words, and numbers within them by their size."""
    return [(words, float(number or 0)) for words, number in re.findall(r"(\D*)(\d*\.?\d*)", text)]


def counted(count: int, noun: str) -> str:
    """Return ``3 runs``, ``1 run``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
