"""Runs a protocol over the videos of a data set: on all devices, a video at a time, and goes on where an earlier run ended."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import shutil
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two runs apart
    fcntl = None

from i2v.data.files import read_json, walk
from i2v.data.mask_files import open_labels
from i2v.utils.command_line import (
    given_path,
    given_text,
    label,
    make_output_folder,
    one_line,
    whole_number,
)
from i2v.utils.files import atomic_write, whole_folder
from i2v.utils.json_form import differences, require_form
from i2v.utils.processes import children_end_at_errors, start_worker, worker_died
from test_pvs.clicks import DEEPEST, LARGEST
from test_pvs.datasets import DATASET_HELP, EvaluationVideo, dataset_name, read_dataset, videos_by_name
from test_pvs.systems import SYSTEMS, SystemSettings, VideoSystem, build_system, recorded_settings

log = logging.getLogger("test_pvs.runner")

# Names in a run's output.
MASKS, VIDEO_RESULT, RESULTS, SETTINGS = "masks", "result.json", "results.json", "settings.json"

# Evaluates a video: (system, video, options of the protocol, folder for VIDEO's masks) -> what goes into the output JSON.
Protocol = Callable[[VideoSystem, EvaluationVideo, dict[str, Any], Path], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What to evaluate on what.

    Attributes:
        protocol: a function at the top of a module, because workers import it. options: its own, as they go into JSON.
        dataset, data, void: see `read_dataset`.
        output: folder of the results.
    """

    protocol: Protocol
    options: dict[str, Any]
    system: SystemSettings
    dataset: str
    data: Path
    output: Path
    void: int | None = None

    def settings(self) -> dict[str, Any]:
        """All that the results depend on."""
        settings = {
            "protocol": self.protocol.__name__,
            **self.options,
            **recorded_settings(self.system),
            "dataset": self.dataset,
            "data": str(self.data.resolve()),
        }
        if self.void is not None:
            settings["void"] = self.void
        return json.loads(json.dumps(settings))


def run_videos(run: Run, devices: Sequence[str], names: Sequence[str] = ()) -> dict[str, str]:
    """Evaluate all videos that are not finished.

    OUTPUT/masks/VIDEO appears when the video is finished; it holds the masks, and result.json with what the protocol returned.
    At the end OUTPUT/results.json has the settings, the number of videos of the data set, the results of all videos that are
    finished, and the failures with their tracebacks, those of earlier runs included.

    Args:
        devices: one worker for each, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]. names: of videos; all by default.

    Returns:
        The videos that failed now, each with its traceback.

    Raises:
        ValueError: OUTPUT holds a run with other settings, or another run writes into it. ValueError, OSError, ImportError: the
            data set or the system cannot be used, whatever the video.
    """
    videos = read_dataset(run.dataset, run.data, names, run.void)
    settings = run.settings()
    with ExitStack() as lock:
        claim = cache(partial(_claim, run.output, settings, lock))
        if (run.output / SETTINGS).exists():  # a new one is claimed when the system is built: until then a setting may be wrong
            claim()
        finished = {video.name for video in videos if read_result(run.output / MASKS / video.name) is not None}
        if finished:
            log.info("%d of %d videos were finished before", len(finished), len(videos))
        todo = deque(video.name for video in videos if video.name not in finished)
        failures = _share(run, claim, todo, devices) if todo else {}
        everything = [video.name for video in (read_dataset(run.dataset, run.data, void=run.void) if names else videos)]
        _collect(run.output, settings, everything, failures)
    for name, text in failures.items():
        log.error("failed: %s", one_line(f"{name}: {_message_in(text)}"))
    if _all_empty(run.output / MASKS):
        log.warning("warning: every mask in %s is empty: were the right weights loaded?", run.output / MASKS)
    return failures


