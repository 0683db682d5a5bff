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


class LockedError(ValueError):
    """Another run writes into a folder, or evaluates a video."""


class OutputFolder:
    """The output folder of a run: one run writes into it at a time, all with the same settings.

    Two runs would remove each other's unfinished videos, and a report would mix results of different settings. The lock is
    held until the block of the context manager, or the process, ends.

    Args:
        path (Path): the folder, which need not exist.
        settings (dict[str, Any]): settings of the run.
        shared (bool): this process does a share of the run, at the same time as others; see `video_lock`.
    """

    def __init__(self, path: Path, settings: dict[str, Any], shared: bool = False) -> None:
        self._path = path
        self._settings = settings
        self._shared = shared
        self._lock = ExitStack()
        self._is_mine = False

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def is_claimed(self) -> bool:
        """Return whether a run, this one or an earlier one, has claimed the folder."""
        return (self._path / SETTINGS).exists()

    def compare_settings(self) -> None:
        """Compare the settings of the run with those in the folder, if a run has claimed it.

        Raises:
            ValueError: they differ.
        """
        if not self.is_claimed():
            return
        path = self._path / SETTINGS
        earlier = read_json(path)
        require_form(earlier, dict, str(path))
        if other := differences(earlier, self._settings):
            raise ValueError(f"{self._path} holds a run with other settings ({other}): use another folder")

    def claim(self) -> None:
        """Lock the folder and write the settings into it, or compare them with those of the run that is resumed.

        Raises:
            ValueError: the folder holds a run with other settings.
            LockedError: another run writes into it.
        """
        if self._is_mine:
            return
        self.compare_settings()  # a run with other settings is told so without the lock
        make_output_folder(self._path)
        error = self._lock.enter_context(_locked(self._path / ".lock", f"writes into {self._path}", self._shared))
        if error is not None:
            log.warning("%s cannot be locked (%s): make sure that no other run writes into it", self._path, error)
        if not self.is_claimed():
            _write_json(self._path / SETTINGS, self._settings)
        self.compare_settings()
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


@contextmanager
def video_lock(output: Path, name: str) -> Iterator[None]:
    """Lock a video of a run against other processes that share the run, where the system and the file system have locks.

    Args:
        output (Path): output folder of the run.
        name (str): name of the video.

    Raises:
        LockedError: another process evaluates the video.
    """
    folder = output / ".locks"
    folder.mkdir(exist_ok=True)
    with _locked(folder / name, f"evaluates {name} for {output}"):
        yield


@contextmanager
def _locked(path: Path, what: str, shared: bool = False) -> Iterator[OSError | None]:
    """Lock a file, where the system and the file system have locks.

    Args:
        path (Path): the file, which need not exist.
        what (str): what another run does that holds the lock, for the message.
        shared (bool): others may hold it at the same time, if they share it too.

    Yields:
        The error of a file system without locks; None if the file is locked, or the system has no locks.

    Raises:
        LockedError: another run has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with path.open("a+") as file:  # for NFS, whose shared locks need a file open for reading, and exclusive ones for writing
        found: OSError | None = None
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"another run {what}: wait until it ends, or use another folder") from None
        except OSError as error:
            found = error
        yield found


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
