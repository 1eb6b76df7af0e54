"""How stable the heads' choices are: from a step to the next, between prompts, and between seeds."""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from analysis import load
from analysis.checks import check_complete
from analysis.settings import describe, knob_text
from svg.results import RecordError

# What one choice belongs to, beside the setting that was run.
_HEAD = ["layer", "head", "branch"]
_PLACE = ["prompt_id", "seed", "step", *_HEAD]
# Shares of pairs of choices that are equal.
OVER = ("over_steps", "over_prompts", "over_seeds")


def head_stability(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return how often two choices of a head are equal, a row per setting, layer, head and branch.

    Runs that differ in nothing but their seeds are one setting, unless they ran on different machines, versions or
    code. Failed runs are left out; so are steps and layers that stayed dense, where nobody chose.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.

    Raises:
        RecordError: If no run is complete; it names the last one.

    Returns:
        Columns ``setting`` (model, method and knobs, as text), ``layer``, ``head``, ``branch``, ``videos`` (prompts
        times seeds), ``temporal_share`` (of its choices), and in [0, 1], NaN where there is no pair: ``over_steps``
        (of pairs of a step and the next one, in one video), ``over_prompts`` (of pairs of prompts at one step and
        seed) and ``over_seeds`` (of pairs of seeds at one step and prompt).
    """
    check_complete(runs)
    choices = _choices(measurements, runs)
    head = ["setting", *_HEAD]
    by_head = choices.groupby(head, sort=True, dropna=False)
    table = pd.DataFrame(
        {
            "videos": choices.drop_duplicates([*head, "prompt_id", "seed"]).groupby(head, dropna=False).size(),
            "temporal_share": by_head["value"].mean(),
            "over_steps": _over_steps(choices, head),
            "over_prompts": _over(choices, head, ["seed", "step"]),
            "over_seeds": _over(choices, head, ["prompt_id", "step"]),
        }
    )
    return table.reset_index()


def layer_stability(heads: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the heads and branches of each setting and layer.

    Args:
        heads: From `head_stability`.

    Returns:
        Columns ``setting``, ``layer``, ``heads``, ``videos``, ``temporal_share``, those of ``OVER``, and ``chance``:
        what heads would reach that draw their pattern anew each time, with the layer's share of temporal ones.
    """
    by_layer = heads.groupby(["setting", "layer"], sort=True)
    table = by_layer[["temporal_share", *OVER]].mean()
    table.insert(0, "heads", by_layer["head"].nunique())
    table.insert(1, "videos", by_layer["videos"].max())
    table["chance"] = table["temporal_share"] ** 2 + (1 - table["temporal_share"]) ** 2
    return table.reset_index()


def _choices(measurements: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the choices of complete runs, one at each place of a setting: a run made twice counts once."""
    complete = runs[runs["status"] == "complete"]
    rows = measurements[measurements["quantity"].eq("head_choice") & measurements["run_id"].isin(complete["run_id"])]
    facts = describe(complete)
    names = complete.set_index("run_id")
    texts = (
        names["model"].astype(str) + " " + names["method"].astype(str) + " " + facts["knobs"].map(knob_text)
    ).str.strip()
    if facts["environment"].nunique() > 1:
        texts += " [" + facts["environment"] + "]"
    rows = rows.assign(setting=rows["run_id"].map(texts))
    return rows.drop_duplicates(["setting", *_PLACE])[["setting", *_PLACE, "value"]]


def _over_steps(choices: pd.DataFrame, head: list[str]) -> pd.Series:
    """Return the share of steps whose choice is that of the step before, by head."""
    ordered = choices.sort_values("step", kind="stable")
    before = ordered.groupby([*head, "prompt_id", "seed"], dropna=False)[["step", "value"]].shift()
    is_pair = (ordered["step"] - before["step"]).eq(1).fillna(False).astype(bool)
    is_equal = (ordered["value"] == before["value"])[is_pair]
    return is_equal.groupby([ordered.loc[is_pair, name] for name in head], dropna=False).mean()


def _over(choices: pd.DataFrame, head: list[str], fixed: list[str]) -> pd.Series:
    """Return the share of equal pairs among choices that have all of ``fixed`` in common, by head."""
    counts = choices.groupby([*head, *fixed], dropna=False)["value"].agg(["count", "sum"])
    temporal, spatial = counts["sum"], counts["count"] - counts["sum"]
    counts["equal"] = (temporal * (temporal - 1) + spatial * (spatial - 1)) / 2
    counts["pairs"] = counts["count"] * (counts["count"] - 1) / 2
    sums = counts.groupby(head, dropna=False)[["equal", "pairs"]].sum()
    return sums["equal"] / sums["pairs"].where(sums["pairs"] > 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.head_stability",
        description="How stable the heads' choices are over steps, prompts and seeds.",
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", help="folder of the records")
    options = parser.parse_args(arguments)
    try:
        table = layer_stability(head_stability(*load.tables(options.runs_dir)))
        if table.empty:
            raise RecordError(
                f"{options.runs_dir}: no complete run there holds a head_choice; run a method that chooses"
            )
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("Share of equal pairs of choices: a step and the next, two prompts, two seeds; – where there is no pair.")
    print("chance: of heads that draw anew each time, with the layer's share of temporal ones.")
    shown = ["layer", "heads", "videos", "temporal_share", *OVER, "chance"]
    for setting, rows in table.groupby("setting", sort=False):
        print(f"\n{setting}")
        print(rows[shown].to_string(index=False, float_format="{:.3f}".format, na_rep="–"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
