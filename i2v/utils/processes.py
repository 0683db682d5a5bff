"""Worker processes: as many as the memory allows, and an error if one dies.

Nothing heavy is imported here, because every worker would import it again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# Memory limit of a container or Slurm job.
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Share of the memory for workers; the rest is left to the system and the main process.
_SHARE = 0.8


class WorkerDiedError(RuntimeError):
    """A worker process ended without a result."""


def available_memory() -> int | None:
    """Memory that new processes can use, in bytes; None if unknown."""
    known = []
    if _MEMINFO.is_file():
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            known.append(1024 * int(fields["MemAvailable"].split()[0]))
    elif hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():  # macOS: all memory
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if _CGROUP_LIMIT.is_file() and (limit := _CGROUP_LIMIT.read_text().strip()).isdecimal():
        known.append(int(limit))
    return min(known, default=None)


def default_workers(memory: int) -> int:
    """Default number of workers: one per core, but at most as many as fit into the memory, and at least one.

    Args:
        memory (int): memory that a worker needs, in bytes.
    """
    cores, available = os.cpu_count() or 1, available_memory()
    return cores if available is None else max(min(cores, int(_SHARE * available / memory)), 1)


@contextmanager
def worker_pool(num_workers: int, option: str, start: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Run worker processes during the block, which after an error or Ctrl-C does not wait for work in progress.

    Args:
        num_workers (int): number of processes.
        option (str): command-line option that sets this number, for the message.
        start (Callable[[], None] or None): function to call in every worker, from the top level of a module.

    Yields:
        The pool.

    Raises:
        WorkerDiedError: a worker died, and the block asked for a result.
    """
    # A forked process would inherit the threads of OpenCV and FFmpeg in an undefined state; a spawned one starts clean.
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), partial(start_worker, start))
    with pool, children_end_at_errors():
        try:
            yield pool
        except BrokenExecutor as error:
            raise worker_died(option) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def worker_died(option: str) -> WorkerDiedError:
    """The error for a worker that died.

    Args:
        option (str): command-line option that sets the number of workers.
    """
    return WorkerDiedError(f"a worker process died, probably because memory ran out: give a lower {option}")


@contextmanager
def children_end_at_errors() -> Iterator[None]:
    """If the block ends with an error, terminate the processes that it started instead of letting them finish."""
    others = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise


def start_worker(start: Callable[[], None] | None = None) -> None:
    """Initialise a worker process: it ends with the main process, even if that is killed, and leaves Ctrl-C to it.

    Args:
        start (Callable[[], None] or None): function to call at the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if start is not None:
        start()


def end_with_parent() -> None:
    """End this process with its parent, even if that is killed; otherwise it would wait for its queue forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
