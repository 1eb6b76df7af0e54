"""The documents: their code runs, their tables name what there is, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from svg.quality import metrics_by_name
from svg.results import MEASUREMENT_SCHEMA, RunRecord

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# A block whose first line is the path of the file that it is.
FILE_BLOCK = re.compile(
    r"^```(?:python|yaml)\n# (?P<path>\S+\.(?:py|yaml))\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def first_column(document: str) -> set[str]:
    """Return every name in backticks in the first column of a document's tables."""
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / document).read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """Return a copy of the project to which the files of the documents were added."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("svg", "kernels", "conf", "tests", "experiments", "analysis", "hydra_plugins", "results"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    blocks = [block for text in texts for block in FILE_BLOCK.finditer(text)]
    for block in blocks:
        path = copy / block["path"]
        assert path.parent.is_dir() and not path.exists(), f"{block['path']} is no new file"
        path.write_text(f"# {path.name}\n" * (path.name == "example.py") + block["text"], encoding="utf-8")
    assert {str(Path(block["path"]).parent) for block in blocks} >= {
        "svg/methods", "conf/method", "svg/backends", "svg/models", "svg/quality", "kernels/svg_kernels",
        "analysis/figures",
    }  # fmt: skip
    return copy


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'kernels'}"}
    return subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_of_extending_runs_with_everything_that_was_added(extended):
    done = run(extended, "example.py")
    assert done.returncode == 0, done.stderr
    share, error = map(float, re.findall(r"\d\.\d+", done.stdout))
    assert 0.3 < share < 0.5 and "attention computed by masked" in done.stdout
    # Another video than the dense one, and not by much.
    assert 0 < error < 0.2


@pytest.mark.slow
def test_what_extending_adds_is_covered_by_the_contract_tests_and_passes_them(extended):
    files = ["test_backends.py", "methods/test_contract.py", "quality/test_quality.py", "kernels/test_kernels.py"]
    names = "masked or every_nth or tile_means"
    paths = [f"tests/{file}" for file in files]
    done = run(extended, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", "-k", names, *paths)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 20


@pytest.mark.slow
def test_the_figure_that_is_added_draws_what_was_run_and_says_what_was_not(extended):
    done = run(
        extended,
        "-c",
        "from pathlib import Path; from analysis import load; from analysis.figures.quality_over_guidance import *; "
        "tables = load.measurements('results/demo'), load.runs('results/demo'); "
        "print(quality_over_guidance(*tables, Path('guidance.png')).stat().st_size); "
        "quality_over_guidance(*tables, Path('none.png'), quantity='lpips_vgg')",
    )
    assert int(done.stdout) > 5000
    assert "quantity=lpips_vgg: no run has a number for it; run experiment=guidance" in done.stderr
    assert not (extended / "none.png").exists()


def test_the_table_of_columns_is_the_schema():
    assert set(MEASUREMENT_SCHEMA.names) <= first_column("records.md")


def test_the_table_of_facts_is_run_json():
    assert {field.name for field in fields(RunRecord)} <= first_column("records.md")


def test_the_table_of_quantities_names_all_that_is_measured():
    written = set()
    for path in (ROOT / "experiments").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        written |= set(re.findall(r'quantity="(\w+)"', text)) | set(re.findall(r'\("(\w+_gib)"', text))
    assert len(written) > 15
    written |= {metric.quantity for metric in metrics_by_name().values()}
    assert written <= first_column("records.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_commands_in_documents_exist(document):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z][a-z-]*)`", document.read_text(encoding="utf-8"))) <= targets


def test_the_citation_file_cites_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    [paper] = citation["references"]
    assert paper["authors"][0] == {"family-names": "Xi", "given-names": "Haocheng"}
    assert paper["year"] == 2025 and "2502.01776" in paper["url"]


def test_make_without_a_target_lists_every_command():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert set(re.findall(r"^  make ([a-z-]+) ", listed.stdout, re.MULTILINE)) == set(phony.split())
