"""Runs a benchmark over the videos of a data set: on all devices, a video at a time. A run that was interrupted resumes."""

from __future__ import annotations

import argparse
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from i2v.data.files import read_json, walk
from i2v.data.mask_files import open_labels
from i2v.utils.command_line import given_path, given_text, label, one_line, whole_number
from test_pvs.clicks import DEEPEST, LARGEST
from test_pvs.datasets import DATASET_HELP, dataset_name, read_dataset
from test_pvs.runs import MASKS, RESULTS, OutputFolder, Protocol, Run, read_result
from test_pvs.systems import SYSTEMS, SystemSettings
from test_pvs.workers import evaluate_all

log = logging.getLogger("test_pvs.runner")


def run_videos(
    run: Run, devices: Sequence[str], names: Sequence[str] = (), share: tuple[int, int] | None = None
) -> dict[str, str]:
    """Evaluate all videos that are not finished.

    OUTPUT/masks/VIDEO appears when the video is finished; it holds the masks, and result.json with what the protocol returned.
    At the end OUTPUT/results.json has the settings, the number of videos of the data set, the results of all finished videos,
    and the failures with their tracebacks, those of earlier runs included.

    Args:
        run (Run): what to evaluate.
        devices (Sequence[str]): one worker for each, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"].
        names (Sequence[str]): names of videos; by default all.
        share (tuple of int or None): (number, count) evaluates one of `count` shares of the videos, as several processes can at
            the same time, and leaves OUTPUT/results.json to a run without shares; None for all videos.

    Returns:
        The tracebacks of the videos that failed in this run, by name.

    Raises:
        ValueError: OUTPUT holds a run with other settings.
        LockedError: another run writes into OUTPUT.
        ValueError, OSError, ImportError: the data set or the system cannot be used, whichever the video.
    """
    videos = read_dataset(run.dataset, run.data, names, run.void)
    if share:
        number, count = share
        videos = videos[number::count]
    output = OutputFolder(run.output, run.settings(), shared=share is not None)
    with output:
        if output.is_claimed():  # a new one is claimed when the system is built: until then a setting may be wrong
            output.claim()
        todo = deque(video for video in videos if read_result(run.output / MASKS / video.name) is None)
        if len(todo) < len(videos):
            log.info("%d of %d videos were finished before", len(videos) - len(todo), len(videos))
        failures = evaluate_all(run, output, todo, devices) if todo else {}
        if share is None:
            everything = read_dataset(run.dataset, run.data, void=run.void) if names else videos
            output.collect([video.name for video in everything], failures)
    for name, text in failures.items():
        log.error("failed: %s", one_line(f"{name}: {_message_in(text)}"))
    if share is None and _all_empty(run.output / MASKS):
        log.warning("warning: every mask in %s is empty: were the right weights loaded?", run.output / MASKS)
    return failures


def _message_in(text: str) -> str:
    """Return the message of the error that ends a traceback. It may have several lines, as names of files can."""
    lines = text.rpartition("Traceback (most recent call last):\n")[-1].splitlines()
    return "\n".join(line for line in lines if not line.startswith("  "))


def _all_empty(masks: Path) -> bool:
    """Return whether there are masks, and all of them are empty. Usually the first one is not."""
    paths = [path for path in walk(masks) if path.suffix == ".png"]
    try:
        return bool(paths) and not any(open_labels(path).getbbox() for path in paths)
    except (OSError, ValueError):  # not a file of this run; the evaluator reports it
        return False


def parse_devices(text: str) -> list[str]:
    """Parse the devices of the workers.

    Args:
        text (str): "cuda:0,cuda:1" for these GPUs, "cuda" for all, "cpu:2" for two workers on the CPU, or "" for all GPUs, or
            one worker on the CPU if there is no GPU.

    Returns:
        A device for each worker.

    Raises:
        ValueError: `text` does not have this form, or there is no such device.
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


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all protocols have."""
    parser.add_argument("dataset", type=dataset_name, metavar="DATASET", help=DATASET_HELP)
    parser.add_argument("data", type=given_path, metavar="DATA", help="folder of the data set")
    parser.add_argument("--output", type=given_path, required=True, help="folder for the results")
    add_system_arguments(parser)
    parser.add_argument(
        "--devices",
        default="",
        help="cuda:0,cuda:1 for these GPUs, cuda for all, cpu:2 for two workers (default: all GPUs, or cpu)",
    )
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of pixels that belong to no object, such as 255")
    parser.add_argument("--videos", nargs="*", default=(), metavar="VIDEO", help="names of videos (default: all)")
    parser.add_argument(
        "--seed", type=whole_number(0), help="sample the places of clicks with this random seed (default: deterministic places)"
    )
    parser.add_argument(
        "--correct",
        choices=(DEEPEST, LARGEST),
        default=DEEPEST,
        help="error that a correction clicks on: the deepest, as published, or the one with the most pixels (default: deepest)",
    )


def add_system_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which system is evaluated; see `system_settings`."""
    parser.add_argument(
        "--system", default="sam-i2v", help=f"{', '.join(SYSTEMS)}, or package.module:function (default: sam-i2v)"
    )
    parser.add_argument("--config", type=given_text, help="config of the system (default: i2v-lite for SAM-I2V)")
    parser.add_argument("--checkpoint", type=given_text, help="weights of the system (default: those bundled with the config)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="numerical precision (default: the config's)")
    parser.add_argument("--overrides", nargs="*", default=(), metavar="KEY=VALUE", help="overrides of the config")


def system_settings(args: argparse.Namespace) -> SystemSettings:
    """Make the settings of the system from the arguments of `add_system_arguments`, on the default device."""
    overrides = tuple(args.overrides)
    return SystemSettings(args.system, args.config, args.checkpoint, precision=args.precision, overrides=overrides)


def run_of(protocol: Protocol, options: dict[str, Any], args: argparse.Namespace) -> Run:
    """Make the run that the arguments of `add_run_arguments` describe, on the default device."""
    return Run(protocol, options, system_settings(args), args.dataset, args.data, args.output, args.void)


def run_command(run: Run, args: argparse.Namespace, summary: Callable[[dict[str, Any]], str] | None = None) -> int:
    """Make a run on the devices and videos of the arguments of `add_run_arguments`.

    Args:
        run (Run): what to evaluate.
        args (argparse.Namespace): parsed arguments.
        summary (Callable[[dict[str, Any]], str] or None): makes the text to print from the results of all finished videos, by
            name.

    Returns:
        The exit status: 0, or 1 if a video failed.

    Raises:
        ValueError, OSError, ImportError, WorkerDiedError: see `run_videos`.
    """
    failures = run_videos(run, parse_devices(args.devices), args.videos)
    videos = read_json(run.output / RESULTS)["videos"]
    if summary and videos:
        print(summary(videos))  # noqa: T201
    print(f"The results are in {run.output / RESULTS}; {len(failures)} videos failed")  # noqa: T201
    return 1 if failures else 0
