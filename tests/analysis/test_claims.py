"""make claims: targets beside committed rows, and no number in the README that no row carries."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import claims, documents
from analysis.readme_numbers import unbacked
from analysis.targets import Claim, evaluate, judge, read_claims, read_rows
from svg.results import Measurement, RecordError, RunWriter
from tests.fake_runs import PROVENANCE

ROOT = Path(__file__).parents[2]
CLAIM = {"name": "a", "what": "a step", "value": "step_s", "target": 10.0, "better": "lower", "where": {"model": "x"}}
COMMAND = {"command": "make bench-steps"}


def write(
    folder, name: str, seconds: float, gpu: str = "NVIDIA H200", density: float = 0.25, status: str = "", **model
) -> None:
    """Write a run of a step below ``folder/h200``; ``model`` are settings of it."""
    provenance = PROVENANCE | {"gpu": {"name": gpu, "driver": "1.2"}}
    config = {"weights": "random", "method": {"density": density}, "model": model}
    prompts = [{"prompt_id": str(case), "text": f'{{"shape": [1, {case}]}}'} for case in (0, 1)]
    writer = RunWriter(
        folder / "h200", name, model="x", method="svg", backend="flex", dense_backend="cudnn", config=config,
        provenance=provenance, prompts=prompts, seeds=[0],
    )  # fmt: skip
    try:
        with writer as run:
            run.add(Measurement(quantity="step_s", unit="s", value=seconds))
            run.add(Measurement(quantity="phase_s", unit="s", value=seconds / 4, protocol="attention"))
            run.add(Measurement(quantity="share", unit="1", value=0.5))
            run.add(Measurement(quantity="video_step_s", unit="s", value=1.0, step=0))
            for head, share in enumerate((0.25, 0.5)):
                run.add(Measurement(quantity="head_agreement", unit="1", value=share, step=0, layer=1, head=head))
            for case in (0, 1):
                run.add(Measurement(quantity="rate", unit="TFLOP/s", value=100.0 + case, prompt_id=str(case)))
            if status:
                raise ValueError(status)
    except ValueError:
        assert status


def verdict(folder, **changes):
    return judge(Claim(**{**CLAIM, **COMMAND, **changes}), *read_rows(folder))


@pytest.mark.parametrize(
    ("changes", "value", "words"),
    [
        ({}, 8.0, "reached"),
        ({"target": 8.0}, 8.0, "reached"),
        ({"target": 5.0}, 8.0, "short by 60 %"),
        ({"better": "higher"}, 8.0, "short by 20 %"),
        ({"value": "phase_s[attention] * 2 + share"}, 4.5, "reached"),
        ({"value": ["step_s[whole]", "step_s"]}, 8.0, "reached"),
        ({"value": "step_s[whole]"}, None, "not measured"),
        ({"value": "video_step_s"}, None, "not measured"),
        ({"where": {"model": "y"}}, None, "not measured"),
        ({"where": {"config.no.such": 1}}, None, "not measured"),
        ({"value": "rate", "case": {"shape": [1, 1]}, "better": "higher", "target": 101}, 101.0, "reached"),
        ({"each": {"config.method.density": [0.25]}}, 8.0, "reached"),
        ({"rather": {"config.weights": "random"}}, 8.0, "reached"),
        ({"rather": {"config.compile": True}}, 8.0, "reached, without compile=true"),
        ({"each": {"config.method.density": [0.25, 0.5]}}, None, "not measured at density 0.5"),
    ],
)
def test_a_claim_is_judged_by_the_run_that_it_names(tmp_path, changes, value, words):
    write(tmp_path, "one", 8.0)
    found = verdict(tmp_path, **changes)
    assert (found.value, found.words) == (value, words)
    assert found.gpu == (None if value is None else "NVIDIA H200")


def test_a_claim_is_of_linear_layers_in_fp8_where_it_says_so(tmp_path):
    write(tmp_path, "plain", 8.0)
    write(tmp_path, "light", 6.0, linear_precision="fp8")
    assert verdict(tmp_path).value == 8.0
    assert verdict(tmp_path, where={"model": "x", "config.model.linear_precision": "fp8"}).value == 6.0


def test_the_newest_run_speaks_and_of_several_cases_the_worst(tmp_path):
    write(tmp_path, "old", 20.0)
    runs, rows = read_rows(tmp_path)
    write(tmp_path, "new", 8.0)
    write(tmp_path, "broken", 1.0, status="it failed")
    runs, rows = read_rows(tmp_path)
    runs.loc[runs["run_id"] == "new", "created"] += pd.Timedelta(seconds=5)
    assert judge(Claim(**CLAIM, **COMMAND), runs, rows).value == 8.0
    write(tmp_path, "denser", 9.0, density=0.5)
    runs, rows = read_rows(tmp_path)
    runs.loc[runs["run_id"] == "new", "created"] += pd.Timedelta(seconds=5)
    each = Claim(**CLAIM, **COMMAND, each={"config.method.density": [0.25, 0.5]})
    assert judge(each, runs, rows).value == 9.0


@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", "NVIDIA H20", "NVIDIA GH200 480GB"])
def test_a_run_on_a_gpu_that_targets_are_not_for_says_nothing(tmp_path, gpu):
    write(tmp_path, "one", 1.0, gpu=gpu)
    assert verdict(tmp_path).words == "not measured"


@pytest.mark.parametrize(
    "text", ["step_s ** 2", "__import__('os')", "step_s.real", "'a'", "abs(step_s, 1)", "step_s of x"]
)
def test_a_value_is_arithmetic_and_nothing_else(text):
    with pytest.raises(RecordError, match="is no arithmetic on quantities"):
        evaluate(text, {"step_s": 1.0})


def test_the_committed_claims_are_read_and_each_has_a_name_of_its_own():
    every = read_claims()
    assert len({claim.name for claim in every}) == len(every) > 15


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ('better = "higher"', 'better = "less"', "better is 'less'; it must be lower or higher"),
        ("each = {", 'each = { "model" = ["a"],', "each has 2 columns; it may have one"),
        ("target = 0.93", "goal = 0.93", "unexpected keyword argument 'goal'"),
        ("[[claim]]", "[[claim", "is no file of claims"),
    ],
)
def test_a_file_of_claims_that_is_wrong_is_refused_by_name(tmp_path, right, wrong, words):
    text = (ROOT / "analysis" / "claims.toml").read_text(encoding="utf-8")
    (tmp_path / "claims.toml").write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(RecordError, match=re.escape(words)):
        read_claims(tmp_path / "claims.toml")


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    for options in (["--results", str(tmp_path)], ["--results", str(tmp_path / "none")]):
        assert claims.main(options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A step takes 8.0 s<!-- from step_s where model=x -->.", None),
        ("It takes 8 seconds <!-- from step_s where model=x config.method.density=0.25 -->.", None),
        ("A quarter, 2.00 s <!-- from phase_s[attention] where model=x -->, is attention.", None),
        ("It is 50 % <!-- from share where run_id=one --> of the floor.", None),
        ("Both take 100.5 TFLOP/s <!-- from rate where model=x -->.", None),
        ("It saves 6.00 s <!-- from step_s - phase_s[attention] where model=x -->.", None),
        ("A step takes 8.0 s.", "names no row; write <!-- from QUANTITY"),
        ("A step takes 8.1 s <!-- from step_s where model=x -->.", "is 8 by run one"),
        ("It takes 2.0 s <!-- from step_s where model=x -->, as its attention does.", "is 8 by run one"),
        ("It takes 8 minutes <!-- from step_s where model=x -->.", "is 0.133333 by run one"),
        ("Of the heads 37.5 % <!-- from head_agreement where model=x --> agree.", None),
        ("It is 8.0 times <!-- from step_s where model=x --> faster.", "no complete run with model=x has step_s in 1"),
        ("A step takes 8.0 s <!-- from step_s where model=y -->.", "no complete run with model=y"),
        ("A step takes 8.0 s <!-- from step_s where config.no=1 -->.", "no complete run with config.no=1"),
        ("It takes 8,000 s.", "names no row"),
        ("`sleep 9 s` and\n```\n9 s\n```\nare code, 720p and 3 steps no measurements.", None),
        ("<!-- rows: runs -->\n9.9 s\n<!-- end of rows -->", None),
    ],
)
def test_a_number_in_prose_is_what_the_row_that_it_names_rounds_to(tmp_path, text, words):
    write(tmp_path, "one", 8.0)
    found = unbacked(text, *read_rows(tmp_path))
    assert len(found) == (words is not None) and all(words in line for line in found)


def test_the_command_prints_the_table_and_fails_only_for_numbers_without_a_row(tmp_path, capsys):
    write(tmp_path / "results", "one", 8.0)
    page = tmp_path / "page.md"
    place = "A step takes 8.0 s <!-- from step_s where model=x -->.\n<!-- claims: results -->\n<!-- end of claims -->\n"
    page.write_text(documents.fill(place, tmp_path), encoding="utf-8")
    options = ["--results", str(tmp_path / "results"), "--document", str(page)]
    assert claims.main(options) == 0
    printed = capsys.readouterr().out
    assert printed.strip() in page.read_text(encoding="utf-8")
    assert printed.count("| not measured |") == len(read_claims())
    wrong = page.read_text(encoding="utf-8").replace("8.0 s", "7.9 s").replace("≥ 560", "≥ 300")
    page.write_text(wrong, encoding="utf-8")
    assert claims.main(options) == 1
    said = capsys.readouterr().out
    assert "'7.9 s' in" in said and "a table differs from its rows" in said


@pytest.mark.slow
def test_no_number_of_the_readme_lacks_a_row():
    assert claims.main(["--results", str(ROOT / "results"), "--document", str(ROOT / "README.md")]) == 0
