"""Figures from measurement rows."""

import matplotlib.figure
import pytest

from analysis import load
from analysis.figures import quality_over_density
from tests.fake_runs import write_fake_runs


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