def _message_in(text: str) -> str:
    """What the error says that a traceback ends with, which may be several lines: names of files can have line breaks."""
    lines = text.rpartition("Traceback (most recent call last):\n")[-1].splitlines()
    return "\n".join(line for line in lines if not line.startswith("  "))


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a protocol returned for a video.

    Args:
        folder: of the video's masks.

    Returns:
        The content of its result.json; None for an unfinished video, whose file is missing, cut off or of another form.
    """
    try:
        result = read_json(folder / VIDEO_RESULT) if (folder / VIDEO_RESULT).is_file() else None
    except ValueError:
        return None
    return result if isinstance(result, dict) else None


def _all_empty(masks: Path) -> bool:
    """Whether there are masks, and none of them has a pixel of an object. One that has is mostly the first."""
    paths = [path for path in walk(masks) if path.suffix == ".png"]
    try:
        return bool(paths) and not any(open_labels(path).getbbox() for path in paths)
    except (OSError, ValueError):  # somebody else's file; the evaluator says what is wrong with it
        return False


def parse_devices(text: str) -> list[str]:
    """The devices of the workers: "cuda:0,cuda:1"; "cuda" for all GPUs; "cpu:2" for two workers on the CPU; "" for all GPUs or,
    where there is none, one worker on the CPU.

    Raises:
        ValueError: not of that form, or there is no such device.
    """
    devices = []
    for part in (text or ("cuda" if torch.cuda.is_available() else "cpu")).split(","):
        kind, _, number = part.strip().partition(":")
        if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
            raise ValueError(f"{part!r} is not a device: give cpu, cpu:WORKERS, cuda, cuda:NUMBER or mps")
        if kind == "cpu":
            if number and int(number) < 1:
                raise ValueError(f"{part!r} has no worker: the number of cpu:WORKERS is 1 or more")
            devices += ["cpu"] * int(number or 1)
            continue
        there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
        if int(number or 0) >= there:
            raise ValueError(f"there is no device {part.strip()}: PyTorch finds {there} of this kind")
        all_gpus = kind == "cuda" and not number
        devices += [f"cuda:{index}" for index in range(there)] if all_gpus else [part.strip()]
    return devices


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Keep other runs out of the output, where the file system has locks: two would remove each other's unfinished videos. The
    lock ends with the process.

    Raises:
        ValueError: another run is at work there.
    """
    with (output / ".lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run writes into {output}: wait for its end, or take another folder") from None
            except OSError as error:
                log.warning("%s cannot be locked (%s): make sure that no other run writes into it", output, error)
        yield


def _claim(output: Path, settings: dict[str, Any], lock: ExitStack) -> None:
    """Lock the output; note the settings in it, or compare them with those of the run that it goes on with."""
    path = output / SETTINGS
    if path.exists():  # a run with other settings need not wait
        _compare(output, settings)
    make_output_folder(output)
    lock.enter_context(_alone(output))
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1))
    _compare(output, settings)


def _compare(output: Path, settings: dict[str, Any]) -> None:
    path = output / SETTINGS
    old, new = read_json(path), settings
    require_form(old, dict, str(path))
    if other := differences(old, new):
        raise ValueError(f"{output} holds a run with other settings ({other}): take another folder")


def _share(run: Run, claim: Callable[[], None], todo: deque[str], devices: Sequence[str]) -> dict[str, str]:
    """Claim the output once a system is built, and evaluate videos, each on the device that is free first.

    Returns:
        The failed ones' tracebacks.
    """
    threads = max((os.cpu_count() or 1) // len(devices), 1)

    def new_worker() -> Executor:
        if len(devices) == 1:
            return _InThisThread()
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_worker, (partial(_set_threads, threads),))

    runs = [replace(run, system=replace(run.system, device=device)) for device in devices[: len(todo)]]
    workers = [new_worker() for _ in runs]
    failures: dict[str, str] = {}
    # Ctrl-C and errors do not wait for the videos in progress, which a later run begins again.
    with ExitStack() as stack:
        stack.callback(_finish, workers)
        stack.enter_context(children_end_at_errors())
        # What is wrong with the system is wrong for every video: it is built first, and an error ends the run.
        running: dict[Future[str | None], tuple[int, str | None]]
        running = {workers[i].submit(_prepare, runs[i].system): (i, None) for i in range(len(runs))}
        with tqdm(total=len(todo), unit="video") as progress:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    i, name = running.pop(future)
                    error = future.exception()
                    died = isinstance(error, BrokenExecutor)
                    if died:
                        error = worker_died("number of workers in --devices")
                    if name is None:
                        if error is not None:
                            raise error
                        claim()
                    text = "".join(traceback.format_exception(error)) if error is not None else future.result()
                    if text is not None:
                        failures[name] = text
                    if died:
                        workers[i] = new_worker()
                    progress.update(name is not None)
                    if todo:
                        name = todo.popleft()
                        running[workers[i].submit(_evaluate, runs[i], name)] = (i, name)
    return dict(sorted(failures.items()))


def _finish(workers: Sequence[Executor]) -> None:
    for worker in workers:
        worker.shutdown(cancel_futures=True)
    _system.cache_clear()  # frees the model
    videos_by_name.cache_clear()


class _InThisThread(Executor):
    """Runs everything at once, where it is submitted: Ctrl-C interrupts it, which it would not do in another thread."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:  # noqa: BLE001 # the future raises it
            future.set_exception(error)
        return future


def _set_threads(threads: int) -> None:
    """Give a worker process its share of the cores."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


