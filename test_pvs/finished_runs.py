"""Reads finished runs of the benchmarks: their settings, and the J&F of every object."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from i2v.data.files import check_inside, read_json
from i2v.data.scores import read_j_and_f
from i2v.utils.json_form import NUMBER, require_form
from test_pvs.interactive import mean_curve
from test_pvs.runs import MASKS, RESULTS, SETTINGS

SEMI_SUPERVISED = "semi_supervised"
INTERACTIVE = ("online", "offline")
SCORES = "results.csv"  # written by the evaluator into the folder of the masks

# Settings left out of a run's display name: defaults, those implied by its table cell, and hashes of files named elsewhere.
_DEFAULTS = {
    "frames": 8,
    "threshold": 0.75,
    "again": "clicks",
    "correct": "deepest",
    "best_clicks": "once-more",
    "box_edges": "outer",
}
_ELSEWHERE = {"protocol", "dataset", "data", "system", "clicks", "input", "curve", "all_frames"}
_ELSEWHERE |= {"config_sha256", "weights_sha256"}

# The parts of settings.json and results.json that are read.
_SETTINGS = {"protocol": str, "dataset": str, "data": str, "system": str}
_PROTOCOL_SETTINGS = {SEMI_SUPERVISED: {"input": str}, **{name: {"clicks": int, "frames": int} for name in INTERACTIVE}}
_OPTIONAL_SETTINGS = {"config": str, "checkpoint": str, "void": int}
_RESULTS = {"settings": dict, "dataset_videos": int, "videos": dict, "failures": dict}
_CURVE = [{"frames": int, **dict.fromkeys(("j_and_f", "j", "f"), NUMBER)}]
_VIDEO = {SEMI_SUPERVISED: {"prompts": list}, **{name: {"objects": [{"curve": _CURVE}]} for name in INTERACTIVE}}


@dataclass(frozen=True)
class SystemLabel:
    """What a table says about the system of a run.

    Attributes:
        name (str): name of its row.
        parameters (float or None): number of parameters in millions; None if unknown.
        cost (float or None): cost of the training in GPUs x GB x hours; None without a training, or if unknown.
    """

    name: str
    parameters: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A run over a data set.

    Attributes:
        folder (Path): output folder of the run.
        settings (dict[str, Any]): see `Run.settings`.
        videos (dict[str, dict[str, Any]]): what the protocol returned, by video.
        failures (frozenset[str]): videos that failed.
        scores (dict[str, list[float]]): J&F in percent of each object, by video, for the finished videos that the evaluator
            scored.
        dataset_videos (int): number of videos in the data set.
        expected (frozenset[str]): videos of all runs that are compared with this one.
        label (SystemLabel or None): what a table says about the system; None for what the settings say.
    """

    folder: Path
    settings: dict[str, Any]
    videos: dict[str, dict[str, Any]]
    failures: frozenset[str]
    scores: dict[str, list[float]]
    dataset_videos: int
    expected: frozenset[str] = frozenset()
    label: SystemLabel | None = None

    @property
    def protocol(self) -> str:
        """Name of the protocol: online, offline or semi_supervised."""
        return self.settings["protocol"]

    @property
    def setting(self) -> str:
        """Prompt of the objects: 3c for three clicks (per interacted frame), bb for a box, gm for a mask."""
        return self.settings["input"] if self.protocol == SEMI_SUPERVISED else f"{self.settings['clicks']}c"

    @property
    def system(self) -> str:
        """Display name of the system."""
        return self.label.name if self.label else self.described_system

    @property
    def described_system(self) -> str:
        """The system with all settings that are not the defaults."""
        unusual = []
        # Runs without this setting are older than it, and clicked on the largest error.
        former = {} if "correct" in self.settings else {"correct": "largest"}
        for name, value in (former | self.settings).items():
            if name not in _ELSEWHERE and value not in (None, [], _DEFAULTS.get(name)):
                text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
                unusual.append(text if name in ("config", "checkpoint") else f"{name}={text}")
        return self.settings["system"] + (f" ({', '.join(unusual)})" if unusual else "")

    @cached_property
    def j_and_f(self) -> float | None:
        """Mean J&F in percent over all objects of the scored videos; None if no video is scored."""
        numbers = [number for scores in self.scores.values() for number in scores]
        return float(np.mean(numbers)) if numbers else None

    @property
    def missing(self) -> str:
        """Number of scored videos among all, as text; empty if all are scored.

        Videos are missing that failed, were not scored, or were not evaluated in this run.
        """
        everything = max(len(self.expected | self.failures | self.videos.keys()), self.dataset_videos)
        unscored = len(self.videos.keys() - self.scores.keys())
        more = f", {unscored} not scored" if unscored else ""
        return f"{len(self.scores)} of {everything} videos{more}" if len(self.scores) < everything else ""

    def curve(self) -> dict[int, float]:
        """Return J&F by number of interacted frames, for an interactive run with a finished video."""
        objects = (entry for result in self.videos.values() for entry in result["objects"])
        return {number: scores["j_and_f"] for number, scores in mean_curve(objects).items()}


