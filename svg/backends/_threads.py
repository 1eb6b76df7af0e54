"""Jobs on as many threads as PyTorch may use, each job on one: many small operations then wait for nobody.

PyTorch's own threads meet after every operation. Where operations take 50 microseconds that costs more than it saves,
and on a machine with other work it is many times slower.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


def run_jobs(jobs: Sequence[Callable[[], None]]) -> None:
    """Run every job, on up to ``torch.get_num_threads()`` threads; raise the first job's error there is.

    The outcome does not depend on the number of threads, if the jobs write to separate places.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(jobs) == 1:
        for job in jobs:
            job()
        return
    # Both modes belong to a thread.
    is_inference, wants_gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(job: Callable[[], None]) -> None:
        with torch.inference_mode(is_inference), torch.set_grad_enabled(wants_gradients and not is_inference):
            job()

    for future in [_pool(num_threads).submit(run, job) for job in jobs]:
        future.result()


@lru_cache(maxsize=1)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads have one PyTorch thread each."""
    everyone_is_here = threading.Barrier(num_threads + 1)

    def take_one_thread() -> None:
        # The first look at the number sets it from the process; only then can the thread have its own.
        torch.get_num_threads()
        torch.set_num_threads(1)
        everyone_is_here.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="attention")
    for _ in range(num_threads):
        pool.submit(take_one_thread)
    everyone_is_here.wait()
    # The number that threads yet to come start from is the last one set.
    torch.set_num_threads(num_threads)
    return pool


# Threads do not survive a fork: a child process makes its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
