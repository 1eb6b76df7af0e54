"""What the project set out to reach, beside what the committed rows say: ``python -m analysis.claims``.

Ends with status 1 where the README says a number that the row it names does not carry. A target that is missed, or
not measured yet, is said and fails nothing. The targets stand in ``analysis/claims.toml``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.readme_numbers import out_of_date, unbacked
from analysis.targets import CLAIMS, claims_markdown, read_rows
from svg.results import RecordError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m analysis.claims", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of folders of runs")
    parser.add_argument("--document", type=Path, default=Path("README.md"), help="whose numbers need a row")
    parser.add_argument("--claims", type=Path, default=CLAIMS, help="file of claims")
    options = parser.parse_args(arguments)
    try:
        runs, measurements = read_rows(options.results)
        print(claims_markdown(runs, measurements, options.claims))
        text = options.document.read_text(encoding="utf-8")
        found = [*out_of_date(text, options.document.parent), *unbacked(text, runs, measurements)]
    except (OSError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in found:
        print(f"{options.document}: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
