"""Every settings file composes, every method and backend of it can be built, and no misspelt key gets through."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from hydra.errors import HydraException

import svg
from experiments import prompting
from experiments.building import build_backend, build_method
from experiments.entry import CONF, one_line
from svg import backends
from tests.experiments.conftest import composed

GROUPS = ("model", "method", "backend", "prompts", "quality", "statistics", "tracking")
FILES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
OVERLAYS = [
    (group, file.stem)
    for group in ("experiment", "case", "embedded", "launcher")
    for file in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), FILES, ids=lambda word: word)
def test_every_choice_of_every_group_composes_and_builds(group, name):
    config = composed(f"{group}={name}")
    build_method(config.method, config.model.method_defaults, config.model.upstream)
    build_backend(config.backend, "cpu")
    prompting.load(config.prompts)


@pytest.mark.parametrize(
    ("device_type", "capability", "moves", "name"),
    [
        ("cpu", None, True, "cpu_gather"),
        ("cpu", None, False, "cpu_gather"),
        ("cuda", (9, 0), True, "triton_block_sparse"),
        ("cuda", (9, 0), False, "flex"),
        ("cuda", (7, 5), True, "flex"),
    ],
)
def test_the_backend_called_auto_computes_a_methods_plans_on_every_device(
    monkeypatch, device_type, capability, moves, name
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    method = svg.SparseVideoGen(density=0.5, layout_transform=moves)
    assert build_backend({"name": "auto"}, device_type, method).name == name


@pytest.mark.parametrize(("group", "name"), OVERLAYS, ids=lambda word: word)
def test_every_experiment_and_case_composes_and_builds(group, name):
    if name == "slurm" and find_spec("submitit") is None:
        pytest.skip("Slurm's launcher is not installed; `make setup-cluster` adds it, and a slow test composes this")
    config = composed(f"{group}={name}")
    build_method(config.method, config.model.method_defaults, config.model.upstream)


@pytest.mark.slow
def test_every_method_takes_every_models_defaults():
    models = [composed(f"model={name}").model for group, name in FILES if group == "model"]
    methods = [composed(f"method={name}").method for group, name in FILES if group == "method" and name != "dense"]
    for model in models:
        for method in methods:
            built = build_method(method, model.method_defaults, model.upstream)
            assert built.density_requested == model.method_defaults["sparsity"]


def test_every_backend_has_a_settings_file():
    assert {file.stem for file in (CONF / "backend").glob("*.yaml")} == {"auto", *backends.names()}


def test_a_setting_of_the_method_wins_over_the_models_default():
    config = composed("model=wan_t2v_14b", "method.first_times_fp=0", "method.density=0.4")
    method = build_method(config.method, config.model.method_defaults, config.model.upstream)
    assert (method.first_times_fp, method.first_layers_fp) == (0, 0.03)
    assert (method.sparsity, method.density) == (None, 0.4)


@pytest.mark.parametrize(
    ("yaml", "key"),
    [
        ("model: {num_inference_step: 3}", "model.num_inference_step"),
        ("method: {num_sampled_row: 3}", "method.num_sampled_row"),
        ("backend: {blocks: 3}", "backend.blocks"),
        ("quality: {metric: [psnr]}", "quality.metric"),
        ("sed: 3", "sed"),
        ("model: {method_defaults: {sparsty: 0.3}}", "sparsty"),
        ("model: {upstream: {snik: none}}", "snik"),
    ],
)
def test_a_misspelt_key_in_a_yaml_is_refused_by_name(tmp_path, yaml, key):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "wrong.yaml").write_text(f"# @package _global_\n{yaml}\n")
    with pytest.raises((HydraException, ValueError)) as refusal:
        config = composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=wrong")
        build_method(config.method, config.model.method_defaults, config.model.upstream)
        build_backend(config.backend, "cpu")
    assert key in one_line(refusal.value)
    assert "\n" not in one_line(refusal.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.num_inference_steps=0", "model.num_inference_steps is 0; it must be at least 1"),
        ("model.fps=0", "model.fps is 0"),
        ("model.dtype=int8", "model.dtype is 'int8'; it must be one of float32"),
        ("model.linear_precision=fp4", "model.linear_precision is 'fp4'; it must be one of bf16, fp8"),
        ("seeds=[1,1]", "seeds is [1, 1]"),
        ("seeds=[]", "seeds is empty"),
        ("threads=0", "threads is 0"),
        ("statistics.layers_apart=0", "statistics.layers_apart is 0; it must be at least 1"),
        ("statistics.steps_apart=-1", "statistics.steps_apart is -1; it must be at least 1"),
        ("statistics.num_rows=0", "statistics.num_rows is 0; it must be at least 1"),
        ("tracking.mode=sometimes", "tracking.mode is 'sometimes'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(override, words):
    with pytest.raises(ValueError) as refusal:
        composed(override)
    assert words in one_line(refusal.value)


def test_one_seed_at_the_top_reaches_the_list_of_seeds():
    assert composed("seed=7").seeds == [7]
