"""A folder with a tiny random pipeline, and the ways to compose settings and to call a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments import (
    capture,
    compare,
    generate,
    head_patterns,
    plan,
    planning,
    publish,
    rates,
    replay,
    rows,
    schema,
    step_latency,
    video_latency,
)
from experiments.entry import CONF, typed
from tests.tiny_pipelines import tiny_wan_pipeline


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Let no other load on the machine that runs the tests make the times of a run of a second unavailable."""
    monkeypatch.setattr(rows, "MOST_APART", 100.0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """The folder of a random WanPipeline."""
    folder = tmp_path_factory.mktemp("model") / "wan"
    tiny_wan_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def small(model_folder, tmp_path) -> list[str]:
    """Settings under which a run takes a second: 18 tokens, 3 steps, records in a fresh folder."""
    return [
        f"model.path={model_folder}",
        "model.height=32",
        "model.width=48",
        "model.num_frames=9",
        "model.num_inference_steps=3",
        "model.max_sequence_length=16",
        "quality.metrics=[psnr,ssim]",
        "device=cpu",
        "threads=1",
        f"runs_dir={tmp_path / 'runs'}",
    ]


@pytest.fixture
def sparse(small) -> list[str]:
    """``small`` for methods that have tiles."""
    return [*small, "method.sparsity=0.7", "method.block_size=2"]


def composed(
    *overrides: str, config_name: str = "config", settings: type[schema.Config] = schema.Config
) -> schema.Config:
    """Return the checked settings of a command line."""
    schema.register(settings)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose(config_name, overrides=list(overrides)))


def planned(*overrides: str, method: str = "svg", is_sweep: bool = False) -> planning.Plan:
    """Return the plan of a command line."""
    names = planning.Names("tiny_wan", method, list(overrides), None, is_sweep)
    return planning.check(composed(f"method={method}", *overrides), names)


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Call a command in this process; returns its exit status, standard output and standard error."""

    def run(*arguments: str, command: str = "compare") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [command, *arguments])
        status = 0
        try:
            commands = {
                "capture": capture,
                "compare": compare,
                "generate": generate,
                "head_patterns": head_patterns,
                "plan": plan,
                "publish": publish,
                "replay": replay,
                "rates": rates,
                "step_latency": step_latency,
                "video_latency": video_latency,
            }
            commands[command].main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
