"""Several independent computations at once, in processes of one thread each."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection
from typing import Any

import torch
from tqdm import tqdm


def run_each(function: Callable[..., None], jobs: Sequence[dict[str, Any]], what: str) -> None:
    """Call `function(**job)` for each job, one process a core; what they compute they leave in the cache.

    On small models this is faster than one process with all the cores, since none waits for the others. Raises what
    the first job to fail raises.
    """
    workers = min(len(jobs), torch.get_num_threads())
    context = multiprocessing.get_context("spawn")  # a fork would inherit the parent's threads half-way
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(function, **job) for job in jobs]
        for future in tqdm(as_completed(futures), desc=what, total=len(jobs), mininterval=5):
            future.result()


def _end_with_parent() -> None:
    """A killed notebook must not leave workers behind."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
