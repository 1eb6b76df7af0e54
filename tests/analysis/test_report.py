"""The report as a file; test_report_in_browser.py opens it."""

import base64
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.again import again
from analysis.head_maps import head_maps
from analysis.report import main, render
from svg.results import Measurement, RunWriter
from tests.analysis.test_paired import write as write_paired
from tests.analysis.test_table import psnr, write
from tests.fake_runs import (
    DENSE_STEPS,
    FAILED_RUN,
    HEADS,
    LAYERS,
    PROMPTS,
    PROVENANCE,
    RUNS,
    SAMPLED,
    STEPS,
    write_fake_runs,
)
from tests.fake_steps import write_fake_steps

PROTOCOLS = ("standard", "upstream")
NAMES = {"model": "m", "method": "svg", "backend": "b", "dense_backend": "d"}


@pytest.fixture(scope="module")
def fake_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    return root


@pytest.fixture(scope="module")
def page(fake_runs):
    return render(load.measurements(fake_runs), load.runs(fake_runs))


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_last_line_printed_is_the_path_of_the_report(fake_runs, tmp_path, capsys):
    output = tmp_path / "new" / "r.html"
    assert main([str(fake_runs), "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(output)
    assert any(line.startswith("svg sparsity=0.25") for line in lines)
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in output.parent.iterdir()] == ["r.html"]


def test_timed_steps_beside_videos_are_left_out_and_counted(fake_runs, tmp_path, capsys):
    root = shutil.copytree(fake_runs, tmp_path / "runs")
    count = len(write_fake_steps(root))
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    assert f"left out of the report: {count} runs of commands that make no videos" in out
    assert main([str(fake_runs), "--output", str(tmp_path / "r.html")]) == 0
    assert out.splitlines()[1:-1] == capsys.readouterr().out.splitlines()[:-1]


def test_the_printed_table_says_of_which_protocol_it_is_where_that_is_not_plain(tmp_path, capsys):
    write(tmp_path, "one", psnr(20.0, protocol="upstream"))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20.00" in out and "Quality here is in protocol upstream.\n" in out
    write(tmp_path, "other", psnr(30.0), block_size=64)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20.00" not in out and "Quality here is in protocol standard; the report has upstream, too.\n" in out


def test_no_sparse_method_has_the_grey_of_dense_attention(tmp_path):
    write(tmp_path, "one", psnr(20.0))
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert [(run["series"], run["color"]) for run in data_of(page)["runs"]] == [("svg", 1)]
    rows = page.split("<tbody>")[1].split("</tbody>")[0]
    assert "--color-1" in rows and "--color-0" not in rows


def test_colours_tell_models_apart_where_there_are_several_and_methods_too_where_several_ran(tmp_path):
    for model in ("a", "b"):
        record(tmp_path, model, model=model)
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert [(run["series"], run["color"]) for run in data_of(page)["runs"]] == [("a", 1), ("b", 2)]
    record(tmp_path, "c", method="other")
    record(tmp_path, "d", method="dense")
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert {run["series"] for run in data_of(page)["runs"]} == {"a svg", "b svg", "m other", "dense"}


def test_a_report_of_timed_steps_speaks_of_steps(tmp_path):
    write_fake_steps(tmp_path)
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert '<p class="lead">3 runs, 1 of them failed · 1 seed</p>' in page
    first = page.split("<tr>")[1].split("</tr>")[0]
    assert re.findall("<button[^>]*>([^<]*)", first)[:2] == ["Model", "Method"] and "Videos" not in first
    assert "Median seconds of one step" in page and 'data-tip="dense step: 21.50 s"' in page


def test_notes_that_differ_in_their_numbers_are_one_and_say_their_rows(tmp_path):
    for run_id, sparsity, seconds in (("one", 0.25, 1.5), ("two", 0.5, 2.5)):
        config = {"method": {"sparsity": sparsity}}
        why = {"value": None, "status": "unavailable", "reason": f"<b> busy for {seconds} s of 10"}
        with RunWriter(tmp_path, run_id, **NAMES, config=config, provenance=PROVENANCE, prompts=[], seeds=[0]) as run:
            run.add(Measurement(quantity="psnr_db", unit="dB", prompt_id="p", seed=0, protocol="standard", **why))
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    notes = page.split('<ol class="notes">')[1].split("</ol>")[0]
    assert notes.startswith('<li value="1" data-runs="0 1">PSNR dB: unavailable: &lt;b&gt; busy for … s of 10<details>')
    assert "<summary>2 rows</summary>" in notes
    assert '<li data-runs="1">svg sparsity=0.5: unavailable: &lt;b&gt; busy for 2.5 s of 10</li>' in notes


def test_runs_stand_in_the_order_of_the_table(page):
    listed = re.findall(r'<details id="run-(\d+)"', page)
    rows = page.split("<tbody>")[1].split("</tbody>")[0]
    assert listed == re.findall(r'data-runs="(\d+)"', rows)


def test_a_videos_missing_number_says_why(page):
    clip = next(run for run in data_of(page)["runs"] if run["id"] == "svg-0.25")["videos"][0]
    [missing] = [reason for name, text, reason in clip["values"] if name == "LPIPS alex" and text == "n/a"]
    assert missing.startswith("backbone weights alexnet-owt-7be5be79.pth not found")
    assert all(not reason for _, text, reason in clip["values"] if text != "n/a")


def test_the_report_stands_beside_its_runs(fake_runs, tmp_path, capsys):
    root = shutil.copytree(fake_runs, tmp_path / "runs")
    assert main([str(root)]) == 0
    assert (root / "report.html").is_file()
    # A report is no run.
    assert len(load.runs(root)) == len(RUNS) + 1


def test_every_run_is_in_the_page(page):
    entries = {run["id"] for run in data_of(page)["runs"]}
    assert entries == {run_id for run_id, *_ in RUNS}
    assert f"<code>{FAILED_RUN}</code>" in page
    assert "method.sparsity=0.05 is less than text and first frame alone keep (0.0588)" in page


def test_the_page_asks_for_nothing(page):
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r'\b(?:src|href)="(?!#|data:)[^"]*"', markup) == []
    assert not re.search(r"url\((?!#)|@import", markup)
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert "script-src 'sha256-" in page


