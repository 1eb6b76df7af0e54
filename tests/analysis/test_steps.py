"""The table of single denoising steps says what its rows say, and leaves other runs alone."""

from __future__ import annotations

import pytest

from analysis import documents, load
from analysis.steps import LINEAR_PRECISION, step_lines, step_runs, step_table
from analysis.views import steps_view
from tests.fake_runs import write_fake_runs
from tests.fake_steps import write_fake_steps

PLACE = "<!-- steps: {} -->\n<!-- end of steps -->\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of ``runs``, which holds steps and whole generations, and of ``others``, which holds no step."""
    root = tmp_path_factory.mktemp("steps")
    write_fake_steps(root / "runs")
    write_fake_runs(root / "runs")
    write_fake_runs(root / "others")
    return root


def test_a_row_is_a_run_by_model_and_backend(folder):
    table = step_table(load.measurements(folder / "runs"), load.runs(folder / "runs"))
    assert table["run_id"].tolist() == [
        "step-cogvideox1_5_i2v-flex",
        "step-hunyuan_video_t2v-another",
        "step-hunyuan_video_t2v-flex",
    ]
    row = table.iloc[2]
    assert (row["dense_s"], row["sparse_s"], row["density"], row["n"]) == (21.5, 11.25, 0.25, 3)
    assert row["call"] == "1 × 24 × 119056 × 128"
    assert table["is_compiled"].tolist() == [False, True, True]
    assert table.iloc[1][["dense_s", "sparse_s", "n"]].isna().all()


def test_a_document_takes_the_table_with_failures_gaps_and_the_machine(folder):
    filled = documents.fill(PLACE.format("runs"), folder)
    lines = [line for line in filled.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| flex vs sdpa_cudnn | " in lines[2] and "| flex vs sdpa_cudnn, compiled | " in lines[4]
    assert "| 21.50 | 11.25 | 1.91× | 2.50× | 0.50 | 36.2 | 43% | – | 3 |" in lines[4]
    assert "failed: a step of model=hunyuan_video_t2v with backend=another failed: it has \\| no kernel" in lines[3]
    assert "- Measured on Example GPU 80 GB, torch 2.13.0+cpu, commit 0123456789" in filled
    assert "1755 to 1755 MHz" in filled
    assert documents.fill(filled, folder) == filled


def test_a_row_names_the_letter_of_its_machine_and_what_tells_two_letters_apart(folder):
    rows, runs = load.measurements(folder / "runs"), load.runs(folder / "runs")
    runs["provenance.cpu.cores"] = range(len(runs))
    lines, _ = step_lines(rows, runs)
    # Two machines that read alike are one.
    assert not any("[" in line[2] for line in lines)
    has_torchao = (runs["run_id"] == "step-hunyuan_video_t2v-flex").astype(object)
    runs["provenance.versions.torchao"] = has_torchao.map({True: "0.18.0", False: None})
    table = steps_view(rows, runs)
    letters = [cells[2][-3:] for cells in table.cells]
    assert letters[0] == letters[1] != letters[2]
    assert [note for note in table.below if note.startswith("[")] == [
        f"{letter} Example GPU 80 GB, torch 2.13.0+cpu, commit 0123456789 with uncommitted changes, {word}"
        for letter, word in sorted({letters[0]: "no torchao", letters[2]: "torchao 0.18.0"}.items())
    ]


def test_linear_layers_in_fp8_are_said_wherever_steps_are_named(folder):
    rows, runs = load.measurements(folder / "runs"), load.runs(folder / "runs")
    runs[LINEAR_PRECISION] = ["fp8" if run == "step-cogvideox1_5_i2v-flex" else None for run in runs["run_id"]]
    lines, _ = step_lines(rows, runs)
    named = [line[2] for line in lines[1:]]
    assert named[0] == "flex vs sdpa_cudnn, FP8 linear layers" and named[2] == "flex vs sdpa_cudnn, compiled"


def test_runs_of_other_commands_are_no_steps(folder, capsys):
    assert step_runs(load.runs(folder / "others")).empty
    (folder / "page.md").write_text(PLACE.format("others"), encoding="utf-8")
    assert documents.main([str(folder / "page.md")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no run here") and error.count("\n") == 1
