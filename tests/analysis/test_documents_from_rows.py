"""Tables in documents are what their committed rows say, and animations show what the runs made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from analysis import animation, documents
from svg.results import RecordError
from tests.analysis.test_paired import write as write_run
from tests.fake_runs import write_fake_runs

ROOT = Path(__file__).parents[2]
PLACE = "<!-- rows: runs -->\n<!-- end of rows -->\n"


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    write_fake_runs(folder / "runs")
    return folder


@pytest.mark.parametrize(
    "document",
    [
        # README.md is filled beside its prose, where make claims is tried.
        *("assets/tiny_wan/README.md", "docs/measuring.md", "docs/timing.md"),
        pytest.param("docs/published.md", marks=pytest.mark.slow),
    ],
)
def test_every_committed_table_is_what_its_rows_say(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    assert documents.fill(text, (ROOT / document).parent) == text


def test_the_readme_takes_a_table_from_rows():
    assert "<!-- rows: results/demo -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_table_is_filled_and_filling_it_again_changes_nothing(fake):
    filled = documents.fill("before\n" + PLACE + "after\n", fake)
    assert filled.startswith("before\n") and filled.endswith("after\n")
    assert re.search(r"^\| svg .*\|$", filled, re.MULTILINE)
    assert documents.fill(filled, fake) == filled


def test_a_table_has_every_run_a_failed_one_with_its_error(fake):
    filled = documents.fill(PLACE, fake)
    assert "failed: " in filled
    widths = {line.replace("\\|", "").count("|") for line in filled.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_a_paired_table_says_what_svg_is_better_by(tmp_path):
    write_run(tmp_path / "runs", "ours", "svg", {"a": [30.0], "b": [31.0], "c": [32.0]})
    write_run(tmp_path / "runs", "other", "random_blocks", {"a": [28.0], "b": [29.5], "c": [29.5]})
    place = "<!-- paired: runs -->\n<!-- end of paired -->\n"
    filled = documents.fill(place, tmp_path)
    assert "| 0.25 | random_blocks sparsity=0.25 | +2.00 | +0.76 to +3.24 | 1.63 | 3 |" in filled
    assert documents.fill(filled, tmp_path) == filled


def test_a_paired_table_against_a_settings_value_says_what_it_is_better_by(tmp_path):
    for precision, psnr_db in (("bf16", 30.0), ("fp8", 28.0)):
        videos = {"a": [psnr_db], "b": [psnr_db + 1], "c": [psnr_db + 2.5]}
        more = {"backend": {"precision": precision}}
        write_run(tmp_path / "runs", precision, "svg", videos, more=more)
    place = "<!-- paired: runs against backend.precision=bf16 -->\n<!-- end of paired -->\n"
    filled = documents.fill(place, tmp_path)
    assert "| backend.precision=bf16 minus it, PSNR dB |" in filled
    assert "| svg sparsity=0.25 backend.precision=fp8 | +2.00 |" in filled
    assert documents.fill(filled, tmp_path) == filled
    with pytest.raises(RecordError, match="beside one of backend.precision=int8 "):
        documents.fill(place.replace("bf16", "int8"), tmp_path)
    with pytest.raises(RecordError, match="only a paired table is against something, and <!-- rows: runs against"):
        documents.fill(place.replace("paired", "rows"), tmp_path)


def test_a_paired_table_without_a_pair_is_refused(fake, tmp_path):
    write_run(tmp_path / "runs", "ours", "svg", {"a": [30.0]})
    with pytest.raises(RecordError, match="no run of another method"):
        documents.fill("<!-- paired: runs -->\n<!-- end of paired -->\n", tmp_path)


def test_check_changes_nothing_and_tells_of_a_number_typed_by_hand(fake, capsys):
    document = fake / "page.md"
    document.write_text(PLACE, encoding="utf-8")
    assert documents.main([str(document)]) == 0
    right = document.read_text(encoding="utf-8")
    assert documents.main([str(document), "--check"]) == 0
    wrong = re.sub(r"\d\.\d\d", "9.99", right, count=1)
    document.write_text(wrong, encoding="utf-8")
    assert documents.main([str(document), "--check"]) == 1
    assert document.read_text(encoding="utf-8") == wrong
    assert "a table differs" in capsys.readouterr().out


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    (tmp_path / "page.md").write_text(PLACE, encoding="utf-8")
    assert documents.main([str(tmp_path / "page.md")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_an_animation_has_a_column_for_dense_and_one_per_run(fake, tmp_path):
    runs = sorted(path.parent for path in (fake / "runs").glob("*/videos") if list(path.glob("*.mp4")))[:2]
    output = tmp_path / "a" / "b.webp"
    assert animation.main([str(output), *map(str, runs)]) == 0
    with Image.open(output) as shown, Image.open(output) as single:
        assert shown.n_frames > 1
        columns = 1 + len(runs)
        assert (single.width + animation.GAP) % columns == 0


def test_an_animation_of_a_run_without_videos_is_one_line(fake, tmp_path, capsys):
    [run, *_] = [path.parent for path in (fake / "runs").glob("*/videos") if list(path.glob("*.mp4"))]
    shutil.copytree(run, tmp_path / run.name, ignore=shutil.ignore_patterns("videos"))
    assert animation.main([str(tmp_path / "out.webp"), str(tmp_path / run.name)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out.webp").exists()