def test_a_method_whose_name_holds_spaces_and_markup_is_paired_under_its_whole_name(tmp_path):
    for name, method, score in (("ours", "svg", 30.0), ("other", "<b>my method</b> x", 29.0)):
        write_paired(tmp_path, name, method, {"a": [score]})
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">&lt;b&gt;my method&lt;/b&gt; x</span>" in page and "<b>my" not in page.split("<script")[0]


def test_no_text_of_a_record_becomes_markup(page):
    hostile = PROMPTS[1]["text"]
    assert "</script>" in hostile
    assert hostile not in page
    assert data_of(page)["prompts"][PROMPTS[1]["prompt_id"]] == hostile
    assert page.count("</script>") == 2


def test_no_text_of_a_record_becomes_a_slot(tmp_path):
    names = {"model": "m {{css}}", "method": "{{js}} <i>", "backend": "b", "dense_backend": "d"}
    facts = {"config": {}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with RunWriter(tmp_path, "a", **names, **facts):
        pass
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert "<h1>m {{css}}, sparse against dense</h1>" in page
    assert "{{js}} &lt;i&gt;" in page
    assert re.findall(r"\{\{(\w+)\}\}", page.replace("m {{css}}", "").replace("{{js}} ", "")) == []


def test_the_videos_are_the_previews_each_kept_once(page, fake_runs):
    data = data_of(page)
    kept = [base64.b64decode(text) for text in data["videos"].values()]
    assert len(kept) == len(set(kept))
    for run in data["runs"]:
        if run["id"] != "dense":
            for clip in run["videos"]:
                folder = fake_runs / run["id"] / "videos"
                for key, suffix in (("sparse", "mp4"), ("dense", "dense.mp4")):
                    file = folder / f"{clip['prompt']}-s0.{suffix}"
                    assert base64.b64decode(data["videos"][clip[key]]) == file.read_bytes()
                assert len(clip["psnr"]) == clip["frames"]


def test_identical_videos_are_one_video_shown_twice(page):
    clips = next(run for run in data_of(page)["runs"] if run["id"] == "dense")["videos"]
    assert all(clip["sparse"] == clip["dense"] for clip in clips)


def test_videos_that_would_make_the_file_too_large_are_left_out_and_named(fake_runs):
    measurements, runs = load.measurements(fake_runs), load.runs(fake_runs)
    full, small = render(measurements, runs), render(measurements, runs, max_mb=0.3)
    assert len(small.encode()) <= 300_000 < len(full.encode())
    assert 0 < len(data_of(small)["videos"]) < len(data_of(full)["videos"])
    assert re.search(r"\d+ pairs? of videos left out to keep this file below 0.3 MB: \S+: p0", small)
    assert "left out to keep" not in full.split("<script")[0]


def test_a_preview_that_somebody_deleted_is_missing_and_nothing_else(fake_runs, tmp_path):
    root = shutil.copytree(fake_runs, tmp_path / "runs")
    shutil.rmtree(root / "svg-0.25" / "videos")
    data = data_of(render(load.measurements(root), load.runs(root)))
    clip = next(run for run in data["runs"] if run["id"] == "svg-0.25")["videos"][0]
    assert clip["sparse"] is None
    assert len(data["runs"]) == len(RUNS)


def test_head_choices_arrive_as_recorded(page, fake_runs):
    heads = next(run for run in data_of(page)["runs"] if run["id"] == "svg-0.25")["heads"]
    assert (heads["steps"], heads["layers"], heads["heads"]) == (STEPS, LAYERS, HEADS)
    grid = np.frombuffer(base64.b64decode(heads["choice"]), np.uint8).reshape(2, STEPS, LAYERS, HEADS)
    rows = load.measurements(fake_runs)
    rows = rows[(rows["run_id"] == "svg-0.25") & (rows["quantity"] == "head_choice")]
    means = rows.groupby(["branch", "step", "layer", "head"])["value"].mean()
    assert len(means) == (grid != 255).sum()
    for (branch, step, layer, head), share in means.items():
        assert grid[heads["branches"].index(branch), step, layer, head] == round(250 * share)
    assert (grid[:, :DENSE_STEPS] == 255).all()
    [kept] = heads["sampled"]
    assert (kept["quantity"], kept["steps"], kept["layers"]) == ("head_kept_mass", [SAMPLED[0]], [SAMPLED[1]])
    assert list(base64.b64decode(kept["values"])) == [round(250 * 0.2 * head) for head in range(HEADS)] * 2


def test_a_choice_that_stands_under_the_first_head_alone_leaves_room_for_what_was_sampled_of_all():
    columns = ("quantity", "value", "head")
    found = pd.DataFrame(
        [("head_choice", 1.0, 0), *(("head_entropy", 0.5, head) for head in range(3))], columns=columns
    )
    heads = head_maps(found.assign(status="ok", branch="cond", step=1, layer=0), 2)
    assert heads["heads"] == 3
    assert list(base64.b64decode(heads["choice"])) == [255, 255, 255, 250, 255, 255]
    assert list(base64.b64decode(heads["sampled"][0]["values"])) == [125] * 3


def test_a_method_that_chooses_nothing_has_no_map(page):
    runs = {run["id"]: run for run in data_of(page)["runs"]}
    assert runs["random_blocks-0.25"]["heads"] is None
    assert runs["one_pattern-0.25"]["heads"]["margin"] is None


def test_runs_that_all_failed_still_make_a_report(tmp_path):
    facts = {"config": {}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with pytest.raises(ValueError, match="on purpose"), RunWriter(tmp_path, "a", **NAMES, **facts):
        raise ValueError("on purpose")
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert "on purpose" in page
    assert data_of(page)["runs"] == []
    assert data_of(page)["noChart"] == "No run is complete: failed, on purpose"


def record(root, run_id, protocol="standard", **more):
    """Write a run of one video; more is said of the writer."""
    facts = {**NAMES, "config": {}, "seeds": [0]}
    with RunWriter(root, run_id, **facts | {"provenance": PROVENANCE, "prompts": []} | more) as run:
        place = {"prompt_id": "p", "seed": 0, "unit": "dB", "protocol": protocol}
        run.add(Measurement(quantity="psnr_db", value=30.0, **place))


def test_a_single_run_has_nothing_to_be_filtered_by_or_paired_with(tmp_path):
    record(tmp_path, "only")
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    assert data_of(page)["filters"] == {"facets": [], "runs": [[]]}
    assert "No two methods kept the same fraction on the same videos" in page


def test_every_protocol_has_a_table_of_its_own(tmp_path):
    record(tmp_path, "ours")
    record(tmp_path, "theirs", "upstream", method="other")
    page = render(load.measurements(tmp_path), load.runs(tmp_path))
    standard, upstream = (page.split(f"<h3>Protocol {name}</h3>")[1].split("</table>")[0] for name in PROTOCOLS)
    for table, method in ((standard, "svg"), (upstream, "other")):
        row = next(row for row in table.split("<tr") if f">{method}</a>" in row)
        assert ">30.00</td>" in row
        assert table.count(">30.00</td>") == 1
    assert [metric["key"] for metric in data_of(page)["quality"]] == [f"psnr_db {name}" for name in PROTOCOLS]


def test_a_value_that_is_no_number_is_refused_by_the_name_of_its_run(tmp_path, monkeypatch, capsys):
    record(tmp_path, "lost")
    rows = load.measurements(tmp_path).assign(value=np.nan)
    monkeypatch.setattr("analysis.report.load.measurements", lambda _: rows)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: run lost has psnr_db nan; a value must be finite\n"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            "python3 -m experiments.compare -m seed=0,1 method.sparsity=0.25",
            "python -m experiments.compare seed=1 'prompts=[a b]'",
        ),
        ("python -m experiments.bench_kernels --smoke", "python -m experiments.bench_kernels --smoke"),
        ("make demo runs_dir=/tmp/a 'store_dir=/tmp/b c' seed=1", "make demo seed=1"),
        ("make demo", "make demo"),
    ],
)
def test_the_command_makes_one_run_and_not_its_sweep(tmp_path, command, expected):
    overrides = ["seed=1", "runs_dir=/tmp/rows", "prompts=[a b]", "store_dir=/tmp/my store"]
    record(tmp_path, "one", provenance=PROVENANCE | {"command": command}, overrides=overrides)
    assert again(load.runs(tmp_path).iloc[0]) == expected


