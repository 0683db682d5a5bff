"""The runs of a table: which there are, what is missing, and how to make it."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from i2v.data.files import read_json
from i2v.utils.command_line import EXPECTED_ERRORS, one_line
from i2v.utils.json_form import require_form
from test_pvs import interactive, semi_supervised
from test_pvs.datasets import read_dataset
from test_pvs.finished_runs import SCORES, SEMI_SUPERVISED
from test_pvs.paper.registry import PaperSystem
from test_pvs.runner import run_videos
from test_pvs.runs import MASKS, RESULTS, SETTINGS, OutputFolder, Run
from test_pvs.systems import build_system, require_package
from test_pvs.tables import Layout

log = logging.getLogger("test_pvs.paper")

_EVALUATION = Path(__file__).parents[1] / "semi_eval.sh"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a table needs: a system on a data set in one setting.

    Attributes:
        row (str): name of the system's row.
        system (PaperSystem): the system.
        setting (str): prompt of the objects, such as 3c.
        run (Run): the run, on the default device.
        command (str): the command that makes it.
    """

    row: str
    system: PaperSystem
    setting: str
    run: Run
    command: str

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"{self.row}, {self.run.dataset}, {self.setting}"

    @property
    def needs_scores(self) -> bool:
        """Whether the evaluator has to score the masks."""
        return self.run.protocol is semi_supervised.semi_supervised

    def is_evaluated(self) -> bool:
        """Return whether all videos are finished."""
        path = self.run.output / RESULTS
        if not path.is_file():
            return False
        results = read_json(path)
        require_form(results, {"dataset_videos": int, "videos": dict, "failures": dict}, str(path))
        return len(results["videos"]) >= results["dataset_videos"] and not results["failures"]

    def has_scores(self) -> bool:
        """Return whether the run has scores for a table, which may be those of a part of the videos."""
        scores, results = self.run.output / MASKS / SCORES, self.run.output / RESULTS
        if not results.is_file() or not self.needs_scores:
            return results.is_file()
        return scores.is_file() and scores.stat().st_mtime_ns >= results.stat().st_mtime_ns

    def is_finished(self) -> bool:
        """Return whether nothing is left to do."""
        return self.is_evaluated() and self.has_scores()

    def compare_settings(self) -> None:
        """Compare the settings of the run with those in its folder, if a run has claimed it.

        Raises:
            ValueError: they differ.
        """
        # The settings have the hash of the weights, which may be gone since the run was finished.
        if (self.run.output / SETTINGS).exists() and not self.system.missing_weights():
            OutputFolder(self.run.output, self.run.settings()).compare_settings()


def plan_runs(layout: Layout, rows: Mapping[str, PaperSystem], data: Mapping[str, Path], output: Path) -> list[PlannedRun]:
    """List the runs of a table: each system on each data set in each setting.

    Args:
        layout (Layout): the table.
        rows (Mapping[str, PaperSystem]): the systems by name of the row.
        data (Mapping[str, Path]): folders of the data sets by name.
        output (Path): folder of all runs. Tables that need the same run share it.
    """
    return [
        _plan_run(layout.protocol, row, system, dataset, folder, setting, output)
        for row, system in rows.items()
        for dataset, folder in data.items()
        for setting in layout.settings
    ]


def _plan_run(protocol: str, row: str, system: PaperSystem, dataset: str, data: Path, setting: str, output: Path) -> PlannedRun:
    name = f"{system.key}-{Path(system.config).stem}" if system.config else system.key
    folder = output / name / re.sub(r"[^\w.-]", "_", f"{dataset}-{protocol}-{setting}")
    arguments = [dataset, str(data), "--output", str(folder), "--system", system.system]
    arguments += ["--config", system.config] if system.config else []
    arguments += ["--checkpoint", system.checkpoint] if system.checkpoint else []
    if protocol == SEMI_SUPERVISED:
        module, parse, arguments = "semi_supervised", semi_supervised.parse_run, [*arguments, "--input", setting]
    else:
        clicks = setting.removesuffix("c")
        module, parse, arguments = "interactive", interactive.parse_run, [protocol, *arguments, "--clicks", clicks]
    arguments += ["--overrides", *system.overrides] if system.overrides else []
    run, _ = parse(arguments)
    command = shlex.join(["python", "-m", f"test_pvs.{module}", *arguments])
    if protocol == SEMI_SUPERVISED:
        variables = [f"{name}={shlex.quote(value)}" for name, value in _variables(run).items()]
        command += f" && {' '.join(variables)} sh test_pvs/semi_eval.sh"
    return PlannedRun(row, system, setting, run, command)


