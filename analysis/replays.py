"""Methods side by side on the same captured attention calls: ``python -m analysis.replays RUNS_DIR``."""

from __future__ import annotations

import argparse
import json
import sys

import pandas as pd

from analysis import load
from analysis.intervals import interval
from analysis.settings import describe, knob_text
from svg.results import RecordError

# Column: (heading, quantity, protocol, how a value is written).
COLUMNS = {
    "density": ("density", "call_density", "tile", "{:.3f}"),
    "kept_mass": ("kept mass", "head_kept_mass", None, "{:.3f}"),
    "relative_l2_error": ("relative L2", "head_relative_l2_error", None, "{:.4f}"),
    "output_error": ("MSE", "head_output_error", None, "{:.3g}"),
    "rounding_error": ("rounding", "head_rounding_error", None, "{:.2e}"),
    "regret": ("regret", "head_regret", None, "{:.3g}"),
    "agreement": ("agreement", "head_agreement", None, "{:.3f}"),
    "temporal_share": ("temporal", "head_choice", None, "{:.3f}"),
    "plan_s": ("plan s", "plan_s", None, "{:.4f}"),
}
_CALL = ["prompt_id", "seed", "step", "layer", "branch"]


def replay_table(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each replay, those of one set of captures after one another, the smallest error first.

    A value is the mean over the prompts of each one's mean over its calls and heads; calls that the method keeps dense
    count nowhere.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`; those of other commands are left out.

    Returns:
        Columns ``captures`` (a text that is equal for replays of the same calls), ``model``, ``captured`` (the method
        of the generation), ``label`` (method and knobs), ``run_id``, ``status``, ``error``, ``prompts``, ``calls`` and
        ``dense_calls``, those of ``COLUMNS``, NaN where nothing was measured, and ``relative_l2_error_ci_low`` and
        ``relative_l2_error_ci_high``, its 95 % interval over prompts, NaN below 3.
    """
    hashes = runs.get("config.captures.hashes")
    if hashes is None:
        return pd.DataFrame()
    chosen = runs[hashes.notna()]
    facts = describe(chosen)
    rows = []
    for run in chosen.sort_values("created", kind="stable").to_dict("records"):
        own = measurements[measurements["run_id"] == run["run_id"]]
        densities = own[(own["quantity"] == "call_density") & (own["protocol"] == "tile")]
        is_dense = ~densities.set_index(_CALL).index.isin(own[own["quantity"] == "plan_s"].set_index(_CALL).index)
        row = {
            "captures": json.dumps([run["config.captures.hashes"], run["config.num_rows"]], default=str),
            "captured": run["config.captures.method"],
            "label": " ".join(filter(None, [run["method"], knob_text(facts.at[run["run_id"], "knobs"])])),
            **{name: run[name] for name in ("run_id", "model", "status")},
            "error": run["error.message"],
            "prompts": own["prompt_id"].nunique(),
            "calls": int((~is_dense).sum()),
            "dense_calls": int(is_dense.sum()),
        }
        own = own.drop(densities.index[is_dense])
        for name, (_, quantity, protocol, _) in COLUMNS.items():
            means = _means(own, quantity, protocol)
            row[name] = sum(means) / len(means) if means else float("nan")
            if name == "relative_l2_error":
                row[f"{name}_ci_low"], row[f"{name}_ci_high"] = interval(means) or (float("nan"), float("nan"))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.sort_values(["captures", "relative_l2_error"], kind="stable", ignore_index=True)


def replay_lines(rows: pd.DataFrame) -> list[str]:
    """Return the table of one set of captures as lines of text, a method a line."""
    lines = [["method", *(words for words, _, _, _ in COLUMNS.values()), "calls"]]
    for row in rows.to_dict("records"):
        if row["status"] != "complete":
            lines.append([row["label"], f"{row['status']}: {row['error']}"])
            continue
        cells = {name: "–" if pd.isna(row[name]) else form.format(row[name]) for name, (*_, form) in COLUMNS.items()}
        if not pd.isna(row["relative_l2_error_ci_low"]):
            ends = "[{relative_l2_error_ci_low:.4f}, {relative_l2_error_ci_high:.4f}]".format_map(row)
            cells["relative_l2_error"] += f" {ends}"
        dense = f" + {row['dense_calls']} dense" if row["dense_calls"] else ""
        lines.append([row["label"], *cells.values(), f"{row['calls']}{dense}"])
    widths = [max(len(line[place]) for line in lines if len(line) > 2) for place in range(len(lines[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines]


def _means(rows: pd.DataFrame, quantity: str, protocol: str | None) -> list[float]:
    """Return the mean of a quantity for each prompt that has a number."""
    rows = rows[(rows["quantity"] == quantity) & rows["value"].notna()]
    if protocol is not None:
        rows = rows[rows["protocol"] == protocol]
    return [float(mean) for mean in rows.groupby("prompt_id")["value"].mean()]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.replays", description="Methods side by side on the same captured attention calls."
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", help="folder of the replays' records")
    options = parser.parse_args(arguments)
    try:
        table = replay_table(*load.tables(options.runs_dir))
        if table.empty:
            raise RecordError(f"{options.runs_dir} holds no replay; make one with `python -m experiments.replay`")
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        "Means over prompts, calls and heads, against full attention on the same inputs; in brackets 95 % over prompts."
    )
    for _, rows in table.groupby("captures", sort=False):
        first = rows.iloc[0]
        prompts = rows["prompts"].max()
        print(f"\n{first['model']}, captured under {first['captured']}, {prompts} prompt{'s' if prompts > 1 else ''}")
        print("\n".join(replay_lines(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
