"""Tables as LaTeX: nothing in a record ends or changes them, they fit their page, and pdflatex takes them."""

import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from analysis import load, tables
from analysis.latex import escape
from analysis.views import paired_view, steps_view, summary_view
from analysis.writer import Table, write
from tests.analysis.test_paired import write as write_paired
from tests.fake_runs import write_fake_runs
from tests.fake_steps import write_fake_steps

PDFLATEX = shutil.which("pdflatex")
EVIL = (
    r"[A] \x{y}_z & 50 % #1 $5 ~/a ^2 <|> `c' "
    '"--runs" Å é ű ß µ ≥ ± × ∞ – — … “q” ™ -1.5 中 👍 e\u0301 \ufeff\x1b[0m\tz\nlast\\'
)
WORDS = "a_name_of_many_parts and its setting=value"


def table(cells, *, headings=("method", "density", "speed-up"), align="lrr", notes=(), title="A title") -> Table:
    return Table(
        name="some",
        title=title,
        headings=headings,
        cells=tuple(cells),
        align=align,
        frame=pd.DataFrame({"a": [1]}),
        runs=pd.DataFrame({"run_id": [], "status": [], "dense_backend": []}),
        n="1",
        interval="none",
        notes=notes,
    )


NARROW = table([("svg", "0.250", "1.50×")])
WIDE = table(
    [(WORDS, *["1.23× [1.20, 1.26] [1]"] * 7)] * 3,
    headings=("method", *["a heading of words"] * 7),
    align="l" + "r" * 7,
)
LONG = table([(f"svg {number}", "0.250", "1.50×") for number in range(120)], notes=("a note",) * 12)
MADE = {
    "narrow": NARROW,
    "wide": WIDE,
    "long": LONG,
    "long-and-wide": replace(WIDE, cells=WIDE.cells * 20),
    "evil": table([(EVIL, "1", "2"), ("*", EVIL, "")], headings=(EVIL, EVIL, "c"), notes=(EVIL,), title=EVIL),
    "failed": table([("svg", "1", "2"), ("random", "failed: " + WORDS * 9, "")]),
    "empty": table([]),
    "unbroken": table([("x" * 400, "1", "2")]),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Tables of runs, of paired differences and of steps, made from runs."""
    root = tmp_path_factory.mktemp("recorded")
    write_fake_runs(root / "runs")
    for method, scores in {"svg": [30.0, 31.0, 32.0], "random_blocks": [28.0, 29.5, 29.5]}.items():
        write_paired(root / "paired", method, method, {"abc"[place]: [score] for place, score in enumerate(scores)})
    write_fake_steps(root / "steps")
    views = {"runs": summary_view, "paired": paired_view, "steps": steps_view}
    return [view(load.measurements(root / name), load.runs(root / name)) for name, view in views.items()]


def body(text: str) -> list[str]:
    """Return the rows below the headings."""
    rows = text[text.rindex(r"\midrule") : text.rindex(r"\end{")].splitlines()
    return [row for row in rows if row.endswith(r"\\")]


def test_it_has_the_cells_of_markdown_in_booktabs_and_nothing_but_ascii(recorded):
    for each in recorded:
        text = write([each], "latex")
        assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
        assert len(body(text)) == len(each.cells)
        for row in body(text):
            columns = len(re.findall(r"(?<!\\)&", row)) + 1
            [spanned] = re.findall(r"\\multicolumn{(\d+)}", row) or [1]
            assert columns + int(spanned) - 1 == len(each.headings)
        comment, rest = text.split("\n", 1)
        assert comment.startswith("% \\usepackage{") and not re.search(r"(?<!\\)[%#_]", rest)
        assert text.isascii() and text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        assert escape(each.caption) in text and escape(each.title) in text
        assert all(escape(note.rstrip(".")) in text[text.index(r"\bottomrule") :] for note in each.below)


def test_escaping_keeps_every_sign_and_leaves_none_that_means_something():
    assert escape(r"50 % & a_b {x} #1 $5 ~ ^ \ <|> `") == (
        r"50 \% \& a\_\allowbreak{}b \{x\} \#1 \$5 \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{} \textasciigrave{}"
    )
    assert escape("1.5× ± ∞ – ≤") == r"1.5$\times$ $\pm$ $\infty$ \textendash{} $\leq$"
    assert escape("Å é e\u0301 ß") == r"\r{A} \'{e} \'{e} \ss{}"
    assert escape(EVIL).isascii() and escape(EVIL).isprintable()


def test_a_sign_that_the_usual_fonts_lack_is_given_by_its_number():
    assert escape("中 👍") == "[U+4E2D] [U+1F44D]"


def test_a_minus_is_one_and_hyphens_and_options_stay():
    assert escape("-1.5 to -.5, [-2, 3]") == "$-$1.5 to $-$.5, [$-$2, 3]"
    assert escape("speed-up 2026-11-02 vgg16-397923af 1e-05") == "speed-up 2026-11-02 vgg16-397923af 1e-05"
    assert escape("--runs") == "-{}-runs"


def test_a_bracket_or_star_that_opens_a_row_is_not_read_as_an_argument_of_the_line_before():
    text = write([table([("[A] x", "1", "2"), ("*", "1", "2")])], "latex")
    assert [row[:3] for row in body(text)] == ["{}[", "{}*"]


def test_a_table_stands_upright_where_it_fits_sideways_where_it_is_wide_and_over_pages_where_it_is_long():
    environments = {
        "narrow": ("graphicx", r"\begin{table}"),
        "wide": ("graphicx,rotating", r"\begin{sidewaystable}"),
        "long": ("longtable", r"\begin{longtable}"),
        "long-and-wide": ("longtable,pdflscape", r"\begin{landscape}"),
    }
    for name, (packages, opening) in environments.items():
        text = write([MADE[name]], "latex")
        assert text.startswith(f"% \\usepackage{{array,booktabs,{packages}}}\n") and opening in text
    assert r"\normalsize" in write([NARROW], "latex") and r"\endhead" in write([LONG], "latex")


def test_an_interval_is_not_broken_and_stays_with_its_mark():
    assert "1.23$\\times$ [1.20,~1.26]~[1] &" in write([WIDE], "latex")


def test_tables_of_two_folders_have_labels_that_differ(tmp_path, capsys):
    for name in ("H100 (new)", "h200"):
        write_fake_steps(tmp_path / name)
        assert tables.main([str(tmp_path / name), "--table", "steps", "--format", "latex", "--allow-dirty"]) == 0
    assert re.findall(r"\\label{(.*?)}", capsys.readouterr().out) == ["tab:steps-h100-new", "tab:steps-h200"]


def compiled(text: str, folder, engine: str = "pdflatex") -> str:
    """Return the log of a document of a table, with the packages that its comments name and no other."""
    packages = re.findall(r"^% (\\usepackage.*)$", text, re.MULTILINE)
    lines = [r"\documentclass{article}", *packages, r"\begin{document}", r"\listoftables", text, r"\end{document}"]
    (folder / "paper.tex").write_text("\n".join(lines), encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
        log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace").replace("\n", " ")
        if re.search(r"File `\S+' not found", log):
            pytest.skip(f"{engine} lacks a package; on Debian: apt-get install texlive-latex-recommended")
        assert done.returncode == 0, log[-2000:]
    return log


@pytest.mark.slow
@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex; on Debian: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("name", ["recorded", *MADE])
def test_pdflatex_takes_it_and_nothing_is_wider_or_higher_than_its_page(recorded, tmp_path, name):
    log = compiled(write(recorded if name == "recorded" else [MADE[name]], "latex"), tmp_path)
    # Names without a place to break may stand out of a list of tables, or of a caption.
    wide = [] if name in ("evil", "unbroken") else re.findall(r"Overfull \\hbox \([^)]*\)", log)
    assert wide == [] and "Float too large" not in log and "Missing character" not in log
    assert "multiply defined" not in log