def read_run(folder: Path) -> FinishedRun:
    """Read the output folder of a run.

    Raises:
        ValueError: it is not the folder of a finished run, or a file in it cannot be used; the message names it.
    """
    settings, results = _read_files(folder)
    videos, failures = results["videos"], frozenset(results["failures"]) - results["videos"].keys()
    if settings["protocol"] == SEMI_SUPERVISED:
        scores = _evaluated(folder / MASKS / SCORES, videos)
    else:
        scores = {name: _after_all_frames(result, settings["frames"], folder / RESULTS) for name, result in videos.items()}
    return FinishedRun(folder, settings, videos, failures, scores, results["dataset_videos"])


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read settings.json and results.json of a run, and check the parts that are used."""
    missing = [name for name in (SETTINGS, RESULTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} is not a finished run: it has no {' and no '.join(missing)}")
    settings, results = read_json(folder / SETTINGS), read_json(folder / RESULTS)
    require_form(settings, _SETTINGS, str(folder / SETTINGS))
    protocol = settings["protocol"]
    if protocol not in _VIDEO:
        raise ValueError(f"{folder} is a run of the protocol {protocol!r}, which the report does not support")
    require_form(settings, _PROTOCOL_SETTINGS[protocol], str(folder / SETTINGS))
    for name in settings.keys() & _OPTIONAL_SETTINGS:
        require_form(settings[name], (_OPTIONAL_SETTINGS[name], type(None)), f"{folder / SETTINGS}: {name!r}")
    require_form(results, _RESULTS, str(folder / RESULTS))
    if results["dataset_videos"] < 0:
        raise ValueError(f"{folder / RESULTS}: 'dataset_videos' is {results['dataset_videos']}, expected 0 or more")
    require_form(results["videos"], {str: _VIDEO[protocol]}, f"{folder / RESULTS}: 'videos'")
    for name in results["videos"]:  # names of folders
        check_inside(name, folder / RESULTS)
    if results["settings"] != settings:
        raise ValueError(f"{folder}: the settings in {RESULTS} differ from those in {SETTINGS}")
    return settings, results


def read_runs(folders: Sequence[Path], labels: Mapping[Path, SystemLabel] | None = None) -> tuple[list[FinishedRun], list[str]]:
    """Read runs to compare.

    Args:
        folders (Sequence[Path]): output folders of the runs.
        labels (Mapping[Path, SystemLabel] or None): what tables say about the systems, by folder; by default what the settings
            say.

    Returns:
        The runs, and a message for each folder that is not a finished run.

    Raises:
        ValueError: two runs have the same system and settings, or one name with different weights or configs.
    """
    by_settings: dict[str, FinishedRun] = {}
    by_name: dict[str, FinishedRun] = {}
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    problems = []
    for folder in folders:
        try:
            run = replace(read_run(folder), label=(labels or {}).get(folder))
        except ValueError as error:
            problems.append(str(error))
            continue
        other = by_name.setdefault(run.system, run)
        for file, key in (("weights", "weights_sha256"), ("configs", "config_sha256")):
            if other.settings.get(key) != run.settings.get(key):
                raise ValueError(f"{other.folder} and {run.folder} have different {file} of one name: a row would mix them")
        key = str([run.protocol, run.settings["dataset"], run.settings["data"], run.setting, run.system])
        if key in by_settings:
            raise ValueError(
                f"{by_settings[key].folder} and {run.folder} have the same system and settings: give only one of them"
            )
        by_settings[key] = run
        groups[run.settings["dataset"], run.settings["data"]] |= run.videos.keys() | run.failures
    runs = by_settings.values()
    return [replace(run, expected=frozenset(groups[run.settings["dataset"], run.settings["data"]])) for run in runs], problems


def dataset_names(runs: Iterable[FinishedRun]) -> dict[str, str]:
    """Name the data set of every run, by "data" of its settings; with the folder if one name has several folders."""
    folders: defaultdict[str, set[str]] = defaultdict(set)
    for run in runs:
        folders[run.settings["dataset"]].add(run.settings["data"])
    return {
        data: f"{dataset} ({data})" if len(several) > 1 else dataset for dataset, several in folders.items() for data in several
    }


def _after_all_frames(result: dict[str, Any], frames: int, path: Path) -> list[float]:
    """Return J&F of the objects of a video in an interactive run, with all interacted frames.

    Args:
        result (dict[str, Any]): result of the video.
        frames (int): maximum number of interacted frames.
        path (Path): file of the result, for error messages.

    Raises:
        ValueError: an object has no J&F, or one that is not from 0 to 100.
    """
    curves = [{point["frames"]: point["j_and_f"] for point in entry["curve"]} for entry in result["objects"]]
    for number in (number for curve in curves for number in curve.values()):
        if number < 0 or number > 100:
            raise ValueError(f"{path}: an object's J&F ('j_and_f') is {number}, not from 0 to 100")
    if not all(math.isfinite(curve.get(frames, math.nan)) for curve in curves):
        raise ValueError(f"{path}: an object has no J&F with {frames} interacted frames")
    return [curve[frames] for curve in curves]


def _evaluated(path: Path, videos: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Read J&F of the objects of finished videos from the evaluator's table.

    The table has zeros for videos that failed, and no row for a video whose objects are in none of the scored frames.
    """
    if not path.is_file():
        raise ValueError(f"the masks are not scored: {path} does not exist; run semi_eval.sh")
    scores = read_j_and_f(path)
    # A video without prompts has nothing to score.
    return {name: scores[name] for name, result in videos.items() if name in scores or not result["prompts"]}
