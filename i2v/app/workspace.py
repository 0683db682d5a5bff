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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from i2v.app.pictures import Pictures
from i2v.app.scheduler import Scheduler
from i2v.app.session import AnnotationSession, ConflictError, Event
from i2v.app.store import SessionStore
from i2v.data.frames import Frames, ImageFolder, open_frames
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
_UPLOAD_SECONDS = 3600  # after which an upload to which nothing was written is given up
_LIST_SECONDS = 0.1  # for which the list of sessions waits for another server's list


class NotFoundError(KeyError):
    """No such video, session, upload or export."""


class BadRequestError(ValueError):
    """What was sent, or the file that it names, cannot be used."""


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
        num_users (int): number of pages that show it, and of requests that use it; it stays in memory for them.
        used (float): when it was used last, in seconds of the monotonic clock.
        is_closed (bool): whether it leaves the memory, or has left it.
        exports (list[dict]): the finished exports, the latest first: "id", "name", "bytes", "formats".
    """

    id: str
    session: AnnotationSession
    pictures: Pictures
    folder: Path
    num_users: int = 0
    used: float = field(default_factory=time.monotonic)
    is_closed: bool = False
    exports: list[dict[str, Any]] = field(default_factory=list)

    def refresh_exports(self) -> None:
        """Read from disk which exports there are."""
        found = [(path.stat().st_mtime, path) for path in (self.folder / "exports").glob("*/export.json")]
        self.exports = [{"id": path.parent.name, **json.loads(path.read_text())} for _, path in sorted(found, reverse=True)]


class Workspace:
    """The videos under a folder, uploads, and the sessions.

    Args:
        root (Path): folder of the videos. Nothing outside of it is served, not even through links.
        only (str or None): name of the only file in it that is served; None for all.
        folder (Path): folder of the sessions, which is created.
        predictor (I2VVideoPredictor): the predictor.
        notify (Callable[[str, Event], None]): called with a session's id and each of its events, in any thread.
        max_sessions (int): number of sessions in memory.
        max_upload_bytes (int): size of an upload.
        max_bytes (int or None): memory for what the network remembers of all sessions; None for any.
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
        max_bytes: int | None = None,
    ) -> None:
        self.root = root.resolve()
        self.only = only
        self.folder = folder.resolve()
        self.max_upload_bytes = max_upload_bytes
        self.scheduler = Scheduler()
        self._predictor = predictor
        self._notify = notify
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        # The lock of the dictionaries and of the entries' num_users and is_closed; never held while files are read.
        self._lock = threading.Lock()
        self._open: dict[str, OpenSession] = {}
        self._opening: set[str] = set()
        self._session_locks: dict[str, threading.Lock] = {}  # held while a session is opened, closed or removed
        self._list_lock = threading.Lock()  # readers of a session's file would lock each other out
        self._upload_lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()

    def close(self) -> None:
        """Close all sessions, and end the network's thread."""
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
        """The saved sessions, most recently changed first; optionally those of one video only.

        The numbers of objects and masks are None while another server has the session open, or this one is opening it.
        """
        found = []
        for folder in self.folder.iterdir():
            about = _read_about(folder)
            if about is None or (video is not None and about["video"] != str(video)):
                continue
            with self._lock:
                opened = self._open.get(folder.name)
            numbers: tuple[int, int] | tuple[None, None] = (None, None)
            is_elsewhere = False
            try:
                if opened is not None:
                    numbers = len(opened.session.to_json()["objects"]), opened.session.num_masks()
                else:
                    with self._list_lock:
                        numbers = _numbers(folder / "session.db")
            except BlockingIOError:
                is_elsewhere = folder.name not in self._open and not self._session_lock(folder.name).locked()
            except ValueError:  # it is damaged, or does not exist yet
                continue
            path = Path(about["video"])
            relative = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None
            found.append(
                {"id": folder.name, "name": about["name"], "path": relative, "changed": _changed(folder)}
                | {"num_objects": numbers[0], "num_masks": numbers[1], "is_open": folder.name in self._open}
                | {"is_open_elsewhere": is_elsewhere}
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

    def create(self, video: Path, name: str, upload: str | None = None) -> OpenSession:
        """Start a session for a video.

        Args:
            video (Path): the video.
            name (str): its name, for people.
            upload (str or None): id of the upload that it belongs to.

        Raises:
            BadRequestError: the video cannot be read.
            ConflictError: it leads out of the root through links.
            OSError: the session cannot be written.
            BusyError: too many sessions are in use.
        """
        session_id = upload or secrets.token_hex(8)
        folder = self.folder / session_id
        with self._session_lock(session_id), self._room_for(session_id):
            if upload is not None:
                self._upload(upload)  # another request may have opened or cancelled it
            frames = self._open_video(video, folder)  # before anything is written
            folder.mkdir(exist_ok=True)
            try:
                about = {"video": str(video), "name": name, "size": list(frames.size), "num_frames": frames.count()}
                with atomic_write(folder / "about.json") as temporary:
                    temporary.write_text(json.dumps(about))
                return self._read_session(folder, name, frames)
            except BaseException:
                frames.close()
                if upload is None:
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    (folder / "about.json").unlink(missing_ok=True)
                raise

    def open(self, session_id: str) -> OpenSession:
        """A session, which is read from disk if it is not in memory.

        Raises:
            NotFoundError: no such session.
            ConflictError: its video is gone, is another one now, or leads out of the root through links.
            BadRequestError: the video or the session's file is damaged.
            BlockingIOError: another server has it open.
            BusyError: too many sessions are in use.
        """
        with self._lock:
            opened = self._open.get(session_id)
        if opened is not None and not opened.is_closed:
            opened.used = time.monotonic()
            return opened
        self._session_folder(session_id)
        with self._session_lock(session_id):
            opened = self._open.get(session_id)
            if opened is not None and not opened.is_closed:
                return opened
            if opened is not None:
                self._close_locked(opened)
            folder = self._session_folder(session_id)
            about = _read_about(folder)
            if about is None:
                raise NotFoundError(f"no such session: {session_id}")
            with self._room_for(session_id):
                video = Path(about["video"])
                if not video.exists():
                    raise ConflictError(f"{video}, the video of this session, is gone: put it back, or remove the session")
                frames = self._open_video(video, folder)
                try:
                    if [list(frames.size), frames.count()] != [about["size"], about["num_frames"]]:
                        raise ConflictError(f"{video} has changed since this session: it has another size or number of frames")
                    return self._read_session(folder, about["name"], frames)
                except BaseException:
                    frames.close()
                    raise

    def acquire(self, session_id: str) -> OpenSession:
        """A session, as of `open`, which stays in memory until `release`.

        Raises:
            See `open`.
        """
        while True:
            opened = self.open(session_id)
            with self._lock:
                if not opened.is_closed:
                    opened.num_users += 1
                    return opened

    def release(self, opened: OpenSession) -> None:
        """Say that a session of `acquire` is not used any more."""
        with self._lock:
            opened.num_users -= 1
            opened.used = time.monotonic()

    def remove(self, session_id: str) -> None:
        """Remove a saved session, with its upload and exports.

        Raises:
            NotFoundError: no such session.
        """
        self._session_folder(session_id)
        opened = self._open.get(session_id)
        if opened is not None:
            opened.session.stop()  # without the lock: others need not wait for it
        with self._session_lock(session_id):
            folder = self._session_folder(session_id)
            if session_id in self._open:
                self._close_locked(self._open[session_id])
            shutil.rmtree(folder)

    def require_memory(self, opened: OpenSession, num_frames: int | None) -> None:
        """Check that there is memory for tracking a session.

        Args:
            opened (OpenSession): the session, which has a mask.
            num_frames (int or None): number of frames to track; None for all.

        Raises:
            BusyError: there is not.
        """
        session = opened.session
        known, count = session.num_masks(), session.frames.count()
        objects = len(session.to_json()["objects"])
        masks = min(known + objects * min(num_frames or count, count), objects * count)
        if known:
            self._make_room(more_bytes=session.bytes_kept * max(masks - known, 0) // known)

    def _open_video(self, video: Path, folder: Path) -> Frames:
        """The frames of a video, all of which may be shown.

        Raises:
            BadRequestError: it cannot be read.
            ConflictError: it leads out of the root through links.
        """
        if not self._is_served(video, folder):
            raise ConflictError(f"{video}, the video of this session, is outside of the folder that this server may show")
        try:
            frames = open_frames(video)
        except (OSError, ValueError) as error:
            raise BadRequestError(one_line(error)) from error
        for path in frames.paths if isinstance(frames, ImageFolder) else []:
            if not self._is_served(path, folder):
                raise ConflictError(f"{path} is a link to a file outside of the folder that this server may show: remove it")
        return frames

    def _is_served(self, path: Path, folder: Path) -> bool:
        """Whether a file that exists is, after all links, under the root or in the session's own folder."""
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return False
        is_own = found.is_relative_to(folder)
        return is_own or (
            self._is_visible(found) and (self.only is None or found.relative_to(self.root).parts[:1] == (self.only,))
        )

    def _read_session(self, folder: Path, name: str, frames: Frames) -> OpenSession:
        """Read a session from its folder, whose lock is held; see `open`."""
        session_id = folder.name
        store = pictures = None
        try:
            store = SessionStore(folder / "session.db")
            pictures = Pictures(frames.another())
            session = AnnotationSession(
                self._predictor, self.scheduler, frames, name, store, lambda event: self._notify(session_id, event)
            )
            opened = OpenSession(session_id, session, pictures, folder)
            opened.refresh_exports()
        except BaseException as error:
            if store is not None:
                store.close()
            if pictures is not None:
                pictures.close()
            if isinstance(error, ValueError):
                raise BadRequestError(one_line(error)) from error
            raise
        with self._lock:
            self._open[session_id] = opened
        return opened

    def _session_folder(self, session_id: str) -> Path:
        folder = self.folder / session_id
        if not _ID.fullmatch(session_id) or not folder.is_dir():
            raise NotFoundError(f"no such session: {session_id}")
        return folder

    def _session_lock(self, session_id: str) -> threading.Lock:
        with self._lock:
            return self._session_locks.setdefault(session_id, threading.Lock())

    @contextmanager
    def _room_for(self, session_id: str) -> Iterator[None]:
        """A place in memory for a session that is opened in the block.

        Raises:
            BusyError: too many sessions are in use.
        """
        self._make_room(session_id)
        try:
            yield
        finally:
            with self._lock:
                self._opening.discard(session_id)

    def _make_room(self, session_id: str | None = None, more_bytes: int = 0) -> None:
        """Close sessions that were not used for the longest time, until there is room.

        Args:
            session_id (str or None): a session that is opened, which takes a place.
            more_bytes (int): memory that is needed.

        Raises:
            BusyError: all sessions are in use.
        """
        while True:
            with self._lock:
                here = [opened for opened in self._open.values() if not opened.is_closed]
                is_full = session_id is not None and len(here) + len(self._opening) >= self._max_sessions
                kept = sum(opened.session.bytes_kept for opened in here) + more_bytes
                is_too_large = self._max_bytes is not None and kept > self._max_bytes
                if not is_full and not is_too_large:
                    if session_id is not None:
                        self._opening.add(session_id)
                    return
                idle = [opened for opened in here if not opened.num_users and opened.session.job is None]
                if idle:
                    oldest = min(idle, key=lambda opened: opened.used)
                    oldest.is_closed = True
                elif is_full:
                    raise BusyError(f"{self._max_sessions} sessions are in use: close the page of one of them")
                else:
                    raise BusyError(
                        f"the sessions in use would need about {kept / 2**20:.0f} MiB of memory, and may have "
                        f"{(self._max_bytes or 0) / 2**20:.0f} (--max-memory): close the page of another, or track fewer frames"
                    )
            self._close(oldest)

    def _close(self, opened: OpenSession) -> None:
        """Close a session, unless another thread did so."""
        with self._session_lock(opened.id):
            if self._open.get(opened.id) is opened:
                self._close_locked(opened)

    def _close_locked(self, opened: OpenSession) -> None:
        with self._lock:
            opened.is_closed = True
        try:
            opened.session.close()
        finally:
            opened.session.frames.close()
            opened.pictures.close()
            with self._lock:
                del self._open[opened.id]

    # Uploads

    def begin_upload(self, files: list[dict[str, Any]]) -> str:
        """Reserve a folder for an upload: one video, or images.

        Args:
            files (list[dict]): "name" and "bytes" of each file.

        Returns:
            Its id.

        Raises:
            BadRequestError: the files are not one video or images, or names are not usable.
            TooLargeError: they are too large.
            BusyError: too many uploads were begun.
        """
        if not 0 < len(files) <= _MAX_UPLOADED_FILES:
            raise BadRequestError(f"upload one video, or from 1 to {_MAX_UPLOADED_FILES} images")
        names = [file["name"] for file in files]
        suffixes = {PurePosixPath(name).suffix.lower() for name in names}
        is_video = len(files) == 1 and suffixes <= set(VIDEO_SUFFIXES)
        if not is_video and not suffixes <= set(ALL_SUFFIXES):
            kinds = ", ".join([*VIDEO_SUFFIXES, *IMAGE_SUFFIXES])
            raise BadRequestError(f"upload one video, or images, of these kinds: {kinds}")
        for name in names:
            if not _is_usable(name):
                raise BadRequestError(f"{name[:50]!r} cannot be the name of a file here: rename it")
        if len({name.casefold() for name in names}) < len(names):
            raise BadRequestError("two files have the same name")
        if sum(file["bytes"] for file in files) > self.max_upload_bytes or any(file["bytes"] < 0 for file in files):
            raise TooLargeError(f"an upload has at most {self.max_upload_bytes / 2**20:.0f} MiB")
        with self._upload_lock:
            self._remove_leftovers()
            begun = [path for path in self.folder.glob("*/upload.json") if not (path.parent / "about.json").exists()]
            if len(begun) >= _MAX_UPLOADS:
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
            BadRequestError: the video or an image cannot be read. Nothing of the upload is left then.
        """
        files = self._upload(upload)
        folder = self.folder / upload / "video"
        missing = [file["name"] for file in files if not (folder / file["name"]).is_file()]
        if missing:
            raise ConflictError(f"the upload is not complete: {missing[0]} is missing")
        single = folder / files[0]["name"]
        is_video = len(files) == 1 and single.suffix.lower() in VIDEO_SUFFIXES
        try:
            name = single.name if is_video else f"{len(files)} image{'s' if files[1:] else ''}"
            opened = self.create(single if is_video else folder, name, upload)
        except BadRequestError as error:
            self.cancel_upload(upload)
            raise BadRequestError(str(error).replace(f"{folder}/", "")) from error  # who uploads did not choose that folder
        (self.folder / upload / "upload.json").unlink()
        return opened

    def cancel_upload(self, upload: str) -> None:
        """Remove an upload that was not opened.

        Raises:
            NotFoundError: no such upload.
        """
        with self._session_lock(upload):
            self._upload(upload)
            shutil.rmtree(self.folder / upload)

    def _upload(self, upload: str) -> list[dict[str, Any]]:
        path = self.folder / upload / "upload.json"
        if not _ID.fullmatch(upload) or not path.is_file() or (path.parent / "about.json").exists():
            raise NotFoundError(f"no such upload: {upload}")
        return json.loads(path.read_text())

    def _remove_leftovers(self) -> None:
        """Remove uploads that nobody finished, and folders that a process left while it made them."""
        for folder in self.folder.iterdir():
            if not _ID.fullmatch(folder.name) or (folder / "about.json").exists():
                continue
            written = max(map(_modified, [folder, *folder.glob("upload.json"), *folder.glob("video"), *folder.glob("video/*")]))
            if time.time() - written > _UPLOAD_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


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
    """What a session is about; None if the folder is not a session's."""
    try:
        about = json.loads((folder / "about.json").read_text())
        require_form(about, {"video": str, "name": str, "size": [int], "num_frames": int}, "about.json")
    except (OSError, ValueError):
        return None
    return about


def _modified(path: Path) -> float:
    """When a file was written last, in seconds; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _changed(folder: Path) -> float:
    """When a session was saved last, in seconds. SQLite removes its log at any time."""
    return max(map(_modified, [folder / "session.db", folder / "session.db-wal"]))


def _numbers(path: Path) -> tuple[int, int]:
    """Numbers of objects and masks in a session's file.

    Raises:
        BlockingIOError: it is open.
        ValueError: it cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_LIST_SECONDS)) as database:
            facts = database.execute("SELECT value FROM facts WHERE name = 'objects'").fetchone()
            objects = [] if facts is None else [int(entry["id"]) for entry in json.loads(facts[0])]
            masks = database.execute(f"SELECT COUNT(*) FROM masks WHERE object IN ({', '.join(map(str, objects))})").fetchone()
    except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
        if "locked" in str(error):
            raise BlockingIOError(f"{path} is open") from error
        raise ValueError(f"{path} cannot be read: {error}") from error
    return len(objects), masks[0]
