"""Videos, uploads and saved sessions: everything on disk that the page may see."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from i2v.app.pictures import Pictures
from i2v.app.scheduler import Scheduler
from i2v.app.session import AnnotationSession, ConflictError, Event
from i2v.app.store import SessionStore
from i2v.data.frames import open_frames
from i2v.data.images import ALL_SUFFIXES, IMAGE_SUFFIXES, kind_of
from i2v.data.video_file import VIDEO_SUFFIXES
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.utils.command_line import one_line
from i2v.utils.files import atomic_write
from i2v.utils.json_form import require_form

log = logging.getLogger(__name__)

_ID = re.compile(r"[0-9a-f]{16}")
_MAX_LISTED = 10_000  # entries of a folder
_MAX_UPLOADED_FILES = 20_000
_MAX_UPLOADS = 8  # that were begun and not opened
_MAX_NAME = 200  # bytes of a file's name


class NotFoundError(KeyError):
    """No such video, session, upload or export."""


class BusyError(RuntimeError):
    """There are too many of something."""


class TooLargeError(ValueError):
    """An upload is larger than allowed."""


@dataclass
class OpenSession:
    """A session in memory.

    Attributes:
        id (str): its id, and the name of its folder.
        session (AnnotationSession): the session.
        pictures (Pictures): its frames as JPEGs.
        folder (Path): its folder.
        video (Path): the video.
        num_pages (int): number of pages that show it.
        used (float): when it was used last, in seconds of the monotonic clock.
    """

    id: str
    session: AnnotationSession
    pictures: Pictures
    folder: Path
    video: Path
    num_pages: int = 0
    used: float = field(default_factory=time.monotonic)


class Workspace:
    """The videos under a folder, uploads, and the sessions.

    Args:
        root (Path): folder of the videos. Nothing outside of it is served, not through links either.
        only (str or None): name of the only file in it that is served; None for all.
        folder (Path): folder of the sessions, which is created.
        predictor (I2VVideoPredictor): the predictor.
        notify (Callable[[str, Event], None]): called with a session's id and each of its events, in any thread.
        max_sessions (int): number of sessions in memory.
        max_upload_bytes (int): size of an upload.
    """

    def __init__(
        self,
        root: Path,
        only: str | None,
        folder: Path,
        predictor: I2VVideoPredictor,
        notify: Callable[[str, Event], None],
        max_sessions: int = 8,
        max_upload_bytes: int = 4 * 2**30,
    ) -> None:
        self.root = root.resolve()
        self.only = only
        self.folder = folder.resolve()
        self.max_upload_bytes = max_upload_bytes
        self.scheduler = Scheduler()
        self._predictor = predictor
        self._notify = notify
        self._max_sessions = max_sessions
        self._open: dict[str, OpenSession] = {}
        self._lock = threading.RLock()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()

    def close(self) -> None:
        """Close all sessions, and end the network's thread."""
        with self._lock:
            for opened in list(self._open.values()):
                self._close(opened)
            self.scheduler.close()

    # Videos

    def list_folder(self, path: str) -> dict[str, Any]:
        """Folders and videos in a folder under the root.

        Raises:
            NotFoundError: no such folder.
        """
        folder = self._resolve(path)
        if not folder.is_dir():
            raise NotFoundError(f"no such folder: {path}")
        folders, videos = [], []
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name.lower())[:_MAX_LISTED]
        for entry in entries:
            relative = str(PurePosixPath(path) / entry.name)
            if entry.name.startswith(".") or not self._is_inside(entry) or (self.only is not None and entry.name != self.only):
                continue
            if entry.is_dir():
                folders.append({"name": entry.name, "path": relative, "num_images": _num_images(entry)})
            elif entry.is_file() and entry.suffix.lower() in VIDEO_SUFFIXES:
                videos.append({"name": entry.name, "path": relative, "bytes": entry.stat().st_size})
        parent = None if folder == self.root else str(PurePosixPath(path).parent).removeprefix(".")
        own = _num_images(folder) if self.only is None else 0
        return {"path": path, "parent": parent, "num_images": own, "folders": folders, "videos": videos}

    def _resolve(self, path: str) -> Path:
        """A path under the root.

        Raises:
            NotFoundError: it does not exist, or leads elsewhere.
        """
        unknown = NotFoundError(f"no such file or folder: {path!r}")
        parts = PurePosixPath(path).parts
        if "\0" in path or "\\" in path or path.startswith("/") or any(part.startswith(".") for part in parts):
            raise unknown
        if self.only is not None and parts and parts[0] != self.only:
            raise unknown
        try:
            path.encode()  # some systems have names that are not text
            found = (self.root / path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise unknown from None
        if not self._is_visible(found):
            raise unknown
        return found

    def _is_inside(self, path: Path) -> bool:
        try:
            path.name.encode()
            return self._is_visible(path.resolve(strict=True))
        except (OSError, RuntimeError, UnicodeError):
            return False

    def _is_visible(self, found: Path) -> bool:
        """Whether a path without links is under the root, and not hidden."""
        return found.is_relative_to(self.root) and not any(part.startswith(".") for part in found.relative_to(self.root).parts)

    # Sessions

    def sessions(self, video: Path | None = None) -> list[dict[str, Any]]:
        """The saved sessions, those that changed last first; optionally of one video only."""
        found = []
        for folder in self.folder.iterdir():
            if (about := _read_about(folder)) is None or (video is not None and about["video"] != str(video)):
                continue
            with self._lock:
                opened = self._open.get(folder.name)
            numbers = _numbers(folder / "session.db") if opened is None else None
            if opened is not None:
                numbers = len(opened.session.to_json()["objects"]), opened.session.num_masks()
            if numbers is None:  # another server has it open, or it is damaged
                continue
            path = Path(about["video"])
            relative = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None
            files = (folder / "session.db", folder / "session.db-wal")
            changed = max(file.stat().st_mtime for file in files if file.exists())
            found.append(
                {"id": folder.name, "name": about["name"], "path": relative, "changed": changed}
                | {"num_objects": numbers[0], "num_masks": numbers[1], "is_open": opened is not None}
            )
        return sorted(found, key=lambda entry: entry["changed"], reverse=True)

    def find(self, path: str) -> Path:
        """The video at a path under the root.

        Raises:
            NotFoundError: there is none.
        """
        video = self._resolve(path)
        if self.only is not None and video == self.root:
            raise NotFoundError(f"no such video: {path}")
        return video

    def create(self, video: Path, name: str, session_id: str | None = None) -> OpenSession:
        """Start a session for a video.

        Args:
            video (Path): the video.
            name (str): its name, for people.
            session_id (str or None): id of the upload that it belongs to.

        Raises:
            ValueError: the video cannot be read.
            OSError: the session cannot be written.
            BusyError: too many sessions are in use.
        """
        self._make_room()
        try:
            frames = open_frames(video)  # before anything is written
        except OSError as error:
            raise ValueError(one_line(error)) from error
        frames.close()
        folder = self.folder / (session_id or secrets.token_hex(8))
        folder.mkdir(exist_ok=True)
        about = {"video": str(video), "name": name, "size": list(frames.size), "num_frames": frames.count()}
        try:
            with atomic_write(folder / "about.json") as temporary:
                temporary.write_text(json.dumps(about))
            return self.open(folder.name)
        except BaseException:
            if session_id is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                (folder / "about.json").unlink(missing_ok=True)
            raise

    def open(self, session_id: str) -> OpenSession:
        """A session, which is read from disk if it is not in memory.

        Raises:
            NotFoundError: no such session.
            ConflictError: its video is gone or is another one now.
            BlockingIOError: another server has it open.
            BusyError: too many sessions are in use.
        """
        if (opened := self._open.get(session_id)) is not None:  # without the lock: another one may take long to open
            opened.used = time.monotonic()
            return opened
        with self._lock:
            if session_id in self._open:
                return self._open[session_id]
            folder = self._session_folder(session_id)
            about = _read_about(folder)
            if about is None:
                raise NotFoundError(f"no such session: {session_id}")
            self._make_room()
            video = Path(about["video"])
            if not video.exists():
                raise ConflictError(f"{video}, the video of this session, is gone: put it back, or remove the session")
            if not (video.is_relative_to(folder) or self._is_served(video)):
                raise ConflictError(f"{video}, the video of this session, is outside of the folder that this server may show")
            frames = open_frames(video)
            if [list(frames.size), frames.count()] != [about["size"], about["num_frames"]]:
                frames.close()
                raise ConflictError(f"{video} has changed since this session: it has another size or number of frames")
            store = None
            try:
                store = SessionStore(folder / "session.db")
                session = AnnotationSession(
                    self._predictor, self.scheduler, frames, about["name"], store, lambda event: self._notify(session_id, event)
                )
            except BaseException:
                frames.close()
                if store is not None:
                    store.close()
                raise
            self._open[session_id] = OpenSession(session_id, session, Pictures(open_frames(video)), folder, video)
            return self._open[session_id]

    def remove(self, session_id: str) -> None:
        """Remove a saved session, with its upload and exports.

        Raises:
            NotFoundError: no such session.
        """
        folder = self._session_folder(session_id)
        opened = self._open.get(session_id)
        if opened is not None:
            opened.session.stop()  # without the lock: others need not wait for it
        with self._lock:
            if session_id in self._open:
                self._close(self._open[session_id])
            shutil.rmtree(folder)

    def _is_served(self, video: Path) -> bool:
        return video.is_relative_to(self.root) and (self.only is None or video.relative_to(self.root).parts[:1] == (self.only,))

    def _session_folder(self, session_id: str) -> Path:
        folder = self.folder / session_id
        if not _ID.fullmatch(session_id) or not folder.is_dir():
            raise NotFoundError(f"no such session: {session_id}")
        return folder

    def _make_room(self) -> None:
        """Close the session that was not used for the longest time, if there are too many in memory."""
        with self._lock:
            if len(self._open) < self._max_sessions:
                return
            idle = [opened for opened in self._open.values() if not opened.num_pages and opened.session.job is None]
            if not idle:
                raise BusyError(f"{self._max_sessions} sessions are in use: close the page of one of them")
            self._close(min(idle, key=lambda opened: opened.used))

    def _close(self, opened: OpenSession) -> None:
        del self._open[opened.id]
        opened.session.close()
        opened.session.frames.close()
        opened.pictures.close()

    # Uploads

    def begin_upload(self, files: list[dict[str, Any]]) -> str:
        """Reserve a folder for an upload: one video, or images.

        Args:
            files (list[dict]): "name" and "bytes" of each file.

        Returns:
            Its id.

        Raises:
            ValueError: the files are not one video or images, or names are not usable.
            TooLargeError: they are too large.
            BusyError: too many uploads were begun.
        """
        if not 0 < len(files) <= _MAX_UPLOADED_FILES:
            raise ValueError(f"upload one video, or from 1 to {_MAX_UPLOADED_FILES} images")
        names = [file["name"] for file in files]
        suffixes = {PurePosixPath(name).suffix.lower() for name in names}
        is_video = len(files) == 1 and suffixes <= set(VIDEO_SUFFIXES)
        if not is_video and not suffixes <= set(ALL_SUFFIXES):
            kinds = ", ".join([*VIDEO_SUFFIXES, *IMAGE_SUFFIXES])
            raise ValueError(f"upload one video, or images, of these kinds: {kinds}")
        for name in names:
            if not _is_usable(name):
                raise ValueError(f"{name[:50]!r} cannot be the name of a file here: rename it")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two files have the same name")
        if sum(file["bytes"] for file in files) > self.max_upload_bytes or any(file["bytes"] < 0 for file in files):
            raise TooLargeError(f"an upload has at most {self.max_upload_bytes / 2**20:.0f} MiB")
        with self._lock:
            if sum(1 for _ in self.folder.glob("*/upload.json")) >= _MAX_UPLOADS:
                raise BusyError(f"{_MAX_UPLOADS} uploads were begun: finish or cancel one of them")
            upload = secrets.token_hex(8)
            (self.folder / upload / "video").mkdir(parents=True)
        with atomic_write(self.folder / upload / "upload.json") as temporary:
            temporary.write_text(json.dumps(files))
        return upload

    def upload_target(self, upload: str, index: int) -> tuple[Path, int]:
        """The file to write, and its size in bytes.

        Raises:
            NotFoundError: no such upload or file.
        """
        files = self._upload(upload)
        if not 0 <= index < len(files):
            raise NotFoundError(f"this upload has no file {index}")
        return self.folder / upload / "video" / files[index]["name"], files[index]["bytes"]

    def finish_upload(self, upload: str) -> OpenSession:
        """Start a session for an upload.

        Raises:
            NotFoundError: no such upload.
            ConflictError: files are missing.
            ValueError: the video or an image cannot be read. Nothing of the upload is left then.
        """
        files = self._upload(upload)
        folder = self.folder / upload / "video"
        missing = [file["name"] for file in files if not (folder / file["name"]).is_file()]
        if missing:
            raise ConflictError(f"the upload is not complete: {missing[0]} is missing")
        single = folder / files[0]["name"]
        is_video = len(files) == 1 and single.suffix.lower() in VIDEO_SUFFIXES
        try:
            opened = self.create(single if is_video else folder, single.name if is_video else f"{len(files)} images", upload)
        except ValueError:
            self.cancel_upload(upload)
            raise
        (self.folder / upload / "upload.json").unlink()
        return opened

    def cancel_upload(self, upload: str) -> None:
        """Remove an upload that was not opened.

        Raises:
            NotFoundError: no such upload.
        """
        self._upload(upload)
        shutil.rmtree(self.folder / upload)

    def _upload(self, upload: str) -> list[dict[str, Any]]:
        path = self.folder / upload / "upload.json"
        if not _ID.fullmatch(upload) or not path.is_file():
            raise NotFoundError(f"no such upload: {upload}")
        return json.loads(path.read_text())

    def _remove_leftovers(self) -> None:
        """Remove uploads that were begun a day ago and not opened."""
        for path in self.folder.glob("*/upload.json"):
            if time.time() - path.stat().st_mtime > 24 * 3600:
                shutil.rmtree(path.parent, ignore_errors=True)


def _num_images(folder: Path) -> int:
    try:
        return sum(1 for entry in folder.iterdir() if kind_of(entry) is not None and not entry.name.startswith("."))
    except OSError:
        return 0


def _is_usable(name: str) -> bool:
    """Whether a name is that of a file in any folder."""
    return (
        PurePosixPath(name).name == name
        and not name.startswith(".")
        and all(character.isprintable() and character not in '\\/:*?"<>|' for character in name)
        and 0 < len(name.encode()) <= _MAX_NAME
    )


def _read_about(folder: Path) -> dict[str, Any] | None:
    """What a session is about; None if the folder is none of a session."""
    try:
        about = json.loads((folder / "about.json").read_text())
        require_form(about, {"video": str, "name": str, "size": [int], "num_frames": int}, "about.json")
    except (OSError, ValueError):
        return None
    return about


def _numbers(path: Path) -> tuple[int, int] | None:
    """Numbers of objects and masks in a session's file; None if it cannot be read."""
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)
        try:
            facts = database.execute("SELECT value FROM facts WHERE name = 'objects'").fetchone()
            objects = [] if facts is None else [int(entry["id"]) for entry in json.loads(facts[0])]
            masks = database.execute(f"SELECT COUNT(*) FROM masks WHERE object IN ({', '.join(map(str, objects))})").fetchone()
        finally:
            database.close()
    except (sqlite3.Error, ValueError, LookupError, TypeError):
        return None
    return len(objects), masks[0]
