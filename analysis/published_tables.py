"""The published tables of ``published/*.yaml``: values as printed, where they stand, and how each is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

import yaml

from svg.results import RecordError

_FOLDER = resources.files("analysis").joinpath("published")
# A file of the folder that is no table.
_DIFFERENCES = "differences"
# Commands that measure what a GPU takes.
ON_GPU = ("step_latency", "bench_kernels")

# What a reader is told of each published value, and of what stands beside them.
WORDS = {
    "psnr_db": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "imaging_quality": "imaging quality",
    "subject_consistency": "subject consistency",
    "vbench": "VBench",
    "pflops": "operations",
    "latency_s": "latency",
    "speedup": "speed-up",
    "attention_speedup": "attention speed-up",
    "attention_share": "attention's share of the time",
    "over_none": "gain over no transformation",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One published value, and how it is measured here.

    Args:
        table, row, column: Where it stands.
        unit: Of the value.
        value: As printed, to the last digit.
        measure: Name of a function of `analysis.measures`.
        find: Which runs measure it: ``model``, ``method``, ``model.X``, or settings of the method.
        kernel: Which kernel's times it needs, where it needs any: ``method``, ``prompt`` (its case) and ``calls``.
        needs: What a comparison needs that is not here; empty where it can be measured anywhere.
        differs: Ids of the known differences that explain a measured value ``above`` and ``below`` the published one.
    """

    table: str
    row: str
    column: str
    unit: str
    value: Decimal
    measure: str
    find: Mapping[str, str]
    kernel: Mapping[str, str]
    needs: str
    differs: Mapping[str, list[str]]

    @property
    def decimals(self) -> int:
        """Digits behind the point, as printed."""
        return max(0, -int(self.value.as_tuple().exponent))

    @property
    def rounding(self) -> float:
        """Half a unit of the last digit printed."""
        return 0.5 * 10.0**-self.decimals


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A table of our own beside the published one, without a column of published values.

    Args:
        title: Its heading.
        quantities: Of the rows of records.
        rows: ``(name, find)`` a line.
        note: What must be known of it; empty where nothing.
    """

    title: str
    quantities: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, str]], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published table.

    Args:
        name: What it is called on the command line.
        title: What it is, and of which paper.
        source: ``arxiv`` (with version), ``place`` and ``gpu``.
        commands: Arguments of the commands that measure it, by the name of the command.
        cells: Its values.
        beside: Tables of our own that go with it.
    """

    name: str
    title: str
    source: Mapping[str, str]
    commands: Mapping[str, list[str]]
    cells: tuple[Cell, ...]
    beside: tuple[Beside, ...]

    @property
    def citation(self) -> str:
        """Paper, version and place, and what measured it there."""
        return f"arXiv:{self.source['arxiv']}, {self.source['place']}, {self.source['gpu']}"


def names() -> list[str]:
    """Return the names of all published tables."""
    found = (entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))
    return sorted(set(found) - {_DIFFERENCES})


def differences() -> dict[str, str]:
    """Return the text of every known difference by its id."""
    return {name: " ".join(text.split()) for name, text in _load(_DIFFERENCES).items()}


@cache
def read(name: str) -> Published:
    """Return a published table.

    Raises:
        RecordError: If there is none of this name.
        ValueError: If its file names a column or a difference that there is not.
    """
    if name not in names():
        raise RecordError(f"TABLE is {name!r}; it must be one of {', '.join(names())}")
    content = _load(name)
    return Published(
        name=name,
        title=content["title"],
        source=content["source"],
        commands=content["commands"],
        cells=tuple(_cell(name, content, row, column) for row in content["rows"] for column in row["published"]),
        beside=tuple(
            Beside(
                title=part["title"],
                quantities=tuple(part["quantities"]),
                rows=tuple((row["row"], row["find"]) for row in part["rows"]),
                note=" ".join(part.get("note", "").split()),
            )
            for part in content.get("beside", [])
        ),
    )


def _cell(name: str, content: dict[str, Any], row: dict[str, Any], column: str) -> Cell:
    if column not in content["columns"]:
        raise ValueError(f"{name}.yaml: row {row['row']!r} has {column!r}; columns are {', '.join(content['columns'])}")
    about = content["columns"][column]
    differs = row.get("differs", {}).get(column, about.get("differs", {}))
    if not isinstance(differs, dict):
        differs = {"above": differs, "below": differs}
    unknown = {each for ids in differs.values() for each in ids} - set(differences())
    if unknown or set(differs) - {"above", "below"}:
        raise ValueError(
            f"{name}.yaml: row {row['row']!r}, {column}: differs is {differs}; ids are in differences.yaml"
        )
    measure = row.get("measures", {}).get(column, about["measure"])
    return Cell(
        table=name,
        row=row["row"],
        column=column,
        unit=about["unit"],
        value=Decimal(row["published"][column]),
        measure=measure,
        find=row.get("find", {}),
        kernel=row.get("kernel", {}),
        needs=content.get("needs", {}).get(measure, ""),
        differs=differs,
    )


def _load(name: str) -> dict[str, Any]:
    # Every value stays a text, so that 0.120 keeps its last digit.
    text = _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.BaseLoader)