def test_bad_input_gets_one_line_and_no_report(fake_runs, tmp_path, capsys):
    root = shutil.copytree(fake_runs, tmp_path / "half")
    (root / "svg-0.25" / "measurements.parquet").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = {
        "half": "svg-0.25 is half a run",
        "empty": "holds no finished run",
        "missing": "No such file",
        "file": "Not a directory",
    }
    for name, words in cases.items():
        assert main([str(tmp_path / name), "--output", str(tmp_path / "r.html")]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", captured.err)
        assert words in captured.err
        assert not (tmp_path / "r.html").exists()


def test_a_report_that_cannot_be_written_is_one_line(fake_runs, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(fake_runs), "--output", str(tmp_path / "file" / "r.html")]) == 2
    assert re.fullmatch(r"error: --output [^\n]+ cannot be written: [^\n]+\n", capsys.readouterr().err)


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_a_report_of_no_size_is_refused(fake_runs, tmp_path, capsys, size):
    assert main([str(fake_runs), "--output", str(tmp_path / "r.html"), "--max-mb", size]) == 2
    assert capsys.readouterr().err == f"error: --max-mb is {size}; it must be above 0\n"
    assert not (tmp_path / "r.html").exists()


def test_the_report_loads_no_torch():
    code = "import sys, analysis.report, analysis.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
