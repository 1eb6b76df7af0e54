"""Hydra's part of a sweep on Ray: workers with GPUs of their own, each of which keeps its model from job to job.

The hydra-ray-launcher of Hydra's authors does not install beside a joblib of today, whose cloudpickle is newer than it
allows, and starts each job as a task of its own, after which Ray ends a process that held a GPU.
"""

import importlib.util
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

# Ray's names of what a cluster has, by the options that ask for it.
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU"}


class RayLauncher(Launcher):
    """Starts the jobs of a sweep on Ray: as many at once as there are workers, the next one where one has ended.

    Args:
        init: Of ``ray.init``; without an address it begins a Ray of its own on this machine.
        worker: What a worker is given, as options of a Ray actor: ``num_cpus``, ``num_gpus``, ``resources``.
        num_workers: How many there are, from 1; None: as many as the cluster has room for.
    """

    def __init__(self, init: Mapping[str, Any], worker: Mapping[str, Any], num_workers: int | None) -> None:
        self.init, self.worker, self.num_workers = _plain(init), _plain(worker), num_workers

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Take what every job is made of.

        Raises:
            ValueError: If Ray is not installed, or a setting is out of its range.
        """
        if importlib.util.find_spec("ray") is None:
            raise ValueError("hydra/launcher is ray, which is not installed; `make setup-cluster` adds it")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"hydra.launcher.num_workers is {self.num_workers}; it must be at least 1, or null")
        self.job = (hydra_context, config, task_function)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs and return what became of each, in their order.

        Raises:
            ValueError: If the cluster has no room for one worker.
            ChildProcessError: If a worker cannot begin.
        """
        import ray

        # Nothing is reported to Ray's authors unasked, and every run's line is shown.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        ray.init(ignore_reinit_error=True, **self.init)
        count = self.num_workers or self._room(ray.cluster_resources())
        kind = ray.remote(**self.worker)(_Worker)
        workers: list[Any] = []
        waiting = deque(enumerate(job_overrides))
        returned: dict[int, JobReturn] = {}
        # What each worker is asked for: a job, by its index, or None: to say that it has been placed.
        running: dict[Any, tuple[Any, int | None]] = {}

        def begin() -> None:
            workers.append(kind.remote(*self.job, Singleton.get_state()))
            running[workers[-1].ready.remote()] = workers[-1], None

        for _ in range(min(count, len(job_overrides))):
            begin()
        while len(returned) < len(job_overrides):
            [ended], _ = ray.wait(list(running), num_returns=1)
            worker, index = running.pop(ended)
            try:
                answer = ray.get(ended)
            except ray.exceptions.RayActorError as error:
                if index is None:
                    raise ChildProcessError(f"a worker of Ray cannot begin: {_line(error)}") from error
                returned[index] = _died(job_overrides[index], error)
                if waiting:
                    begin()
                continue
            if index is not None:
                returned[index] = answer
            if waiting:
                index, overrides = waiting.popleft()
                running[worker.run.remote(initial_job_idx + index, list(overrides))] = worker, index
        for worker in workers:
            ray.kill(worker)
        return [returned[index] for index in range(len(job_overrides))]

    def _room(self, total: Mapping[str, float]) -> int:
        """Return how many workers a cluster of these resources has room for."""
        asked = {RESOURCES[name]: amount for name, amount in self.worker.items() if name in RESOURCES and amount}
        asked |= self.worker.get("resources") or {}
        short = next((name for name, amount in asked.items() if total.get(name, 0) < amount), None)
        if short is not None:
            raise ValueError(
                f"hydra.launcher.worker asks for {asked[short]:g} {short} a worker, and all of the Ray cluster has "
                f"{total.get(short, 0):g}; ask for less, or give hydra.launcher.num_workers to wait for more"
            )
        return min((int(total[name] // amount) for name, amount in asked.items()), default=1)


class _Worker:
    """A process of Ray that runs one job after another, and so keeps the model that the last one loaded."""

    def __init__(self, hydra_context: Any, config: Any, task_function: Any, singletons: Any) -> None:
        self.job = hydra_context, config, task_function, singletons

    def ready(self) -> None:
        """Return once this worker has been placed."""

    def run(self, index: int, overrides: Sequence[str]) -> JobReturn:
        """Run a job of the sweep, as a worker of joblib does."""
        from hydra_plugins.hydra_joblib_launcher._core import execute_job

        return execute_job(index, overrides, *self.job)


def _died(overrides: Sequence[str], error: Exception) -> JobReturn:
    """Return what became of a job whose process ended in its midst."""
    returned = JobReturn(overrides=filter_overrides(overrides), status=JobStatus.FAILED)
    returned.return_value = ChildProcessError(f"its Ray worker died: {_line(error)}")
    return returned


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _plain(settings: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(settings, resolve=True) if OmegaConf.is_config(settings) else dict(settings)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


@dataclass
class RayLauncherConf:
    """Settings of the launcher."""

    _target_: str = "hydra_plugins.svg_bench.ray_launcher.RayLauncher"
    init: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "num_gpus": 0})
    num_workers: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayLauncherConf, provider="svg_bench")
