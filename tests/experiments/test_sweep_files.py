"""Every sweep of ``conf/experiment`` expands to jobs that the embedded model takes, and a dry run says so once."""

from __future__ import annotations

from math import prod

import pytest
from omegaconf import OmegaConf

from experiments.entry import CONF

EVERY = {
    file.stem: OmegaConf.load(file).hydra.sweeper.params
    for file in sorted((CONF / "experiment").glob("*.yaml"))
    if "hydra" in OmegaConf.load(file)
}
# One that goes over the embedded models takes no other; one of layers in FP8 needs torchao (`test_fp8_linear`).
SWEEPS = {
    name: params
    for name, params in EVERY.items()
    if "embedded" not in params and "model.linear_precision" not in params
}


def test_the_sweeps_that_a_study_needs_are_there():
    needed = "sparsity sampled_rows first_times_fp first_layers_fp grid sink profile_mask row_range rounding"
    needed += " assignment layout_transform dense_backend seeds"
    assert set(needed.split()) <= set(SWEEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_of_every_sweep_is_planned_on_the_embedded_model(call, tmp_path, name):
    line = (
        "-m",
        f"experiment={name}",
        "model=tiny_wan",
        "prompts=smoke",
        "dry_run=true",
        f"runs_dir={tmp_path / 'runs'}",
    )
    status, out, err = call(*line)
    assert (status, err) == (0, "")
    # The command line names the model in place of the file's.
    jobs = prod(len(str(values).split(",")) for key, values in SWEEPS[name].items() if key != "model")
    assert out.count("to make; 1 sparse") == jobs
    assert "refused" not in out and "the same as another" not in out
    assert f"{jobs} runs, {jobs} to make: " in out
    assert not (tmp_path / "runs").exists()


def test_a_plus_before_an_experiment_is_taken_too(call, tmp_path):
    status, out, err = call("-m", "+experiment=rounding", "dry_run=true", f"runs_dir={tmp_path / 'runs'}")
    assert (status, err) == (0, "") and "4 runs, 4 to make" in out
