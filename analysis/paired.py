"""What a method is better by than the others on the same prompts: paired differences with their 95 % intervals.

python -m analysis.paired RUNS_DIR [--quantity psnr_db] [--reference svg]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import pandas as pd

from analysis import load
from analysis.settings import describe, knob_text
from analysis.statistics import Values, half_width, prompt_means
from svg.results import RecordError

# What of a run's settings decides the dense video.
_CONDITIONS = ("model", "config.model.", "config.seed")
COLUMNS = ["model", "density", "reference", "other", "prompts", "difference", "low", "high", "unpaired"]


def paired(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    quantity: str = "psnr_db",
    reference: str = "svg",
    protocol: str = "standard",
) -> pd.DataFrame:
    """Return, for each run of another method at the same kept fraction, by how much the reference method exceeds it.

    Runs are compared where model, sampler and seeds are the same and as many steps and layers stayed dense. Seeds of
    a prompt are averaged first, so that prompts are what the interval is over (Student's t, from 3 prompts up).
    Prompts that either run lacks, or where either value is no number, are left out and counted.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        quantity: What is compared; differences have its unit.
        reference: Name of the method that the others are compared with.
        protocol: Of the quantity.

    Returns:
        Columns ``model``, ``density`` (requested), ``reference``, ``other`` (method and the settings that differ),
        ``prompts`` (pairs), ``difference`` (reference minus other, mean), ``low``, ``high`` (the interval; missing
        below 3 prompts) and ``unpaired`` (prompts left out).
    """
    whole = runs[runs["status"] == "complete"].set_index("run_id", drop=False)
    values = Values(measurements)
    labels = describe(runs)["knobs"]
    facts = {run: _facts(values, run, quantity, protocol) for run in whole["run_id"]}
    alike = {run: _conditions(values, whole.loc[run]) for run in whole["run_id"]}
    rows = []
    for ours in whole[whole["method"] == reference].itertuples():
        for other in whole[whole["method"] != reference].itertuples():
            density, scores = facts[ours.run_id]
            if density is None or facts[other.run_id][0] != density or alike[ours.run_id] != alike[other.run_id]:
                continue
            theirs = facts[other.run_id][1]
            shared = [prompt for prompt in scores if prompt in theirs]
            differences = [scores[prompt] - theirs[prompt] for prompt in shared]
            prompts = set(values_of(values, ours.run_id, quantity)) | set(values_of(values, other.run_id, quantity))
            mean = math.fsum(differences) / len(differences) if differences else None
            half = half_width(differences) if differences else None
            rows.append(
                {
                    "model": ours.model,
                    "density": density,
                    "reference": " ".join(filter(None, [reference, knob_text(labels[ours.run_id])])),
                    "other": " ".join(filter(None, [other.method, knob_text(labels[other.run_id])])),
                    "prompts": len(differences),
                    "difference": mean,
                    "low": None if mean is None or half is None else mean - half,
                    "high": None if mean is None or half is None else mean + half,
                    "unpaired": len(prompts) - len(shared),
                }
            )
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"difference": float, "low": float, "high": float})
    return table.sort_values(["model", "density", "difference"], ignore_index=True)


def values_of(values: Values, run: str, quantity: str) -> list[str]:
    """Return the prompts of a run that have a row of the quantity, a number or not."""
    return [value.prompt_id for value in values.select([run], quantity, None) if value.prompt_id is not None]


def _conditions(values: Values, run: pd.Series) -> dict[str, str]:
    """Return what must be the same for two runs to be compared."""
    shared = {name: repr(value) for name, value in run.items() if str(name).startswith(_CONDITIONS)}
    for name in ("dense_steps", "dense_layers"):
        shared[name] = repr(sorted({value.value or 0.0 for value in values.select([run["run_id"]], name, None)}))
    return shared


def _facts(values: Values, run: str, quantity: str, protocol: str) -> tuple[float | None, dict[str, float]]:
    """Return the kept fraction that a run asked for, and the mean over seeds of each prompt."""
    requested = {value.value for value in values.select([run], "density_requested", None)}
    density = requested.pop() if len(requested) == 1 else None
    means = prompt_means(values.select([run], quantity, protocol))
    return density, {prompt: mean for prompt, mean in means.items() if prompt is not None}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.paired", description=__doc__)
    parser.add_argument("runs_dir", type=Path, help="folder of runs")
    parser.add_argument("--quantity", default="psnr_db", help="what is compared (default: %(default)s)")
    parser.add_argument("--reference", default="svg", help="method that the others are compared with (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        runs = load.runs(options.runs_dir)
        table = paired(load.measurements(options.runs_dir), runs, options.quantity, options.reference)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if table.empty:
        print(
            f"error: {options.runs_dir} holds no run of --reference {options.reference} beside another method at the "
            f"same kept fraction",
            file=sys.stderr,
        )
        return 2
    print(f"{options.quantity}: {options.reference} minus the other, mean over prompts and its 95 % interval")
    for row in table.itertuples():
        interval = "too few for an interval" if pd.isna(row.low) else f"[{row.low:+.2f}, {row.high:+.2f}]"
        mean = "no pair" if pd.isna(row.difference) else f"{row.difference:+.2f} {interval}"
        left_out = f", {row.unpaired} left out" if row.unpaired else ""
        print(f"  {row.model} at {row.density:g}: {row.other}: {mean}, {row.prompts} prompts{left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
