"""Why numbers of the report's table are missing or marked: each cause once, with the rows that it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from analysis.elements import of_runs
from analysis.settings import counted
from analysis.summary import FORMATS

# How many of a row's videos, in a note of `analysis.statistics`.
_SHARE = re.compile(r"\d+ of \d+ | \(\d+ more with other numbers\)")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


class Causes:
    """Numbers the causes of notes in the order in which they are first asked for.

    Notes have one cause if they differ in their numbers alone.
    """

    def __init__(self) -> None:
        # By cause: the names of columns, and the note and the runs of each row.
        self._found: dict[str, tuple[list[str], dict[str, tuple[str, Sequence[str]]]]] = {}

    def number(self, quantity: str, note: str, row: str, runs: Sequence[str]) -> int:
        """Return the number of a note's cause.

        Args:
            quantity: A column of the summary.
            note: Of a number in it.
            row: What the number's row is called.
            runs: The row's runs.
        """
        cause = _NUMBER.sub("", _SHARE.sub("", note))
        names, rows = self._found.setdefault(cause, ([], {}))
        name = FORMATS[quantity][0]
        if name not in names:
            names.append(name)
        rows.setdefault(row, (note, runs))
        return list(self._found).index(cause) + 1

    def markup(self, places: Mapping[str, int]) -> str:
        """Return all causes as a list, with each row's own note to unfold where they differ; empty where none is.

        Args:
            places: Place of every run in the table of runs, by its id.
        """
        items = []
        for number, (names, rows) in enumerate(self._found.values(), 1):
            notes = list(dict.fromkeys(note for note, _ in rows.values()))
            ids = [run for _, runs in rows.values() for run in runs]
            share = " of some videos" if len(notes) > 1 and any(map(_SHARE.search, notes)) else ""
            text = escape(f"{', '.join(names)}{share}: {_common(notes)}")
            if len(notes) > 1:
                each = "".join(
                    f"<li{of_runs(runs, places)}>{escape(row)}: {escape(note)}</li>"
                    for row, (note, runs) in rows.items()
                )
                text += f"<details><summary>{counted(len(rows), 'row')}</summary><ul>{each}</ul></details>"
            items.append(f'<li value="{number}"{of_runs(ids, places)}>{text}</li>')
        return f'<ol class="notes">{"".join(items)}</ol>' if items else ""


def _common(notes: Sequence[str]) -> str:
    """Return what notes of one cause have in common; a single one as it is."""
    if len(notes) == 1:
        return notes[0]
    parts = zip(*(_NUMBER.split(_SHARE.sub("", note)) for note in notes), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "…" for part in parts)
