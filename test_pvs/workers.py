"""Evaluates the videos of a run: one worker per device, in this process or in processes of their own."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import shutil
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import cv2
import torch
from tqdm import tqdm

from i2v.utils.command_line import one_line
from i2v.utils.files import whole_folder
from i2v.utils.processes import children_end_at_errors, start_worker, worker_died
from test_pvs.datasets import EvaluationVideo
from test_pvs.runs import MASKS, VIDEO_RESULT, LockedError, OutputFolder, Run, read_result, video_lock
from test_pvs.systems import VideoSystem, build_system

log = logging.getLogger("test_pvs.runner")


def evaluate_all(run: Run, output: OutputFolder, todo: deque[EvaluationVideo], devices: Sequence[str]) -> dict[str, str]:
    """Evaluate videos, each on the device that is free first. The output folder is claimed once a system is built.

    Args:
        run (Run): what to evaluate.
        output (OutputFolder): output folder of the run.
        todo (deque[EvaluationVideo]): videos to evaluate; it is emptied.
        devices (Sequence[str]): one worker for each.

    Returns:
        The tracebacks of the videos that failed, by name.
    """
    failures: dict[str, str] = {}
    with _workers(run, devices[: len(todo)]) as workers, tqdm(total=len(todo), unit="video") as progress:
        # An error of the system concerns every video: the system is built first, and an error ends the run.
        running: dict[Future[str | None], tuple[_Worker, EvaluationVideo | None]]
        running = {worker.build_system(): (worker, None) for worker in workers}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, video = running.pop(future)
                error = worker.error_of(future)
                if video is None:
                    if error is not None:
                        raise error
                    output.claim()
                else:
                    failure = future.result() if error is None else "".join(traceback.format_exception(error))
                    if failure is not None:
                        failures[video.name] = failure
                    progress.update()
                if todo:
                    video = todo.popleft()
                    running[worker.evaluate(video)] = (worker, video)
    return dict(sorted(failures.items()))


@contextmanager
def _workers(run: Run, devices: Sequence[str]) -> Iterator[list[_Worker]]:
    """Make a worker for each device.

    After Ctrl-C or an error, the block does not wait for videos in progress, which a later run evaluates from the start.
    """
    threads = max((os.cpu_count() or 1) // len(devices), 1)
    runs = [replace(run, system=replace(run.system, device=device)) for device in devices]
    workers: list[_Worker] = [_LocalWorker(runs[0])] if len(runs) == 1 else [_ProcessWorker(each, threads) for each in runs]
    try:
        with children_end_at_errors():
            yield workers
    finally:
        for worker in workers:
            worker.shut_down()


class _Evaluator:
    """Evaluates videos with a system, which is built when it is first used and lives as long as this object.

    Args:
        run (Run): what to evaluate, with the device of this worker.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def system(self) -> VideoSystem:
        """The system."""
        return build_system(self._run.system)

    def build_system(self) -> None:
        """Build the system, so that its errors show."""
        _ = self.system

    def evaluate(self, video: EvaluationVideo) -> str | None:
        """Evaluate a video, and return None, or the traceback of an error. A video that another process has is skipped."""
        try:
            with video_lock(self._run.output, video.name):
                self._evaluate(video)
            return None
        except LockedError as error:
            log.warning("skipped: %s", one_line(error))
            return None
        except Exception:  # noqa: BLE001 # the other videos are evaluated nevertheless
            text = traceback.format_exc()
        # The error is gone, and what its frames held: after running out of memory the next video needs all of it.
        gc.collect()
        with suppress(RuntimeError):  # CUDA may be beyond repair; the text has the cause
            torch.cuda.empty_cache()
        return text

    def _evaluate(self, video: EvaluationVideo) -> None:
        target = self._run.output / MASKS / video.name
        if read_result(target) is not None:  # by another run, before this one claimed the folder
            return
        video.require_complete()
        if target.exists():  # masks without their result
            shutil.rmtree(target)
        with whole_folder(target) as folder:
            result = self._run.protocol(self.system, video, self._run.options, folder)
            (folder / VIDEO_RESULT).write_text(json.dumps(result))


class _Worker(ABC):
    """Does the work of one device."""

    def build_system(self) -> Future[str | None]:
        """Build the system; the result is None."""
        return self._submit(_Evaluator.build_system)

    def evaluate(self, video: EvaluationVideo) -> Future[str | None]:
        """Evaluate a video; see `_Evaluator.evaluate`."""
        return self._submit(_Evaluator.evaluate, video)

    def error_of(self, future: Future[str | None]) -> BaseException | None:
        """Return the error of finished work."""
        return future.exception()

    @abstractmethod
    def shut_down(self) -> None:
        """Free the system, without waiting for work that has not begun."""

    @abstractmethod
    def _submit(self, method: Callable[..., str | None], *arguments: Any) -> Future[str | None]:
        """Call a method of the worker's `_Evaluator`."""


class _LocalWorker(_Worker):
    """Works in this thread, at once, so that Ctrl-C interrupts the work."""

    def __init__(self, run: Run) -> None:
        self._evaluator: _Evaluator | None = _Evaluator(run)

    def shut_down(self) -> None:
        self._evaluator = None

    def _submit(self, method: Callable[..., str | None], *arguments: Any) -> Future[str | None]:
        future: Future[str | None] = Future()
        try:
            future.set_result(method(self._evaluator, *arguments))
        except Exception as error:  # noqa: BLE001 # the future raises it
            future.set_exception(error)
        return future


class _ProcessWorker(_Worker):
    """Works in a process of its own, which is replaced if it dies.

    Args:
        run (Run): what to evaluate, with the device of this worker.
        threads (int): number of threads for PyTorch and OpenCV.
    """

    def __init__(self, run: Run, threads: int) -> None:
        self._start = partial(_start_process, run, threads)
        self._pool = self._new_pool()

    def error_of(self, future: Future[str | None]) -> BaseException | None:
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            self._pool = self._new_pool()
            return worker_died("number of workers in --devices")
        return error

    def shut_down(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_worker, (self._start,))

    def _submit(self, method: Callable[..., str | None], *arguments: Any) -> Future[str | None]:
        return self._pool.submit(_call_in_process, method, *arguments)


_evaluator: _Evaluator  # of a worker process, where it lives as long as the process


def _start_process(run: Run, threads: int) -> None:
    global _evaluator
    _evaluator = _Evaluator(run)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _call_in_process(method: Callable[..., str | None], *arguments: Any) -> str | None:
    return method(_evaluator, *arguments)
