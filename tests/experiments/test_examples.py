"""Somebody else's method, from a package outside of the project, in a sweep, every table and the report."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pandas as pd
import pytest

from analysis import load, paired, report
from analysis.summary import summary
from experiments.loading import PROJECT

EXAMPLE = PROJECT / "examples" / "golden_tiles"


@pytest.fixture
def their_package(tmp_path, monkeypatch):
    """A copy of the example where nothing else of the project is."""
    folder = shutil.copytree(EXAMPLE, tmp_path / "theirs", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("golden_tiles", None)


@pytest.mark.slow
def test_it_takes_part_in_a_sweep_and_in_every_table_and_figure(their_package, sparse, call, tmp_path, capsys):
    runs = tmp_path / "runs"
    method = [word for word in sparse if not word.startswith("method.sparsity")]
    path = f"hydra.searchpath=[file://{their_package / 'conf'}]"
    line = (
        "-m",
        path,
        "method=svg,golden_tiles",
        *method,
        "method.sparsity=0.7,0.8",
        "prompts.texts=[a cat,a dog,a bird]",
    )
    status, out, err = call(*line)
    assert (status, err) == (0, "") and "4 to make" in out
    table = summary(load.measurements(runs), load.runs(runs))
    theirs = table[table["method"] == "golden_tiles"]
    assert list(theirs["label"]) == ["golden_tiles sparsity=0.7", "golden_tiles sparsity=0.8"]
    # Whole tiles of 4 of 18 x 18 pairs, to one of them.
    assert (theirs["density_requested"] - theirs["density_executed"]).between(0, 4 / 18**2).all()
    assert theirs["psnr_db"].notna().all() and theirs["speedup"].notna().all()
    differences = paired.paired(load.measurements(runs), load.runs(runs))
    assert set(differences["other"]) == {"golden_tiles sparsity=0.7", "golden_tiles sparsity=0.8"}
    assert pd.notna(differences["low"]).all() and (differences["prompts"] == 3).all()
    assert report.main([str(runs)]) == 0
    assert "golden_tiles" in (runs / "report.html").read_text(encoding="utf-8")
    status, out, _ = call(*line)
    assert status == 0 and "4 already complete, 0 to make" in out


def test_the_class_is_short():
    lines = (EXAMPLE / "golden_tiles.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40


@pytest.mark.slow
def test_a_change_of_its_code_makes_its_runs_new_and_a_comment_does_not(their_package, sparse, tmp_path):
    def sweep() -> str:
        path = f"hydra.searchpath=[file://{their_package / 'conf'}]"
        line = [sys.executable, "-m", "experiments.compare", "-m", path, "method=golden_tiles", *sparse]
        environment = {"PYTHONPATH": f"{their_package}:{PROJECT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = their_package / "golden_tiles.py"
    assert "1 to make" in sweep()
    file.write_text("# A comment.\n" + file.read_text())
    assert "1 already complete, 0 to make" in sweep()
    file.write_text(file.read_text().replace("% 1)[None]", "% 0.9)[None]"))
    assert "0 already complete, 1 to make" in sweep()
    assert load.runs(tmp_path / "runs")["config.code"].nunique() == 2
