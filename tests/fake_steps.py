"""Made-up records of single denoising steps, written through the real writer, for tests of whatever reads them."""

from __future__ import annotations

from pathlib import Path

from svg.results import Measurement, RunWriter
from tests.fake_runs import PROVENANCE

GPU = PROVENANCE | {"gpu": {"name": "Example GPU 80 GB", "driver": "1.2.3"}}
# Model, backend, dense and sparse seconds, tokens; None for the seconds of a step that failed.
STEPS = [
    ("hunyuan_video_t2v", "flex", 21.5, 11.25, 119056),
    ("cogvideox1_5_i2v", "flex", 7.5, 4.0, 45106),
    ("hunyuan_video_t2v", "another", None, None, 119056),
]


def write_fake_steps(runs_dir: str | Path) -> list[str]:
    """Write a record for each of ``STEPS`` below ``runs_dir``; return the run ids, that of the failed one last."""
    ids = []
    for model, backend, dense_s, sparse_s, seq_len in STEPS:
        ids.append(f"step-{model}-{backend}")
        try:
            with _writer(runs_dir, ids[-1], model, backend, seq_len) as run:
                if dense_s is None or sparse_s is None:
                    raise ValueError(f"a step of model={model} with backend={backend} failed: it has | no kernel")
                run.extend(_rows(dense_s, sparse_s))
        except ValueError:
            assert dense_s is None
    return ids


def _writer(runs_dir: str | Path, run_id: str, model: str, backend: str, seq_len: int) -> RunWriter:
    return RunWriter(
        runs_dir,
        run_id,
        model=model,
        method="svg",
        backend=backend,
        dense_backend="sdpa_cudnn",
        config={
            "weights": "random",
            "compile": model == "hunyuan_video_t2v",
            "model": {"name": model},
            "method": {"name": "svg", "sparsity": 0.25},
            "call": {"batch": 1, "num_heads": 24, "seq_len": seq_len, "head_dim": 128},
        },
        provenance=GPU,
        prompts=[],
        seeds=[0],
    )


def _rows(dense_s: float, sparse_s: float) -> list[Measurement]:
    def row(quantity: str, value: float | None, unit: str = "s", n: int = 3, **more) -> Measurement:
        return Measurement(quantity=quantity, unit=unit, value=value, n=n, seed=0, **more)

    unknown = {"status": "unavailable", "reason": "no peak rate is known of Example GPU 80 GB"}
    return [
        row("dense_step_s", dense_s),
        row("step_s", sparse_s),
        row("fixed_step_s", sparse_s - 0.5),
        row("phase_s", sparse_s / 2, protocol="attention"),
        row("speedup", dense_s / sparse_s, "1"),
        row("attention_speedup", 2.5, "1"),
        row("deciding_s", 0.5),
        row("density_executed", 0.24, "1", protocol="token"),
        row("density_executed", 0.25, "1", protocol="tile"),
        row("peak_memory_gib", 36.25, "GiB", 1),
        row("roofline_share", None, "1", 0, **unknown),
        row("dense_roofline_share", 0.4321, "1"),
        row("sm_clock_mhz", 1755.0, "MHz", 9),
    ]
