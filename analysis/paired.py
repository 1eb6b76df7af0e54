"""What a method is better by than the others on the same prompts: paired differences with their 95 % intervals.

python -m analysis.paired RUNS_DIR [--quantity psnr_db] [--reference svg|SETTING=VALUE] [--output FILE.csv]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import load
from analysis.checks import check_rows
from analysis.files import write_whole
from analysis.intervals import detectable, few_prompts_text, interval
from analysis.noise import distance, has_floor
from analysis.pairing import Setting, settings
from analysis.remarks import floor_text, form
from analysis.settings import counted, knob_text, natural
from analysis.statistics import prompt_means
from svg.results import RecordError

_NUMBERS = ["difference", "low", "high", "detectable", "floor"]
COLUMNS = [
    *("model", "density", "reference", "other", "prompts", "videos", "difference", "low", "high", "detectable"),
    *("floor", "floor_backend", "within_noise", "unpaired"),
]


def paired(
    measurements: pd.DataFrame,
    runs: pd.DataFrame,
    quantity: str = "psnr_db",
    reference: str = "svg",
    protocol: str = "standard",
) -> pd.DataFrame:
    """Return by how much the reference method exceeds every other setting at the same kept fraction.

    Settings are compared where model, sampler and dense twins are the same (dense backend, device, whether blocks were
    compiled) and as many steps and layers stayed dense. Videos are paired by prompt (id, text and image) and seed, for
    these have the same initial noise; the differences of a prompt are averaged over its seeds, whichever runs made
    them, so that prompts are what the interval is over (`analysis.intervals`). Videos that either setting lacks, or
    where either value is no number, are left out.

    Args:
        measurements: From `analysis.load.measurements`.
        runs: From `analysis.load.runs`.
        quantity: What is compared; differences have its unit.
        reference: Name of the method that the others are compared with; or a setting and its value, such as
            ``backend.precision=bf16``: runs with it are compared with those that differ in nothing else.
        protocol: Of the quantity.

    Returns:
        Columns ``model``, ``density`` (requested), ``reference``, ``other`` (method and the settings that differ),
        ``prompts`` and ``videos`` (pairs), ``difference`` (reference minus other, mean over prompts), ``low``, ``high``
        (the interval; missing below 3 prompts), ``detectable`` (the smallest difference that such a sample shows in
        four cases of five; likewise), ``floor`` (the quantity between dense videos of two kernels; infinite where they
        were identical, missing where not measured), ``floor_backend``, ``within_noise`` (whether the two methods'
        mean distances from dense differ by less than these dense videos do; missing without a floor) and ``unpaired``
        (prompts left out).
    """
    return paired_runs(measurements, runs, quantity, reference, protocol)[COLUMNS]


def paired_runs(
    measurements: pd.DataFrame, runs: pd.DataFrame, quantity: str, reference: str, protocol: str
) -> pd.DataFrame:
    """Return the columns of `paired` and ``other_runs``, the ids of the runs that the reference is compared with."""
    found = list(settings(measurements, runs, quantity, protocol))
    rows = [
        _row(ours, other, quantity)
        for ours in found
        if _is_reference(ours, reference) and ours.density is not None
        for other in found
        if _differs(ours, other, reference)
        and (other.density, other.conditions) == (ours.density, ours.conditions)
        and ours.videos.keys() & other.videos.keys()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "other_runs"]).astype(
        dict.fromkeys(_NUMBERS, float) | {"within_noise": "boolean"}
    )
    # Where several settings of the reference kept one fraction, each stands beside all others.
    places = {name: place for place, name in enumerate(sorted(set(table["reference"]), key=natural))}
    return table.sort_values(
        ["model", "density", "reference", "difference"],
        key=lambda column: column.map(places) if column.name == "reference" else column,
        ignore_index=True,
    )


def has_several_references(table: pd.DataFrame) -> bool:
    """Return whether several settings of the reference stand at one density, so that a line must name its own."""
    return bool(table.groupby(["model", "density"])["reference"].nunique().gt(1).any())


def _is_reference(setting: Setting, reference: str) -> bool:
    name, is_setting, _ = reference.partition("=")
    if not is_setting:
        return setting.method == reference
    return name in setting.knobs and knob_text({name: setting.knobs[name]}) == reference


def _differs(ours: Setting, other: Setting, reference: str) -> bool:
    """Return whether a setting is another method's, or differs in the one that is named and in nothing else."""
    name, is_setting, _ = reference.partition("=")
    if not is_setting:
        return other.method != reference
    # A backend's name may say what its settings are.
    without = {name, name.partition(".")[0]}
    one, two = ({knob: value for knob, value in each.knobs.items() if knob not in without} for each in (ours, other))
    return (other.method, one) == (ours.method, two) and other.knobs.get(name) != ours.knobs.get(name)


