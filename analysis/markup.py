"""The parts of the report that are plain HTML and read without scripts: facts, tables, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from analysis.causes import Causes
from analysis.colors import Colors
from analysis.elements import breakable, cell, descriptions, method_name, of_runs, sortable
from analysis.remarks import remarks
from analysis.settings import counted, environments, listed, machine_text, machine_texts
from analysis.statistics import Values, estimate
from analysis.steps import step_runs
from analysis.summary import FORMATS, full_labels, interval_text, quality_columns

PHASES = ("attention", "profiling", "reordering", "rest")
_SPEEDS = ("speedup", "denoise_speedup", "attention_speedup")


def facts(runs: pd.DataFrame) -> str:
    """Return what ran where, as the items of a description list."""
    found, told = environments(runs), machine_texts(runs)
    items = [("Model", listed(runs["model"].dropna()))]
    for letter, facts_of in found.items():
        versions = [(name.removeprefix("versions."), value) for name, value in facts_of.items() if "versions." in name]
        chosen = [f"{name} {value}" for name, value in versions if name in ("python", "torch", "diffusers", "cuda")]
        # Behind the line about a machine stands what tells it apart from one of the same line.
        differing = told[letter].removeprefix(machine_text(facts_of))
        texts = {
            "Machine": _machine(facts_of),
            "Code": _code(facts_of),
            "Versions": (", ".join(chosen) or "unknown") + differing,
        }
        # Of several, each is one item.
        items += texts.items() if len(found) == 1 else [(f"Machine and code {letter}", "; ".join(texts.values()))]
    items.append(("Made", _period(runs["created"].dropna())))
    return descriptions(items)


def lead(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return one line that says how much was run."""
    failed = int((table["status"] != "complete").sum())
    prompts = {prompt["prompt_id"] for listed_ in runs["prompts"] if isinstance(listed_, list) for prompt in listed_}
    seeds = {seed for listed_ in runs["seeds"] if isinstance(listed_, list) for seed in listed_}
    parts = [counted(len(runs), "run") + (f", {failed} of them failed" if failed else "")]
    # Timed steps have no prompt.
    parts += [counted(len(found), noun) for found, noun in ((prompts, "prompt"), (seeds, "seed")) if found]
    experiments = runs["experiment"].dropna().unique() if "experiment" in runs else []
    if len(experiments):
        parts.append(f"experiment {listed(experiments)}")
    return escape(" · ".join(parts))


def summary_table(table: pd.DataFrame, colors: Colors, places: Mapping[str, int], protocol: str) -> str:
    """Return the table of a summary, sortable by its headings.

    Args:
        table: From `analysis.summary.summary`.
        colors: Of the methods.
        places: Place of every run in the table of runs, by its id.
        protocol: Of its qualities.
    """
    shown = ["density_executed", *[name for name in _SPEEDS if table[name].notna().any()], *quality_columns(table)]
    several_models, several_machines = table["model"].nunique() > 1, table["environment"].nunique() > 1
    texts, last = [*(["Model"] if several_models else []), "Method"], ["Machine"] if several_machines else []
    # Timed steps make none.
    has_videos = bool(table["videos"].gt(0).any())
    numbers = [*(_heading(table, name) for name in shown), *(["Videos"] if has_videos else [])]
    notes = Causes()
    body = []
    for label, (_, row) in zip(full_labels(table), table.iterrows(), strict=True):
        model = str(row["model"])
        cells = [f'<th scope="row" data-value="{escape(model)}">{breakable(model)}</th>'] if several_models else []
        cells.append(_method(row, colors, places))
        if row["status"] == "complete":
            cells += [_number(row, name, table, notes, label) for name in shown]
            cells += [cell(str(row["videos"]), row["videos"])] if has_videos else []
        else:
            text = f"<strong>{escape(str(row['status']))}</strong> {escape(row['error'])}"
            cells.append(f'<td class="error" colspan="{len(numbers)}">{text}</td>')
        cells += [cell(row["environment"], row["environment"])] if several_machines else []
        failed = "" if row["status"] == "complete" else ' class="failed"'
        body.append(f"<tr{failed}{of_runs(row['runs'], places)}>{''.join(cells)}</tr>")
    return (
        sortable(f"Table of all settings, protocol {protocol}", texts, numbers, body, last)
        + f'<p class="hint">{escape(_legend(table))}</p>'
        + notes.markup(places)
    )


