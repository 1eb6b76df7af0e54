"""``--help`` shows every setting of every file, with words that say its unit or range."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass

import pytest
from omegaconf import OmegaConf

from experiments.building import _find
from experiments.entry import CONF
from experiments.help import GROUPS
from svg import backends


def keys(file):
    return [key for key in OmegaConf.to_container(OmegaConf.load(file)) if key not in ("_target_", "defaults", "hydra")]


def nested(file):
    """Return the settings below those at the top of a command's own file."""
    content = OmegaConf.to_container(OmegaConf.load(file))
    return [f"{key}.{name}" for key in keys(file) if isinstance(content[key], dict) for name in content[key]]


@pytest.mark.parametrize(
    "command", ["compare", "generate", "plan", "capture", "replay", "head_patterns", "video_latency"]
)
def test_help_shows_every_setting_with_words_and_runs_nothing(call, command):
    status, out, err = call("--help", command=command)
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: python -m experiments.{command}")
    flat = " ".join(out.split())
    shown = {f"{group}.{key}" for group in GROUPS for file in (CONF / group).glob("*.yaml") for key in keys(file)}
    shown |= set(keys(CONF / "config.yaml"))
    own = {"plan": ["plan"], "video_latency": ["step_latency", "video_latency"]}
    for name in own.get(command, [command]):
        file = CONF / f"{name}.yaml"
        shown |= {*keys(file), *nested(file)} if file.exists() else set()
    for name in shown:
        assert re.search(rf"(?<![\w.]){re.escape(name)}(=\S.*?)? [\w$]", flat), name
    for file in CONF.glob("*/*.yaml"):
        assert file.stem in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_settings_file_says_what_it_is_and_what_each_value_means(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    if file.parent.name in ("experiment", "case", "embedded", "launcher"):
        assert lines[0] == "# @package _global_" and lines[1].startswith("# ")
        return
    for key in keys(file):
        [line] = [line for line in lines if line.startswith(f"{key}:")]
        assert "  # " in line, f"{file.name}: {key} has no words"


@pytest.mark.parametrize("file", sorted((CONF / "method").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_field_of_a_method_is_in_its_file(file):
    settings = OmegaConf.load(file)
    method_class = _find(settings["_target_"])
    assert is_dataclass(method_class)
    assert {field.name for field in fields(method_class)} == set(keys(file))


@pytest.mark.parametrize("name", backends.names())
def test_every_setting_of_a_backend_is_in_its_file(name):
    expected = {field.name for field in fields(type(backends.get(name))) if field.init} | {"name"}
    assert set(keys(CONF / "backend" / f"{name}.yaml")) == expected