def paired_remarks(table: pd.DataFrame, quantity: str) -> list[str]:
    """Return the sentences that belong below a table of paired differences."""
    texts = []
    if table["detectable"].notna().any():
        texts.append(
            "Detectable: the smallest true difference that a paired t-test at the level of .05 finds in 80 % of "
            "samples of as many prompts, spread as these."
        )
    if not has_floor(quantity):
        texts.append(f"Noise floor: none is known of {quantity}, only of qualities.")
    floors = table[["model", "floor", "floor_backend"]].drop_duplicates()
    for row in floors.itertuples() if has_floor(quantity) else ():
        prefix = f"{row.model}: " if floors["model"].nunique() > 1 else ""
        texts.append(prefix + floor_text([] if pd.isna(row.floor) else [(quantity, row.floor, row.floor_backend)]))
    if table["within_noise"].any():
        texts.append(
            "Within noise: the two are less far apart in their distance from dense than these dense videos are."
        )
    return [*texts, *filter(None, [few_prompts_text(table["prompts"])])]


def _row(ours: Setting, other: Setting, quantity: str) -> dict[str, Any]:
    both = [(prompt, number, other.videos.get((prompt, seed))) for (prompt, seed), number in ours.videos.items()]
    pairs = [(prompt, one, two) for prompt, one, two in both if one is not None and two is not None]
    differences = prompt_means((prompt, one - two) for prompt, one, two in pairs)
    low, high = interval(differences) or (None, None)
    floor = ours.floor if ours.floor == other.floor else None
    is_within = None
    if floor is not None and pairs:
        apart = prompt_means((prompt, distance(quantity, one) - distance(quantity, two)) for prompt, one, two in pairs)
        is_within = abs(math.fsum(apart)) / len(apart) <= floor.distance
    prompts = {prompt for prompt, _ in ours.videos.keys() | other.videos.keys()}
    return {
        "model": ours.model,
        "density": ours.density,
        "reference": ours.label,
        "other": other.label,
        "prompts": len(differences),
        "videos": len(pairs),
        "difference": math.fsum(differences) / len(differences) if differences else None,
        "low": low,
        "high": high,
        "detectable": detectable(differences),
        "floor": None if floor is None else floor.value,
        "floor_backend": None if floor is None else floor.backend,
        "within_noise": is_within,
        "unpaired": len(prompts) - len(differences),
        "other_runs": other.runs,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.paired", description=__doc__)
    parser.add_argument("runs_dir", type=Path, help="folder of runs")
    parser.add_argument("--quantity", default="psnr_db", help="what is compared (default: %(default)s)")
    parser.add_argument(
        "--reference", default="svg", help="method, or SETTING=VALUE, that others are compared with (%(default)s)"
    )
    parser.add_argument("--protocol", default="standard", help="of the quantity (%(default)s)")
    parser.add_argument("--output", type=Path, help="the table as a file, too: .csv or .json")
    options = parser.parse_args(arguments)
    try:
        if options.output is not None and options.output.suffix not in (".csv", ".json"):
            raise RecordError(f"--output is {options.output}; its name must end in .csv or .json")
        rows, runs = load.tables(options.runs_dir)
        check_rows(rows, runs, options.protocol)
        table = paired(rows, runs, options.quantity, options.reference, options.protocol)
        if table.empty:
            raise RecordError(
                f"{options.runs_dir} holds no run of --reference {options.reference} beside another at the "
                f"same kept fraction, on the same videos, with --quantity {options.quantity}"
            )
        if options.output is not None:
            _save(table, options.output)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.quantity}: {options.reference} minus the other, mean over prompts and its 95 % interval")
    several = has_several_references(table)
    for row in table.itertuples():
        pair = f"{row.reference} minus {row.other}" if several else row.other
        print(f"  {row.model} at {row.density:g}: {pair}: {_text(row, options.quantity)}")
    print(*paired_remarks(table, options.quantity), sep="\n")
    return 0


def _save(table: pd.DataFrame, output: Path) -> None:
    text = table.to_csv(index=False) if output.suffix == ".csv" else table.to_json(orient="records", indent=2) + "\n"
    try:
        write_whole(output, text)
    except OSError as error:
        raise RecordError(f"--output {output} cannot be written: {error.strerror}") from error


def difference_texts(row: Any, quantity: str) -> tuple[str, str, str]:
    """Return a row's difference, its interval and what was detectable as text; a dash where there is none."""
    signed, plain = form(quantity, is_signed=True)[1], form(quantity)[1]
    difference = "–" if pd.isna(row.difference) else signed.format(row.difference)
    if not pd.isna(row.within_noise) and row.within_noise:
        difference += ", within noise"
    interval_ = "–" if pd.isna(row.low) else f"{signed.format(row.low)} to {signed.format(row.high)}"
    return difference, interval_, "–" if pd.isna(row.detectable) else plain.format(row.detectable)


def _text(row: Any, quantity: str) -> str:
    """Return one row's numbers for a terminal."""
    difference, interval_, least = difference_texts(row, quantity)
    left_out = f", {row.unpaired} left out" if row.unpaired else ""
    return f"{difference} ({interval_}), detectable {least}, {counted(row.prompts, 'prompt')}{left_out}"


if __name__ == "__main__":
    sys.exit(main())
