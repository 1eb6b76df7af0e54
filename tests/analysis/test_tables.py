"""One writer writes every table in three formats, says what a reader must know, and refuses what does not compare."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import documents, load, paired, tables
from analysis.figures import __main__ as figures
from analysis.footnotes import Footnotes
from analysis.views import paired_view, steps_view, summary_view
from analysis.writer import Table, grid, write
from svg.results import Measurement, RunWriter
from tests.analysis.test_paired import write as write_paired
from tests.fake_runs import PROVENANCE
from tests.fake_steps import write_fake_steps

CLEAN = PROVENANCE | {"dirty": False}
ALLOWED = ["--allow-dirty"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``runs``, ``paired`` and ``steps``: one folder for each kind of table."""
    root = tmp_path_factory.mktemp("tables")
    lpips = {"unit": "1", "value": None, "n": 0, "prompt_id": "a", "seed": 0, "protocol": "standard"}
    lost = Measurement(quantity="lpips_alex", status="unavailable", reason="no alexnet.pth; python -c x", **lpips)
    record(root / "runs", "identical", [psnr(None, status="infinite")], dirty=True)
    record(root / "runs", "good", [psnr(30.123456789), lost], {"method": {"sparsity": 0.5, "text": "50 % & a_b"}})
    with pytest.raises(ValueError):
        record(root / "runs", "failed", (psnr(None) for _ in "1"))
    for method, scores in {"svg": [30.0, 31.0, 32.0], "random_blocks": [28.0, 29.5, 29.5]}.items():
        write_paired(root / "paired", method, method, {"abc"[place]: [score] for place, score in enumerate(scores)})
    write_fake_steps(root / "steps")
    return root


@pytest.fixture(scope="module", params=["runs", "paired", "steps"])
def table(folder, request):
    """Each of the tables."""
    runs, rows = load.runs(folder / request.param), load.measurements(folder / request.param)
    return {"runs": summary_view, "paired": paired_view, "steps": steps_view}[request.param](rows, runs)


def refused(*arguments: str, capsys) -> str:
    assert tables.main(list(arguments)) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    return error


def record(folder, run_id: str, rows, config: dict | None = None, **provenance) -> None:
    """Write a run of clean code; a complete one, if its rows can be had."""
    with RunWriter(
        folder,
        run_id,
        model="tiny_wan",
        method="svg",
        backend="reference",
        dense_backend="sdpa",
        config=config or {"method": {"sparsity": 0.25}},
        provenance=CLEAN | provenance,
        prompts=[{"prompt_id": "a", "text": "a"}],
        seeds=[0],
    ) as run:
        run.extend(rows)


def psnr(value: float | None = 30.0, protocol: str = "standard", **more) -> Measurement:
    return Measurement(quantity="psnr_db", unit="dB", value=value, prompt_id="a", seed=0, protocol=protocol, **more)


def test_a_caption_says_n_interval_dense_backend_hardware_and_code(table):
    for fact in ("n: ", "interval: ", "dense backend: sdpa", "hardware: Example", "commit 0123456789"):
        assert fact in table.caption
    assert write([table], "markdown").startswith(f"**{table.caption}.**\n\n| ")


def test_csv_holds_unrounded_numbers_and_the_captions_facts_in_every_line(table):
    lines = list(csv.DictReader(io.StringIO(write([table], "csv"))))
    assert len(lines) == len(table.cells)
    assert {line["hardware"] for line in lines} == {table.facts["hardware"]}
    assert all(line["code"] and line["dense_backend"].startswith("sdpa") for line in lines)
    if table.name == "steps":
        assert {line["n"] for line in lines} == {"3", ""}
    if table.name == "paired":
        assert {line["quantity"] for line in lines} == {"psnr_db"}
        assert float(lines[0]["difference"]) == 2.0 and len(lines[0]["low"]) > 8
    if table.name == "runs":
        assert {line["psnr_db"] for line in lines} == {"", "30.123456789"}
        assert {line["status"] for line in lines} == {"complete", "failed"}


def test_a_bar_in_a_cell_does_not_end_it():
    table = Table(
        name="x",
        title="x",
        headings=("a", "b"),
        cells=(("1|2", "3"),),
        align="lr",
        frame=pd.DataFrame({"a": ["1|2"], "b": [3]}),
        runs=pd.DataFrame({"run_id": [], "status": [], "dense_backend": []}),
        n="1",
        interval="none",
    )
    assert grid(table).splitlines() == ["| a | b |", "| --- | ---: |", r"| 1\|2 | 3 |"]
    assert write([table, table], "csv").count("1|2") == 2


