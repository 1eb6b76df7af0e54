"""A sweep of Weights & Biases makes the same runs as the sweep of ours that it is made from."""

from __future__ import annotations

from itertools import product

import pytest
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from experiments import wandb_sweep
from experiments.entry import CONF
from tests.experiments.test_sweep_files import EVERY

COUNTS = {name: [len(str(values).split(",")) for values in params.values()] for name, params in EVERY.items()}
FULL_SIZE = ("svg_table1", "svg2_table2", "svg_layout", "svg_attention_share", "fp8_linear")


def jobs(sweep):
    """Return the command lines that an agent runs for a grid, made by wandb's own code."""
    swept = sweep["parameters"]
    for values in product(*(swept[key]["values"] for key in swept)):
        arguments = {key: {"value": value} for key, value in zip(swept, values, strict=True)}
        flags = create_sweep_command_args({"args": arguments})["args_no_hyphens"]
        yield [*sweep["command"][4:-1], *flags]


@pytest.mark.parametrize("name", EVERY)
def test_every_sweep_becomes_a_grid_of_the_same_values(name, capsys):
    assert wandb_sweep.main([name]) == 0
    printed = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert {key: len(found["values"]) for key, found in printed["parameters"].items()} == dict(
        zip(EVERY[name], COUNTS[name], strict=True)
    )
    assert printed["description"] and printed["method"] == "grid"
    # Those of full-size models alone are of timed steps.
    verb = "step_latency" if name.startswith(FULL_SIZE) and not name.endswith("_tiny") else "compare"
    assert printed["command"][:4] == ["${env}", "${interpreter}", "-m", f"experiments.{verb}"]
    assert printed["program"] == f"experiments/{verb}.py"


@pytest.mark.slow
def test_an_agents_job_is_one_run_of_the_sweep_and_not_the_sweep(call, tmp_path):
    fixed = ["tracking.mode=offline", "dry_run=true", f"runs_dir={tmp_path / 'runs'}"]
    lines = list(jobs(wandb_sweep.sweep_of("layout_transform", ["model=tiny_wan", "seed=0,1"])))
    assert (
        len(lines) == 4
        and "model=tiny_wan" in lines[0]
        and lines[-1][-2:] == ["method.layout_transform=False", "seed=1"]
    )
    status, out, err = call(*lines[-1], *fixed)
    assert (status, err) == (0, "") and out.count(": to make; 1 sparse and 1 dense") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such"], "experiment=no_such is not in conf/experiment; known are ablation,"),
        (["seed_wan_t2v"], "experiment=seed_wan_t2v has one value of each setting"),
        (["sparsity", "seed"], "write SETTING=VALUE"),
        (["sparsity", "method=glob(*)"], "method=glob(*) names no values here; write them out"),
    ],
)
def test_what_is_no_sweep_is_one_line(capsys, arguments, words):
    assert wandb_sweep.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and words in printed.err and printed.err.count("\n") == 1


def test_there_is_an_experiment_that_is_no_sweep():
    assert {file.stem for file in (CONF / "experiment").glob("*.yaml")} - set(EVERY)
