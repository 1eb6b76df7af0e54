"""Targets of ``claims.toml``, each beside the committed rows that say whether it is reached."""

from __future__ import annotations

import ast
import json
import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis import load
from analysis.steps import LINEAR_PRECISION, has_fp8_layers
from analysis.writer import line
from svg.results import RecordError, list_runs

CLAIMS = Path(__file__).with_name("claims.toml")
# Targets are for one of these.
GPU = re.compile(r"\bH[12]00\b")
NOT_MEASURED = "not measured"
_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One target, and which rows say whether it is reached; the fields are those of ``claims.toml``."""

    name: str
    what: str
    value: str | list[str]
    target: float
    better: Literal["lower", "higher"]
    where: Mapping[str, Any]
    command: str
    each: Mapping[str, list[Any]] = field(default_factory=dict)
    rather: Mapping[str, Any] = field(default_factory=dict)
    case: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise RecordError(f"claim {self.name}: better is {self.better!r}; it must be lower or higher")
        if len(self.each) > 1:
            raise RecordError(f"claim {self.name}: each has {len(self.each)} columns; it may have one")


@dataclass(frozen=True)
class Verdict:
    """A claim beside its rows: the value and the GPU that it comes from, None where nothing was measured."""

    claim: Claim
    value: float | None
    gpu: str | None
    words: str


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """Return all claims of a file.

    Raises:
        RecordError: If it is no such file, or a claim has other fields.
    """
    try:
        return [Claim(**claim) for claim in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(f"{path} is no file of claims: {error}") from error


def read_rows(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (runs, measurements) of all folders of runs below one folder."""
    folders = [folder for folder in sorted(results.iterdir()) if folder.is_dir() and list_runs(folder)]
    if not folders:
        raise RecordError(f"{results} holds no folder of runs")
    tables = [(load.runs(folder), load.measurements(folder)) for folder in folders]
    return pd.concat([runs for runs, _ in tables]), pd.concat([rows for _, rows in tables])


def judge(claim: Claim, runs: pd.DataFrame, measurements: pd.DataFrame) -> Verdict:
    """Return whether a claim is reached, by the newest run of each case on a GPU that targets are for."""
    gpus = runs.get("provenance.gpu.name")
    if gpus is None:
        return Verdict(claim, None, None, NOT_MEASURED)
    chosen = runs[(runs["status"] == "complete") & gpus.fillna("").str.contains(GPU)]
    without: list[str] = []
    if LINEAR_PRECISION not in claim.where:
        chosen = chosen[~has_fp8_layers(chosen)]
    for name, wanted in claim.where.items():
        chosen = _having(chosen, name, wanted)
    for name, wanted in claim.rather.items():
        better = _having(chosen, name, wanted)
        if _newest(claim, better, measurements) is not None:
            chosen = better
        else:
            without.append(f"{name.rpartition('.')[2]}={wanted}".lower())
    [(varied, values)] = claim.each.items() or [(None, [None])]
    found: list[tuple[float, str]] = []
    missing = []
    for value in values:
        newest = _newest(claim, chosen if varied is None else _having(chosen, varied, value), measurements)
        if newest is None:
            missing.append(value)
        else:
            found.append(newest)
    if missing:
        at = "" if not found else f" at {str(varied).rpartition('.')[2]} {', '.join(map(str, missing))}"
        return Verdict(claim, None, None, NOT_MEASURED + at)
    value, gpu = (min if claim.better == "higher" else max)(found)
    short = value / claim.target - 1 if claim.better == "lower" else 1 - value / claim.target
    said = "reached" if short <= 0 else f"short by {100 * short:.2g} %"
    return Verdict(claim, value, gpu, ", without ".join([said, *without]))


def _having(runs: pd.DataFrame, name: str, value: Any) -> pd.DataFrame:
    """Return the runs that have a value in a column, "none" for none at all; nothing without such a column."""
    return runs[(runs[name] == value).fillna(value == "none")] if name in runs else runs.iloc[:0]


def _newest(claim: Claim, runs: pd.DataFrame, measurements: pd.DataFrame) -> tuple[float, str] | None:
    """Return the value of the newest run that has one, and its GPU."""
    texts = [claim.value] if isinstance(claim.value, str) else claim.value
    for run in runs.sort_values("created", ascending=False, kind="stable").to_dict("records"):
        rows = measurements[measurements["run_id"] == run["run_id"]]
        if claim.case:
            cases = {one["prompt_id"]: json.loads(one["text"]) for one in run["prompts"]}
            # A flag that a case does not have is false.
            fits = [name for name, case in cases.items() if all(case.get(k, False) == v for k, v in claim.case.items())]
            rows = rows[rows["prompt_id"].isin(fits)]
        known = means(rows)
        for text in texts:
            try:
                return evaluate(text, known), str(run["provenance.gpu.name"])
            except KeyError:
                continue
    return None


def means(rows: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of one run that belong to no step, layer, head or frame, by quantity[protocol].

    Where a run has several of one, for its videos or cases, it is their mean; what is said of heads is the mean over
    all heads, layers and steps that were looked at.
    """
    is_whole = rows[["step", "layer", "head", "frame"]].isna().all(axis=1) | rows["quantity"].str.startswith("head_")
    whole = rows[is_whole & rows["value"].notna()]
    names = whole["quantity"] + whole["protocol"].map(lambda name: "" if pd.isna(name) else f"[{name}]")
    return {str(name): float(value) for name, value in whole["value"].astype(float).groupby(names).mean().items()}


def evaluate(text: str, known: Mapping[str, float]) -> float:
    """Return the value of an arithmetic expression over quantities: numbers, + - * /, abs and brackets.

    Raises:
        KeyError: If a quantity has no value.
        RecordError: If the text is anything else.
    """

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id="abs"), args=[inner]):
                return abs(value(inner))
            case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
                return known[name if isinstance(node, ast.Name) else f"{name}[{ast.unparse(node.slice)}]"]
        raise RecordError(f"{text!r} is no arithmetic on quantities: {ast.unparse(node)!r}")

    try:
        return value(ast.parse(text, mode="eval"))
    except SyntaxError as error:
        raise RecordError(f"{text!r} is no arithmetic on quantities") from error


def claims_markdown(runs: pd.DataFrame, measurements: pd.DataFrame, path: Path = CLAIMS) -> str:
    """Return the table of all claims as Markdown, from `read_rows`.

    Raises:
        RecordError: If the file of claims cannot be read.
    """
    headings = ["what", "must reach", "measured", "verdict", "GPU", "again with"]
    lines = [line(headings), line(["---", "---:", "---:", "---", "---", "---"])]
    for verdict in (judge(claim, runs, measurements) for claim in read_claims(path)):
        claim = verdict.claim
        reach = f"{'≤' if claim.better == 'lower' else '≥'} {claim.target:g}"
        measured = "–" if verdict.value is None else f"{verdict.value:.3g}"
        lines.append(line([claim.what, reach, measured, verdict.words, verdict.gpu or "–", f"`{claim.command}`"]))
    return "\n".join(lines)