def find_problems(planned: Sequence[PlannedRun], device: str | None = None) -> tuple[list[str], str]:
    """Find everything that keeps the runs of a table from being made.

    Args:
        planned (Sequence[PlannedRun]): the runs of the table, finished ones included.
        device (str or None): device on which every system that is not finished is built; None to look at data sets, weights and
            packages alone.

    Returns:
        A line for each problem, with how to solve it; and one for all of them together, empty if there is none.
    """
    datasets = {each.run.dataset: each.run.data for each in planned if not each.is_finished()}
    without_data = [text for name, folder in datasets.items() if (text := _error_of(_require_dataset, name, folder))]
    without_weights: list[str] = []
    problems: dict[str, list[str]] = {}
    for each in {each.system.key: each for each in planned if not each.is_evaluated()}.values():
        key, weights = each.system.key, each.system.missing_weights()
        without_weights += [key] if weights else []
        found = [text for text in (weights, _error_of(require_package, each.run.system)) if text]
        if not found and device:
            found = [text for text in [_error_of(build_system, replace(each.run.system, device=device))] if text]
        if found:
            problems[key] = [f"{each.row} ({key}): {text}" for text in found]
    lines = [*without_data, *chain.from_iterable(problems.values())]
    if not lines:
        return [], ""
    keys = dict.fromkeys(each.system.key for each in planned)
    rest = [key for key in keys if key not in problems]
    counts = {"data sets": (len(without_data), len(datasets)), "systems": (len(problems), len(keys))}
    lacking = " and ".join(f"{number} of {total} {what}" for what, (number, total) in counts.items() if number)
    advice = ["provide what is missing"]
    advice += ["name the data sets that you have, and no others, with --data NAME=FOLDER ..."] if without_data else []
    advice += [f"name weights with --checkpoint {without_weights[0]}=PATH"] if without_weights else []
    advice += [f"run the others alone: --systems {' '.join(rest)}"] if problems and rest else []
    return lines, f"{lacking} cannot be used (see above): {', or '.join(advice)}"


def _require_dataset(name: str, folder: Path) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(f"data set {name}: no such folder: {folder}")
    try:
        read_dataset(name, folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"data set {name}: {one_line(error)}") from error


def require_runnable(planned: Sequence[PlannedRun], device: str | None) -> None:
    """Check everything that runs need before the first one starts; problems are logged, a line for each.

    Args:
        planned (Sequence[PlannedRun]): the runs of the table, finished ones included.
        device (str or None): see `find_problems`.

    Raises:
        ValueError: a data set is missing or has another layout, a system cannot be built, its weights are missing, or a folder
            holds a run with other settings.
    """
    problems, summary = find_problems(planned, device)
    for problem in problems:
        log.error("%s", problem)
    if summary:
        raise ValueError(f"nothing was run: {summary}")
    for each in planned:
        each.compare_settings()


def _error_of(check: Callable[..., object], *arguments: object) -> str:
    """Call a check or a builder; its error, or an empty text."""
    try:
        check(*arguments)
    except EXPECTED_ERRORS as error:
        return one_line(error)
    return ""


def make_run(planned: PlannedRun, devices: Sequence[str]) -> bool:
    """Evaluate the videos of a run that are not finished, and score the masks where this is a step of its own.

    Returns:
        Whether all videos were evaluated and scored.

    Raises:
        ValueError, OSError, ImportError, WorkerDiedError: see `run_videos`.
    """
    planned.compare_settings()
    if planned.is_finished():
        return True
    log.info("%s", planned.title)
    failures = {} if planned.is_evaluated() else run_videos(planned.run, devices)
    scored = not planned.needs_scores or _score(planned.run)
    return scored and not failures


def _variables(run: Run) -> dict[str, str]:
    """Return the environment variables of semi_eval.sh."""
    return {"DATASET": run.dataset, "DATA": str(run.data), "OUT": str(run.output)}


def _score(run: Run) -> bool:
    # The scripts' other variables may be set for another run.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIDEOS", "VOID")}
    environment |= {**_variables(run), "PYTHON": sys.executable}
    return subprocess.run(["sh", str(_EVALUATION)], env=environment, check=False).returncode == 0
