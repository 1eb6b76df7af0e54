"""Every method of ``conf/method`` runs through the whole command on a tiny model."""

from __future__ import annotations

import pytest

from analysis import load
from experiments import runner
from experiments.entry import CONF
from svg.results import read_run
from tests.experiments.conftest import planned


@pytest.mark.slow
@pytest.mark.parametrize("method", [file.stem for file in sorted((CONF / "method").glob("*.yaml"))])
def test_every_method_runs_and_records_its_density(small, method):
    tiles = [] if method == "dense" else ["method.sparsity=0.7", "method.block_size=2"]
    path = runner.run(planned(*small, *tiles, method=method))
    assert read_run(path).status == "complete"
    rows = load.measurements(path.parent)
    executed = rows[(rows["quantity"] == "density_executed") & (rows["protocol"] == "tile")]["value"].item()
    # The reference code's width is rounded up to 128 tokens, more than this model has.
    assert executed == 1 if method in ("dense", "svg_upstream") else 0.5 < executed <= 0.7
    assert rows[(rows["quantity"] == "fallbacks")]["value"].item() == 0
