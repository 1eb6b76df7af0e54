"""Figures from measurement rows."""

import matplotlib.figure
import pytest

from analysis import load
from analysis.figures import head_atlas, quality_over_density
from svg.results import Measurement, RunWriter
from tests.fake_runs import PROVENANCE, write_fake_runs


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_fake_runs(root)
    return load.measurements(root), load.runs(root)


def test_the_figure_shows_every_method_with_a_finite_quality(fake, tmp_path, monkeypatch):
    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    paths = quality_over_density(*fake, tmp_path / "figures" / "quality")
    assert [path.name for path in paths] == ["quality.png", "quality.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    axes = drawn[0].axes[0]
    # Dense is identical to itself: infinite, so no point.
    assert set(axes.get_legend_handles_labels()[1]) == {"svg", "one_pattern", "random_blocks"}
    line = next(container for container in axes.containers if container.get_label() == "svg").lines[0]
    assert line.get_xdata() == pytest.approx([0.168, 0.28, 0.56])
    assert all(20 < value < 40 for value in line.get_ydata())


def test_equal_records_make_equal_figures(fake, tmp_path):
    first, second = (quality_over_density(*fake, tmp_path / name, suffixes=[".pdf", ".png"]) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_quality_that_nobody_measured_is_refused(fake, tmp_path):
    with pytest.raises(ValueError, match="quantity=lpips_alex, protocol=standard: no run"):
        quality_over_density(*fake, tmp_path / "x", quantity="lpips_alex")
    assert list(tmp_path.iterdir()) == []


def test_the_atlas_has_a_panel_per_quantity_and_means_over_steps_and_branches(tmp_path, monkeypatch):
    names = {"model": "m", "method": "svg", "backend": "cpu_gather", "dense_backend": "sdpa"}
    facts = {"config": {"seed": 0}, "provenance": PROVENANCE, "prompts": [], "seeds": [0]}
    with RunWriter(tmp_path / "runs", "one", **names, **facts) as run:
        for step, branch, value in ((0, "cond", 0.25), (0, "uncond", 0.75), (3, "cond", 1.0), (3, "uncond", 0.0)):
            for head in range(3):
                place = {"layer": 2, "head": head, "step": step, "branch": branch, "unit": "1"}
                run.add(Measurement(quantity="head_entropy", value=value / (head + 1), **place))
                run.add(Measurement(quantity="head_margin", value=0.5, **place))
        place = {"layer": 0, "head": 1, "step": 0, "branch": "cond", "unit": "pattern"}
        run.add(Measurement(quantity="head_choice", value=1.0, **place))
    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    rows = load.measurements(tmp_path / "runs")
    paths = head_atlas(rows, "one", tmp_path / "atlas")
    assert [path.name for path in paths] == ["atlas.png", "atlas.pdf"]
    panels = {axes.get_title(): axes.images[0].get_array() for axes in drawn[0].axes if axes.images}
    assert list(panels) == ["temporal choices", "margin of the choice", "entropy"]
    entropy, choices = panels["entropy"], panels["temporal choices"]
    assert entropy.shape == choices.shape == (3, 3)
    assert entropy[2].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 6])
    # What was not measured is masked, not zero.
    assert entropy.mask[:2].all() and choices.mask.sum() == 8
    assert choices[0, 1] == 1
    head_atlas(rows, "one", tmp_path / "steps", across="step", suffixes=[".png"])
    entropy = next(axes.images[0].get_array() for axes in drawn[-1].axes if axes.get_title() == "entropy")
    assert entropy.shape == (3, 4)
    assert entropy[2, [0, 3]].tolist() == pytest.approx([(1 + 1 / 2 + 1 / 3) / 6] * 2)
    assert entropy.mask[2, [1, 2]].all()


def test_an_atlas_of_a_run_without_heads_is_refused(fake, tmp_path):
    with pytest.raises(
        ValueError, match="run_id=random_blocks-0.25: no run of this name .* has a number for head_choice"
    ):
        head_atlas(fake[0], "random_blocks-0.25", tmp_path / "atlas")
    assert list(tmp_path.iterdir()) == []