def time_bars(measurements: pd.DataFrame, runs: pd.DataFrame, table: pd.DataFrame, places: Mapping[str, int]) -> str:
    """Return a bar a setting: seconds of one generation, or step, by phase, and a mark where the dense one ended."""
    values, named = Values(measurements), table.assign(label=full_labels(table))
    rows = [(row, _times(values, row["runs"])) for _, row in named.iterrows() if row["status"] == "complete"]
    rows = [(row, phases) for row, phases in rows if phases]
    is_step = not step_runs(runs).empty
    what, other = ("Median seconds of one step", "dense step")
    if not is_step:
        what, other = ("Mean seconds of one generation", "dense twin")
    if not rows:
        return '<p class="empty">No phases were timed.</p>'
    quantity = "dense_step_s" if is_step else "dense_generation_s"
    dense = [estimate(values.select(row["runs"], quantity, None)).mean or 0.0 for row, _ in rows]
    longest = max(*dense, *(sum(phases.values()) for _, phases in rows))
    names = list(dict.fromkeys(name for _, phases in rows for name in phases))
    bars = []
    for (row, phases), twin in zip(rows, dense, strict=True):
        parts = "".join(
            f'<i class="phase-{_phase(name)}" style="width:{100 * seconds / longest:.3f}%" data-tip="{escape(name)}: '
            f'{seconds:.2f} s, {seconds / sum(phases.values()):.0%}"></i>'
            for name, seconds in phases.items()
        )
        mark = f'<b style="left:{100 * twin / longest:.3f}%" data-tip="{other}: {twin:.2f} s"></b>' if twin else ""
        said = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
        said += f"; {other} {twin:.2f} s" if twin else ""
        bars.append(
            f'<li{of_runs(row["runs"], places)}><span class="name">{escape(row["label"])}</span>'
            f'<span class="bar" role="img" aria-label="{escape(said)}">{parts}{mark}</span>'
            f'<span class="seconds">{sum(phases.values()):.2f} s</span></li>'
        )
    legend = "".join(f'<li class="phase-{_phase(name)}">{escape(name)}</li>' for name in names)
    hint = f"{what}, warm-up and compilation apart. The mark is the {other}'s time."
    return f'<p class="hint">{hint}</p><ul class="legend phases">{legend}</ul><ol class="bars">{"".join(bars)}</ol>'


def links(sections: Iterable[tuple[str, str]]) -> str:
    """Return links to sections, given as (id, title)."""
    return "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in sections)


def left_out_text(names: Sequence[str], max_mb: float) -> str:
    """Return a sentence that says which videos were left out; empty where none was."""
    if not names:
        return ""
    some = "; ".join(names[:6]) + ("; …" if len(names) > 6 else "")
    return escape(f" {counted(len(names), 'pair')} of videos left out to keep this file below {max_mb:g} MB: {some}.")


def _machine(facts_of: dict[str, Any]) -> str:
    parts = [str(facts_of.get("cpu.name", "unknown CPU"))]
    parts += [counted(facts_of["cpu.cores"], "core")] if "cpu.cores" in facts_of else []
    parts += [counted(facts_of["threads"], "thread")] if "threads" in facts_of else []
    gpu = f"{facts_of['gpu.name']}, driver {facts_of.get('gpu.driver', '?')}" if "gpu.name" in facts_of else "no GPU"
    return f"{', '.join(parts)}; {gpu}"


