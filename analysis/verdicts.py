"""What a measured value says of a published one."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.measured import Measured
from analysis.published_tables import Cell

REPRODUCED = "reproduced within its interval"
TOO_WIDE = "interval too wide to tell"
# Of what is counted, or was repeated too rarely for an interval.
TO_THE_DIGIT = "reproduced to its last printed digit"
DIFFERS = "differs"
CANNOT = "cannot be compared here"
NOT_MEASURED = "not measured"
# Half of an interval that decides is this share of the published value at most; a wider one would agree with much.
WIDEST = 0.05


@dataclass(frozen=True)
class Verdict:
    """A verdict and its reason.

    Args:
        kind: One of those above.
        because: The interval that decides; or ids of the known differences that explain it; or, of a value that is not
            there, what it would take.
    """

    kind: str
    because: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.because}" if self.because else self.kind


def judge(cell: Cell, measured: Measured) -> Verdict:
    """Return the verdict on one value.

    A published value is reproduced where it lies in our 95 % interval and that is narrow enough to tell, or, without
    one, where ours rounds to it; half a unit of its last digit is allowed for. A difference explains only what lies on
    the side that it pushes to.
    """
    if cell.needs:
        return Verdict(CANNOT, cell.needs)
    if measured.value is None:
        return Verdict(NOT_MEASURED, measured.missing)
    off = measured.value - float(cell.value)
    half = measured.half_width
    if abs(off) <= (half or 0.0) + cell.rounding:
        if half is None:
            return Verdict(TO_THE_DIGIT)
        low, high = (f"{end:.{cell.decimals + 1}f}" for end in (measured.value - half, measured.value + half))
        kind = REPRODUCED if half <= WIDEST * abs(float(cell.value)) else TOO_WIDE
        return Verdict(kind, f"{low} to {high}, n={measured.n}")
    known = cell.differs.get("above" if off > 0 else "below", [])
    return Verdict(DIFFERS, ", ".join(known) or "no known difference explains it")
