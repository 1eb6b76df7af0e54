"""Sweeps that other launchers run: Ray's workers and Slurm's jobs, the latter as processes of this machine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from analysis import load
from experiments import schema, sweeping
from experiments.entry import BUSY, CONF
from experiments.loading import PROJECT
from tests.experiments.counted_loads import FILE, loads_by_process


def needs(package):
    """Skip a test where the extra is not installed; `.ci/run` installs it before the slow tests."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: make setup-cluster")


@pytest.fixture
def watched(sparse, tmp_path, monkeypatch):
    """Return the settings of a sweep whose processes are told of, and the file that they write to."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(PROJECT), str(PROJECT / "kernels"))))
    monkeypatch.setenv(FILE, str(tmp_path / "loads"))
    few = ["quality.metrics=[psnr]", "statistics=off", "dense_backend=sdpa"]
    return [*sparse, *few, "method._target_=tests.experiments.counted_loads.CountedLoads"], tmp_path / "loads"


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs("ray")
def test_eight_jobs_on_two_workers_of_ray_are_made_once_each_and_load_the_model_once_a_worker(
    watched, tmp_path, call, monkeypatch
):
    import ray

    settings, file = watched
    # Else Ray leaves a token in the home directory.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    line = ["-m", "hydra/launcher=ray", "hydra.launcher.num_workers=2", *settings]
    line += ["+hydra.launcher.init={num_cpus: 2, include_dashboard: false, logging_level: error, log_to_driver: false}"]
    try:
        file.with_suffix(".kill").touch()
        status, out, err = call(*line, "method.sparsity=0.02,0.9,0.6,0.65,0.7,0.75,0.8,0.85")
        assert status == 2 and "8 to make" in out and "Traceback" not in err
        # Neither the refusal of one job nor the end of a worker stops the others, and each is said in a line.
        said = [line.split("method.sparsity=")[1] for line in err.splitlines() if line.startswith("error: ")]
        assert [line.split()[0] for line in said] == ["0.02", "0.9"]
        assert ": method.sparsity (the fraction kept" in said[0] and ": its Ray worker died: " in said[1]
        table = load.runs(tmp_path / "runs").set_index("config.method.sparsity")
        assert len(table) == 7 and dict(table["status"]).pop(0.02) == "failed"
        assert set(table["status"].drop(0.02)) == {"complete"}
        assert set(loads_by_process(file).values()) == {1} and len(loads_by_process(file)) <= 3
        assert str(os.getpid()) not in loads_by_process(file)
        greedy = "hydra.launcher.worker={num_gpus: 3}"
        status, _, err = call(*line, greedy, "hydra.launcher.num_workers=null", "seed=2,3")
        assert status == 2 and "hydra.launcher.worker asks for 3 GPU a worker" in err
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs("submitit")
def test_jobs_of_submitit_write_to_the_same_folder_each_in_a_process_of_its_own(watched, tmp_path, call):
    settings, file = watched
    kept = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    values = ",".join(map(str, kept))
    status, out, err = call("-m", "hydra/launcher=submitit_local", *settings, f"method.sparsity={values}")
    assert (status, err) == (0, "") and "8 to make" in out
    table = load.runs(tmp_path / "runs")
    assert sorted(table["config.method.sparsity"]) == kept and set(table["status"]) == {"complete"}
    assert list(loads_by_process(file).values()) == [1] * 8


@pytest.mark.slow
@needs("submitit")
@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_launcher_of_a_cluster_gives_every_job_one_gpu(launcher):
    schema.register(schema.Config)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"launcher={launcher}"], return_hydra_config=True)
    settings = config.hydra.launcher
    asked = (settings.gpus_per_node, settings.tasks_per_node) if launcher == "slurm" else (settings.worker.num_gpus, 1)
    assert asked == (1, 1)


def test_a_launcher_that_is_not_installed_is_refused_with_what_adds_it(sparse, call, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = call("-m", "hydra/launcher=ray", *sparse)
    assert (status, err) == (2, "error: hydra/launcher is ray, which is not installed; `make setup-cluster` adds it\n")
    status, _, err = call("-m", "hydra/launcher=nobodys", *sparse)
    assert status == 2 and "hydra/launcher=nobodys is not installed; there are basic, joblib, ray" in err


def test_a_run_that_another_machine_writes_is_waited_for_by_the_name_that_it_has_there(monkeypatch, tmp_path):
    happened = []

    class Launcher:
        def launch(self, job_overrides, initial_job_idx):
            happened.append([overrides[0] for overrides in job_overrides])
            answer = f"{BUSY}there/run-0123abcd" if initial_job_idx == 0 else None
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=answer) for _ in job_overrides]

    # The machine that launches cannot tell what the run is called, and whether it is done.
    monkeypatch.setattr(sweeping, "plans", lambda *_, **__: iter([sweeping.Job(["seed=0"], None)]))
    monkeypatch.setattr(sweeping, "wait_for", happened.append)
    master = OmegaConf.create({"runs_dir": str(tmp_path), "hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}})
    assert len(sweeping.sweep(master, None, Launcher(), [["seed=0"]])) == 2
    assert happened == [["seed=0"], Path("there/run-0123abcd"), ["seed=0"]]
