"""A run of a benchmark: its settings, and the folder that it writes into."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2v.data.files import read_json
from i2v.utils.command_line import make_output_folder, one_line
from i2v.utils.files import atomic_write
from i2v.utils.json_form import differences, require_form
from test_pvs.datasets import EvaluationVideo
from test_pvs.systems import SystemSettings, VideoSystem, recorded_settings

log = logging.getLogger("test_pvs.runner")

# Names in the output folder of a run.
MASKS, VIDEO_RESULT, RESULTS, SETTINGS = "masks", "result.json", "results.json", "settings.json"

# Evaluates a video: (system, video, options of the protocol, folder for the video's masks) -> its entry in the output JSON.
Protocol = Callable[[VideoSystem, EvaluationVideo, dict[str, Any], Path], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What to evaluate, and on which data.

    Attributes:
        protocol (Protocol): a module-level function, because worker processes import it.
        options (dict[str, Any]): options of the protocol, as they are written to JSON.
        system (SystemSettings): the system.
        dataset (str): name of the data set; see `read_dataset`.
        data (Path): folder of the data set.
        output (Path): folder of the results.
        void (int or None): label of pixels that belong to no object; see `read_dataset`.
    """

    protocol: Protocol
    options: dict[str, Any]
    system: SystemSettings
    dataset: str
    data: Path
    output: Path
    void: int | None = None

    def settings(self) -> dict[str, Any]:
        """List everything that the results depend on."""
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


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read what a protocol returned for a video.

    Args:
        folder (Path): folder with the masks of the video.

    Returns:
        The content of its result.json; None for an unfinished video, whose file is missing, truncated or malformed.
    """
    try:
        result = read_json(folder / VIDEO_RESULT) if (folder / VIDEO_RESULT).is_file() else None
    except ValueError:
        return None
    return result if isinstance(result, dict) else None


class OutputFolder:
    """The output folder of a run: one run writes into it at a time, all with the same settings.

    Two runs would remove each other's unfinished videos, and a report would mix results of different settings. The lock is
    held until the block of the context manager, or the process, ends.

    Args:
        path (Path): the folder, which need not exist.
        settings (dict[str, Any]): settings of the run.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._lock = ExitStack()
        self._is_mine = False

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def is_claimed(self) -> bool:
        """Return whether a run, this one or an earlier one, has claimed the folder."""
        return (self._path / SETTINGS).exists()

    def claim(self) -> None:
        """Lock the folder and write the settings into it, or compare them with those of the run that is resumed.

        Raises:
            ValueError: the folder holds a run with other settings, or another run writes into it.
        """
        if self._is_mine:
            return
        if self.is_claimed():  # a run with other settings is told so without the lock
            self._compare_settings()
        make_output_folder(self._path)
        self._lock.enter_context(_locked(self._path))
        if not self.is_claimed():
            _write_json(self._path / SETTINGS, self._settings)
        self._compare_settings()
        self._is_mine = True

    def collect(self, names: Sequence[str], failures: dict[str, str]) -> None:
        """Write results.json with the results of all videos.

        Args:
            names (Sequence[str]): names of all videos of the data set.
            failures (dict[str, str]): tracebacks of the videos that failed now. Those of videos that were not tried again
                stay.
        """
        results = {name: read_result(self._path / MASKS / name) for name in names}
        videos = {name: result for name, result in results.items() if result is not None}
        path = self._path / RESULTS
        failures = {name: text for name, text in (_failures(path) | failures).items() if results.get(name, {}) is None}
        content = {"settings": self._settings, "dataset_videos": len(names), "videos": videos, "failures": failures}
        _write_json(path, content)

    def _compare_settings(self) -> None:
        path = self._path / SETTINGS
        earlier = read_json(path)
        require_form(earlier, dict, str(path))
        if other := differences(earlier, self._settings):
            raise ValueError(f"{self._path} holds a run with other settings ({other}): use another folder")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder, where the system and the file system have locks.

    Raises:
        ValueError: another run has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run writes into {folder}: wait until it ends, or use another folder") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): make sure that no other run writes into it", folder, error)
        yield


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def _failures(path: Path) -> dict[str, str]:
    """Read the failures in the JSON of an earlier run.

    Everything else in it is known from the folders of the videos, so a broken file is rewritten.
    """
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        require_form(content, {"failures": {str: str}}, str(path))
    except ValueError as error:
        log.warning("warning: %s; it is rewritten without the failures of earlier runs", one_line(error))
        return {}
    return content["failures"]