_system = lru_cache(maxsize=1)(build_system)


def _prepare(settings: SystemSettings) -> None:
    _system(settings)


def _evaluate(run: Run, name: str) -> str | None:
    """Evaluate one video, in a worker. Returns None, or the traceback of what went wrong."""
    try:
        target = run.output / MASKS / name
        if read_result(target) is not None:  # by another run, before this one had the folder
            return None
        video = videos_by_name(run.dataset, run.data, run.void)[name]
        video.require_complete()
        if target.exists():  # masks without their result
            shutil.rmtree(target)
        with whole_folder(target) as folder:
            result = run.protocol(_system(run.system), video, run.options, folder)
            (folder / VIDEO_RESULT).write_text(json.dumps(result))
        return None
    except Exception:  # noqa: BLE001 # whatever it is, the other videos go on
        text = traceback.format_exc()
    # The error is gone, and what its frames held: after a lack of memory the next video needs all of it.
    gc.collect()
    with suppress(RuntimeError):  # CUDA may be beyond repair; what broke it is in the text
        torch.cuda.empty_cache()
    return text


def _collect(output: Path, settings: dict[str, Any], names: Sequence[str], failures: dict[str, str]) -> None:
    """Write one JSON with what is known of all videos.

    Args:
        names: of the data set's videos. failures: new ones; those that were not tried again stay.
    """
    results = {name: read_result(output / MASKS / name) for name in names}
    videos = {name: result for name, result in results.items() if result is not None}
    path = output / RESULTS
    failures = {name: text for name, text in (_failures(path) | failures).items() if results.get(name, {}) is None}
    content = {"settings": settings, "dataset_videos": len(names), "videos": videos, "failures": failures}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def _failures(path: Path) -> dict[str, str]:
    """The failures in the JSON of an earlier run, if there is one. All else in it is known from the videos' folders, so that
    one which is broken is written anew."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        require_form(content, {"failures": {str: str}}, str(path))
    except ValueError as error:
        log.warning("warning: %s; it is written anew, without the failures of earlier runs", one_line(error))
        return {}
    return content["failures"]


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that all protocols have."""
    parser.add_argument("dataset", type=dataset_name, metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("data", type=given_path, metavar="DATA", help="folder of the data set")
    parser.add_argument("--output", type=given_path, required=True, help="folder of the results")
    add_system_arguments(parser)
    parser.add_argument("--devices", default="", help="cuda:0,cuda:1; cuda: all; cpu:2: two workers (default: GPUs, or cpu)")
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of pixels that belong to no object, such as 255")
    parser.add_argument("--videos", nargs="*", default=(), metavar="VIDEO", help="only these")
    parser.add_argument(
        "--seed", type=whole_number(0), help="draw the clicks, from this seed (default: the deterministic places)"
    )
    parser.add_argument(
        "--correct",
        choices=(DEEPEST, LARGEST),
        default=DEEPEST,
        help="which error a correction clicks on: the deepest, as published, or that of the most pixels (default: deepest)",
    )


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which system is evaluated (`system_settings`)."""
    parser.add_argument(
        "--system", default="sam-i2v", help=f"{', '.join(SYSTEMS)}, or package.module:function (default: sam-i2v)"
    )
    parser.add_argument("--config", type=given_text, help="of the system, by default i2v-lite for SAM-I2V")
    parser.add_argument("--checkpoint", type=given_text, help="weights, by default those that come with the config")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="by default the config's")
    parser.add_argument("--overrides", nargs="*", default=(), metavar="KEY=VALUE", help="of the config")


def system_settings(args: argparse.Namespace) -> SystemSettings:
    """The system that the arguments of `add_system_arguments` name, on the default device."""
    overrides = tuple(args.overrides)
    return SystemSettings(args.system, args.config, args.checkpoint, precision=args.precision, overrides=overrides)


def run_command(
    protocol: Protocol,
    options: dict[str, Any],
    args: argparse.Namespace,
    summary: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Run a protocol as the arguments of `add_run_arguments` say.

    Args:
        summary: makes a line to print of the results of all finished videos, by their names.

    Returns:
        The exit status: 0, or 1 if a video failed.

    Raises:
        ValueError, OSError, ImportError, WorkerDiedError: see `run_videos`.
    """
    run = Run(protocol, options, system_settings(args), args.dataset, args.data, args.output, args.void)
    failures = run_videos(run, parse_devices(args.devices), args.videos)
    videos = read_json(args.output / RESULTS)["videos"]
    if summary and videos:
        print(summary(videos))  # noqa: T201
    print(f"The results are in {args.output / RESULTS}; {len(failures)} videos failed")  # noqa: T201
    return 1 if failures else 0
