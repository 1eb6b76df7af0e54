"""Footnotes of a table of runs: each note once, with the names of all columns that it is about."""

from __future__ import annotations

import re

from analysis.summary import FORMATS

# Not the digits of a name, of a file or of a machine.
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-]|\.\w)")


class Footnotes:
    """Numbers notes in the order in which they are first asked for; those that differ in numbers alone are one."""

    def __init__(self) -> None:
        # By the note without its numbers: the columns, and each note in full.
        self._names: dict[str, list[str]] = {}
        self._notes: dict[str, list[str]] = {}

    def number(self, quantity: str, note: str) -> int:
        """Return the number of a note on a quantity of the summary."""
        kind = _NUMBER.sub("#", note)
        for found, new in ((self._names, FORMATS[quantity][0]), (self._notes, note)):
            texts = found.setdefault(kind, [])
            if new not in texts:
                texts.append(new)
        return list(self._names).index(kind) + 1

    def texts(self) -> list[str]:
        """Return all notes, the first one first; of several, how many there are and the ranges of their numbers."""
        return [f"{', '.join(names)}{_merged(self._notes[kind])}" for kind, names in self._names.items()]


def _merged(notes: list[str]) -> str:
    if len(notes) == 1:
        return f": {notes[0]}"
    places = iter(zip(*(_NUMBER.findall(note) for note in notes), strict=True))

    def between(_: re.Match[str]) -> str:
        numbers = sorted(set(next(places)), key=float)
        return " to ".join(dict.fromkeys((numbers[0], numbers[-1])))

    return f" ({len(notes)} of the kind): {_NUMBER.sub(between, notes[0])}"
