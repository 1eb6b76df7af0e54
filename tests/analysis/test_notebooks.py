"""The notebooks: every one runs on the committed rows, and its two files say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from analysis.notebook import ROOT, Picture, records
from tests.analysis.test_paired import write as write_paired

SCRIPTS = sorted((ROOT / "analysis" / "notebooks").glob("*.py"))
CELL = re.compile(r"^# %%(?P<markdown> \[markdown\])?\n(?P<text>.*?)(?=^# %%|\Z)", re.MULTILINE | re.DOTALL)


def cells(script: str) -> list[tuple[str, str]]:
    """Return the kind and text of every cell of a py:percent file."""
    found = []
    for cell in CELL.finditer(script):
        text = cell["text"].strip("\n")
        if cell["markdown"]:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())
        found.append(("markdown" if cell["markdown"] else "code", text))
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_the_pair_of_its_script_without_outputs(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    paired = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert paired == cells(script.read_text(encoding="utf-8"))
    assert {kind for kind, _ in paired} == {"markdown", "code"}
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_logic(script):
    code = "\n".join(text for kind, text in cells(script.read_text(encoding="utf-8")) if kind == "code")
    assert not re.search(r"^\s*(def|class|for|while|if|with|try)\b|\blambda\b", code, re.MULTILINE)


def test_each_of_the_five_questions_has_a_notebook():
    assert [script.stem for script in SCRIPTS] == [
        "are_head_kinds_stable",
        "does_sampling_suffice",
        "kernel_or_sparsity",
        "what_a_video_costs",
        "which_knob_matters_most",
    ]


@pytest.mark.slow
def test_every_notebook_runs_on_the_committed_rows_from_any_folder(tmp_path):
    # In one process, each as a program of its own: pandas and matplotlib are loaded once.
    code = "import runpy, sys; [runpy.run_path(path, run_name='__main__') for path in sys.argv[1:]]"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error::FutureWarning", "-c", code, *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_two_folders_hold_counts_once(tmp_path):
    for folder, names in {"one": "ab", "two": "bc"}.items():
        for name in names:
            write_paired(tmp_path / folder, name, "svg", {"p0": [30.0]})
    rows, runs = records(tmp_path / "one", tmp_path / "two")
    assert runs["run_id"].tolist() == ["a", "b", "c"]
    assert rows.groupby("run_id").size().nunique() == 1


def test_a_picture_is_shown_by_its_bytes():
    assert Picture(b"png")._repr_png_() == b"png"
