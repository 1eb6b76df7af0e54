"""The atlas of a run's heads: figures of what they chose and where they look, and a table, stability included."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis import load
from analysis.figures import ATLAS, head_atlas
from analysis.head_stability import OVER, head_stability, layer_stability
from svg.results import RecordError, read_run

# Of the statistics, what the table has beside the panels of the atlas.
_MORE = ("head_output_error", "head_regret")
_HEAD = ["layer", "head", "branch"]


def head_table(measurements: pd.DataFrame, runs: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """Return a row for each layer, head and branch of a run.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        run_id: The run.

    Returns:
        Columns ``layer``, ``head``, ``branch``; the quantities of ``analysis.figures.ATLAS``, ``head_output_error`` and
        ``head_regret`` without their ``head_``, means over steps and videos, NaN where none was measured; and those of
        ``analysis.head_stability.head_stability``, where the run has choices.

    Raises:
        RecordError: If the run is not there, not complete, or has no such quantity.
    """
    chosen = runs[runs["run_id"] == run_id]
    if chosen.empty or chosen["status"].iloc[0] != "complete":
        raise RecordError(f"run={run_id}: there is no complete run of this name here")
    own = measurements[measurements["run_id"] == run_id]
    rows = own[own["quantity"].isin([*ATLAS, *_MORE])]
    if rows["value"].notna().sum() == 0:
        raise RecordError(
            f"run={run_id} has no row about its heads; run a sparse method, or method=dense with statistics=every"
        )
    table = rows.pivot_table(index=_HEAD, columns="quantity", values="value", aggfunc="mean", observed=True)
    table = table.reindex(columns=[*ATLAS, *_MORE])
    table.columns = [str(name).removeprefix("head_") for name in table.columns]
    table = table.drop(columns="choice").reset_index()
    stable = head_stability(own, chosen)
    return table.merge(stable.drop(columns="setting"), on=_HEAD, how="left") if len(stable) else table


def write_atlas(measurements: pd.DataFrame, runs: pd.DataFrame, run_id: str, folder: Path) -> list[Path]:
    """Write ``heads`` and ``steps``, as PNG and PDF, and ``heads.csv`` into a folder; return the files.

    Raises:
        RecordError: As ``head_table``.
    """
    table = head_table(measurements, runs, run_id)
    files = head_atlas(measurements, run_id, folder / "heads")
    files += head_atlas(measurements, run_id, folder / "steps", across="step")
    table.to_csv(folder / "heads.csv", index=False, float_format="%.6g")
    return [*files, folder / "heads.csv"]


def stability_text(measurements: pd.DataFrame, runs: pd.DataFrame, run_id: str) -> str:
    """Return how stable the choices of a run's heads are, layer by layer; a sentence where none chose."""
    heads = head_stability(measurements[measurements["run_id"] == run_id], runs[runs["run_id"] == run_id])
    if heads.empty:
        return "No head of this run chose a pattern."
    shown = ["layer", "heads", "videos", "temporal_share", *OVER, "chance"]
    table = layer_stability(heads)[shown].to_string(index=False, float_format="{:.3f}".format, na_rep="–")
    return (
        "Share of equal pairs of choices: a step and the next, two prompts, two seeds; – where there is no pair.\n"
        f"chance: of heads that draw anew each time, with the layer's share of temporal ones.\n{table}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.head_patterns", description="The atlas of a run's heads.")
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument(
        "--output", type=Path, help="folder of the figures and the table (default: head_patterns/RUN beside the run)"
    )
    options = parser.parse_args(arguments)
    run = options.run
    output = options.output or run.parent / "head_patterns" / run.name
    try:
        read_run(run)
        tables = load.tables(run.parent)
        files = write_atlas(*tables, run.name, output)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --output {output} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    print(stability_text(*tables, run.name))
    print("\n".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
