"""Footnotes of a table of runs: each note once, with the names of all columns that it is about."""

from __future__ import annotations

from analysis.summary import FORMATS


class Footnotes:
    """Numbers notes in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def number(self, quantity: str, note: str) -> int:
        """Return the number of a note on a quantity of the summary."""
        names = self._names.setdefault(note, [])
        name = FORMATS[quantity][0]
        if name not in names:
            names.append(name)
        return list(self._names).index(note) + 1

    def texts(self) -> list[str]:
        """Return all notes, the first one first."""
        return [f"{', '.join(names)}: {note}" for note, names in self._names.items()]
