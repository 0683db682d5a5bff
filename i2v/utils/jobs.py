"""Independent jobs in worker processes, with a progress bar and a report of those that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from typing import Any

import cv2
from tqdm import tqdm

from i2v.utils.command_line import one_line
from i2v.utils.processes import worker_pool

log = logging.getLogger(__name__)


def run_jobs(function: Callable[..., object], jobs: Mapping[Any, tuple[Any, ...]], num_workers: int) -> int:
    """Call a function once per video in worker processes, and log at the end which calls failed and why.

    Args:
        function (Callable[..., object]): a function at the top level of a module; its result is ignored.
        jobs (Mapping[Any, tuple[Any, ...]]): arguments of each call by what it is about, such as the path of a video, which
            messages name.
        num_workers (int): number of processes, the value of `--workers`.

    Returns:
        Number of calls that failed (int).

    Raises:
        WorkerDiedError: a worker process died.
    """
    failures = []
    with worker_pool(num_workers, "--workers") as pool:
        futures = {pool.submit(function, *arguments): name for name, arguments in jobs.items()}
        for future in tqdm(as_completed(futures), total=len(futures), unit="video"):
            try:
                future.result()
            except (ValueError, OSError, cv2.error) as error:
                failures.append(f"{futures[future]}: {one_line(error)}")
    for failure in sorted(failures):
        log.error("%s", failure)
    return len(failures)