def test_a_table_is_written_to_a_file_or_the_reason_said(folder, tmp_path, capsys):
    arguments = [str(folder / "paired"), "--table", "paired", *ALLOWED]
    assert tables.main([*arguments, "--output", str(tmp_path / "a.md")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "a.md").read_text().startswith("**svg minus another method")
    assert "--output" in refused(*arguments, "--output", str(tmp_path / "a.md" / "b.md"), capsys=capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]


def test_runs_of_two_machines_are_refused_unless_asked_for(tmp_path, capsys):
    record(tmp_path, "one", [psnr()])
    record(tmp_path, "other", [psnr()], gpu={"name": "Example GPU", "driver": "1"})
    error = refused(str(tmp_path), capsys=capsys)
    assert "run one was made on Example CPU 2.0 GHz, 2 cores, run other on Example GPU" in error
    assert tables.main([str(tmp_path), "--allow-mixed"]) == 0
    out = capsys.readouterr().out
    assert "hardware: Example CPU 2.0 GHz, 2 cores, Example GPU" in out
    # Lines say by a letter where they come from, and the table what each letter is.
    assert re.search(r"^\| [^|]+ \[B\] \| .*^- \[B\] Example GPU, ", out, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("provenance", [{"dirty": True}, {"commit": None}])
def test_runs_of_code_that_nobody_else_has_are_refused_unless_asked_for(tmp_path, capsys, provenance):
    record(tmp_path, "clean", [psnr()])
    record(tmp_path, "changed", [psnr()], **provenance)
    assert "run changed was made" in refused(str(tmp_path), capsys=capsys)
    assert tables.main([str(tmp_path), *ALLOWED]) == 0
    assert ("unknown commit" if "commit" in provenance else "uncommitted") in capsys.readouterr().out


def test_a_folder_without_a_complete_run_is_no_table(folder, tmp_path, capsys):
    assert "no finished run" in refused(str(tmp_path), capsys=capsys)
    shutil.copytree(folder / "runs" / "failed", tmp_path / "failed")
    assert "failed is failed: psnr_db: value None" in refused(str(tmp_path), capsys=capsys)


def test_one_run_is_a_table_of_one_line_and_no_paired_one(tmp_path, capsys):
    record(tmp_path, "alone", [psnr(), psnr(None, "upstream", n=0, status="unavailable", reason="no file; python")])
    assert tables.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("\n| svg") == 1
    assert "there is alone" in refused(str(tmp_path), "--table", "paired", capsys=capsys)
    assert "there is alone" in refused(str(tmp_path), "--table", "steps", capsys=capsys)


def test_a_paired_table_of_two_models_names_each_lines_own(tmp_path):
    for model in ("m", "n"):
        for method, score in {"svg": 30.0, "rival": 28.0}.items():
            write_paired(tmp_path, f"{model}-{method}", method, {"a": [score]}, name=model)
    table = paired_view(load.measurements(tmp_path), load.runs(tmp_path), "psnr_db", "svg", "standard")
    assert [cells[1] for cells in table.cells] == ["m rival sparsity=0.25", "n rival sparsity=0.25"]


def test_a_number_that_some_videos_lack_has_a_footnote_with_the_reason(tmp_path):
    def speedup(value, prompt, **why):
        return Measurement(quantity="speedup", unit="1", value=value, prompt_id=prompt, seed=0, **why)

    why = {"status": "unavailable", "reason": "the machine was busy; run again"}
    record(tmp_path, "some", [speedup(2.0, "a"), speedup(None, "b", **why)])
    record(tmp_path, "none", [speedup(None, "a", **why)], {"method": {"sparsity": 0.5}})
    table = summary_view(load.measurements(tmp_path), load.runs(tmp_path))
    assert {cells[2] for cells in table.cells} == {"2.00× [1]", "n/a [2]"}
    footnotes = ["[1] speed-up: 1 of 2 unavailable", "[2] speed-up: unavailable"]
    assert list(table.notes[-2:]) == [f"{text}: the machine was busy" for text in footnotes]


def test_footnotes_that_differ_in_numbers_alone_are_one():
    notes = Footnotes()
    busy = "{} of 16 unavailable: the machine was busy for {} s with a7.pth"
    numbers = [notes.number("speedup", busy.format(3, "1.50")), notes.number("psnr_db", "unavailable")]
    numbers += [notes.number("denoise_speedup", busy.format(11, "0.9")), notes.number("ssim", "unavailable")]
    assert numbers == [1, 2, 1, 2]
    assert notes.texts() == [
        "speed-up, denoising speed-up (2 of the kind): 3 to 11 of 16 unavailable: the machine was busy for 0.9 to "
        "1.50 s with a7.pth",
        "PSNR dB, SSIM: unavailable",
    ]


def test_quality_that_no_run_has_is_a_note_with_its_reason_and_an_identical_video_no_number(folder, capsys):
    assert tables.main([str(folder / "runs"), *ALLOWED]) == 0
    out = capsys.readouterr().out
    assert "- LPIPS alex unavailable: no alexnet.pth\n" in out
    assert "∞ (1 of 1 identical)" in out and "failed: psnr_db: value None" in out


def test_runs_of_two_protocols_are_refused_by_name(tmp_path, capsys):
    record(tmp_path, "one", [psnr()])
    record(tmp_path, "other", [psnr(protocol="upstream")])
    assert "run other has psnr_db in protocol upstream only" in refused(str(tmp_path), capsys=capsys)
    assert "run one" in refused(str(tmp_path), "--protocol", "upstream", capsys=capsys)


def lose(folder):
    """Write a run whose PSNR is NaN, though it states that it is a number."""
    record(folder, "lost", [psnr()])
    file, facts = folder / "lost" / "measurements.parquet", folder / "lost" / "run.json"
    rows = pq.read_table(file)
    place = rows.schema.get_field_index("value")
    lost = rows.set_column(place, rows.schema.field(place), pa.array([float("nan")]))
    pq.write_table(lost, file, write_page_checksum=True)
    # A record from before there were hashes.
    unhashed = {"measurements_sha256": None, "checksum": None}
    facts.write_text(json.dumps(json.loads(facts.read_text()) | unhashed))


def test_a_value_that_is_no_number_is_refused_by_name(tmp_path, capsys):
    lose(tmp_path)
    assert "run lost has psnr_db nan" in refused(str(tmp_path), capsys=capsys)
    document = tmp_path / "page.md"
    document.write_text("<!-- rows: . -->\n<!-- end of rows -->\n")
    for main, arguments in ((paired.main, [str(tmp_path)]), (documents.main, [str(document)])):
        assert main(arguments) == 2
        out, error = capsys.readouterr()
        assert out == "" and error == "error: run lost has psnr_db nan; a value must be finite\n"


def test_paired_differences_of_two_protocols_are_refused_by_name_and_one_can_be_chosen(tmp_path, capsys):
    for method in ("svg", "random_blocks"):
        write_paired(tmp_path, method, method, {"a": [30.0], "b": [31.0]})
    record(tmp_path, "other", [psnr(protocol="upstream")])
    assert paired.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: run other has psnr_db in protocol upstream only")
    assert paired.main([str(tmp_path), "--protocol", "upstream"]) == 2
    assert "in protocol standard only" in capsys.readouterr().err


def test_a_document_names_runs_that_it_leaves_out_in_a_line_and_takes_no_table_of_damaged_ones_alone(tmp_path, capsys):
    record(tmp_path / "runs", "bad", [psnr()])
    (tmp_path / "runs" / "bad" / "measurements.parquet").unlink()
    document = tmp_path / "page.md"
    document.write_text("<!-- rows: runs -->\n<!-- end of rows -->\n")
    assert documents.main([str(document)]) == 2
    left_out, error, *more = capsys.readouterr().err.splitlines()
    assert (
        left_out.startswith("left out: ") and error.startswith("error: no run is complete; bad is damaged") and not more
    )


def test_a_record_that_was_changed_by_hand_is_a_line_that_says_so(tmp_path, capsys):
    record(tmp_path, "good", [psnr()])
    record(tmp_path, "bad", [psnr()])
    file = tmp_path / "bad" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"backend": "flex"}))
    assert tables.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    # Where it was made nobody knows: it is no second machine, and its code is not listed.
    assert re.search(r"^\| bad \| damaged: ", out, re.MULTILINE) and "[B]" not in out and "unknown commit" not in out
    assert err.startswith("left out: ") and err.count("\n") == 1


@pytest.mark.parametrize("command", [figures.main, paired.main, tables.main])
def test_a_folder_of_damaged_runs_alone_is_no_traceback(tmp_path, capsys, command):
    record(tmp_path / "runs", "bad", [psnr()])
    (tmp_path / "runs" / "bad" / "measurements.parquet").unlink()
    assert command([str(tmp_path / "runs"), *(["--output", str(tmp_path)] if command is figures.main else [])]) == 2
    err = capsys.readouterr().err
    assert err.startswith("left out: ") and "half a run" in err and "Warning" not in err