def _code(facts_of: dict[str, Any]) -> str:
    if "commit" not in facts_of:
        return "not from a git checkout"
    changes = f" with uncommitted changes ({str(facts_of.get('diff_sha256', ''))[:8]})" if facts_of.get("dirty") else ""
    return f"commit {facts_of['commit'][:10]}{changes}"


def _period(created: pd.Series) -> str:
    if created.empty:
        return "unknown"
    first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (created.min(), created.max()))
    return f"{first} UTC" if first == last else f"{first} to {last[11:] if first[:10] == last[:10] else last} UTC"


def _heading(table: pd.DataFrame, name: str) -> str:
    # Its hyphen must not end a line.
    text = FORMATS[name][0].replace("-", "\u2011")
    twins = table["dense_backend"].unique()
    text = text[0].upper() + text[1:]
    return f"{text} vs {twins[0]}" if name == "speedup" and len(twins) == 1 else text


def _method(row: pd.Series, colors: Colors, places: Mapping[str, int]) -> str:
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in row["knobs"].items()}
    knobs = "".join(
        f'<span class="knob">{breakable(name)} <b>{breakable(text)}</b></span>' for name, text in texts.items()
    )
    name = method_name(str(row["method"]), colors.place(row["model"], row["method"]), places[row["runs"][0]])
    return f'<th scope="row" data-value="{escape(row["label"])}">{name}{knobs}</th>'


def _number(row: pd.Series, name: str, table: pd.DataFrame, notes: Causes, label: str) -> str:
    note, value, template = row[f"{name}_note"], row[name], FORMATS[name][1]
    if pd.isna(value):
        if not note:
            return cell("–", None)
        if row[f"{name}_infinite"] == row[f"{name}_total"]:
            return cell("∞", "1e999", f"identical to the dense video, {counted(row[f'{name}_total'], 'time')}")
        return cell(f'<span class="none">n/a<sup>{notes.number(name, note, label, row["runs"])}</sup></span>', None)
    words = [text for text in (note, row.get(f"{name}_noise")) if text]
    marks = "".join(f"<sup>{notes.number(name, one, label, row['runs'])}</sup>" for one in words)
    text = escape(template.format(value)) + marks
    if interval := interval_text(row, name):
        text += f" <small>{interval}</small>"
    if name == "speedup" and table["dense_backend"].nunique() > 1:
        text += f" <small>{breakable(row['dense_backend'])}</small>"
    low, high = (template.format(row[f"{name}_{end}"]) for end in ("low", "high"))
    tip = f"mean of {counted(row[f'{name}_n'], 'video')}, from {low} to {high}"
    if name == "density_executed" and not pd.isna(row["density_executed_token"]):
        tip += f"; by token {row['density_executed_token']:.3f}, overall {row['density_overall']:.3f}"
    return cell(text, f"{value:.10g}", tip)


def _legend(table: pd.DataFrame) -> str:
    text = (
        "Density: share of query-key pairs computed in sparse calls, tile by tile. In brackets the 95 % interval of "
        "the mean over prompts, seeds averaged first, from 3 prompts up. ∞: identical to the dense video, in no mean."
    )
    if table["environment"].nunique() > 1:
        text += " Letters: other machines, versions or code; times of two letters do not compare."
    return " ".join([text, *remarks(table)])


def _times(values: Values, runs: Sequence[str]) -> dict[str, float]:
    """Mean seconds of one generation by phase."""
    found: dict[str, list[float]] = {}
    for value in values.select(runs, "phase_s", None):
        if value.value is not None:
            found.setdefault(str(value.protocol), []).append(value.value)
    order = [*PHASES, *sorted(set(found) - set(PHASES))]
    return {name: sum(found[name]) / len(found[name]) for name in order if name in found}


def _phase(name: str) -> int:
    return PHASES.index(name) if name in PHASES else len(PHASES)
