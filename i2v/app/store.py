"""What a session keeps on disk, in one SQLite file: prompts, masks, and what the network remembers.

Each change is one transaction, so that a killed process loses at most the change that it was writing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS masks (
    object INTEGER, frame INTEGER, rle TEXT NOT NULL, visible TEXT, area REAL NOT NULL, confidence REAL NOT NULL,
    outdated INTEGER NOT NULL, reverse INTEGER NOT NULL, change INTEGER NOT NULL, PRIMARY KEY (object, frame)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outputs (object INTEGER, frame INTEGER, data BLOB NOT NULL, PRIMARY KEY (object, frame));
"""
_VERSION = 1  # of these tables


@dataclass
class MaskRow:
    """The mask of one object in one frame.

    Attributes:
        object (int): the object's id.
        frame (int): index of the frame.
        rle (str): counts of its COCO RLE.
        visible (str or None): counts of the pixels that are its own in a label image, where objects overlap; None for all.
        area (float): share of the frame, 0 to 1.
        confidence (float): predicted IoU, about 0 to 1.
        outdated (bool): whether a prompt that it depends on has changed since.
        reverse (bool): whether it was tracked backward.
        change (int): number of the change of the session that it is; they are counted.
    """

    object: int
    frame: int
    rle: str
    visible: str | None
    area: float
    confidence: float
    outdated: bool
    reverse: bool
    change: int


class SessionStore:
    """The file of one session. Several threads may use it.

    What cannot be written, because the disk is full, is kept in memory and written with the next change.

    Args:
        path (Path): the file, which is created if it does not exist.

    Raises:
        ValueError: it is not the file of a session, or of a later version.
        BlockingIOError: another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        # Not written yet: masks, outputs and marks by (object, frame), None for what to delete; facts by name.
        self._masks: dict[tuple[int, int], MaskRow | None] = {}
        self._outputs: dict[tuple[int, int], bytes | None] = {}
        self._outdated: dict[tuple[int, int], bool] = {}
        self._facts: dict[str, Any] = {}
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        except sqlite3.Error as error:
            raise OSError(f"cannot open {path}: {error}") from error
        try:
            version = self._prepare()
        except BaseException:
            self.close()
            raise
        if version != _VERSION:
            self.close()
            raise ValueError(f"{path} was written by another version of the page (format {version}, not {_VERSION})")
        self._facts["version"] = _VERSION

    def _prepare(self) -> int:
        """Lock the file, and make the tables. Returns the version of those that it has."""
        try:
            # No other process may write to it, even between two changes.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                self._database.execute(statement)
            self._database.execute("COMMIT")
            return self.fact("version", _VERSION)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BlockingIOError(f"{self.path} is open in another server: use its page, or stop it") from error
            raise OSError(f"cannot open {self.path}: {error}") from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ValueError(f"{self.path} is not the file of a session, or is damaged ({error}): remove its folder") from error

    def close(self) -> None:
        """Close the file; it can be opened again."""
        with self._lock:
            self._database.close()

    def fact(self, name: str, default: Any = None) -> Any:
        """A value of `set_fact`, or the default."""
        with self._lock:
            if name in self._facts:
                return self._facts[name]
            row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
            return default if row is None else json.loads(row[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Set a value, which JSON can hold; `save` writes it."""
        with self._lock:
            self._facts[name] = value

    def set_mask(self, row: MaskRow) -> None:
        """Set the mask of an object in a frame; `save` writes it."""
        with self._lock:
            self._masks[row.object, row.frame] = row
            self._outdated.pop((row.object, row.frame), None)

    def remove_mask(self, object_id: int, frame: int) -> None:
        """Remove the mask of an object in a frame; `save` writes it."""
        with self._lock:
            self._masks[object_id, frame] = None

    def set_output(self, object_id: int, frame: int, data: bytes | None) -> None:
        """Set or remove what the network remembers of an object in a frame; `save` writes it."""
        with self._lock:
            self._outputs[object_id, frame] = data

    def masks(self, frame: int) -> list[MaskRow]:
        """The masks of a frame, sorted by object."""
        with self._lock:
            rows = self._database.execute("SELECT * FROM masks WHERE frame = ?", (frame,)).fetchall()
            found: dict[int, MaskRow | None] = {row.object: row for row in map(_mask_row, rows)}
            found |= {obj: row for (obj, of), row in self._masks.items() if of == frame}
            rows = [row for _, row in sorted(found.items()) if row is not None]
            return [replace(row, outdated=self._outdated.get((row.object, frame), row.outdated)) for row in rows]

    def all_masks(self, object_ids: Iterable[int]) -> Iterator[MaskRow]:
        """All masks of some objects, without their RLEs, as they are in the file."""
        columns = "object, frame, '', NULL, area, confidence, outdated, reverse, change"
        with self._lock:
            yield from map(_mask_row, self._of(object_ids, f"SELECT {columns} FROM masks"))

    def outputs(self, object_ids: Iterable[int]) -> Iterator[tuple[int, int, bytes]]:
        """All that the network remembers of some objects: object, frame, data."""
        with self._lock:
            yield from self._of(object_ids, "SELECT object, frame, data FROM outputs")

    def _of(self, object_ids: Iterable[int], query: str) -> sqlite3.Cursor:
        return self._database.execute(f"{query} WHERE object IN ({_listed(object_ids)}) ORDER BY object, frame")

    def set_outdated(self, object_id: int, frames: Iterable[int], outdated: bool) -> None:
        """Mark masks as out of date, or as up to date again; `save` writes it."""
        with self._lock:
            self._outdated |= {(object_id, frame): outdated for frame in frames}

    def keep_objects(self, object_ids: Iterable[int]) -> None:
        """Remove masks and memories of all other objects.

        Raises:
            OSError: see `save`.
        """
        kept = _listed(object_ids)
        with self._lock, self._transaction():
            for table in ("masks", "outputs"):
                self._database.execute(f"DELETE FROM {table} WHERE object NOT IN ({kept})")

    def save(self) -> None:
        """Write all changes.

        Raises:
            OSError: they cannot be written, as on a full disk. They stay in memory, and the next call tries again.
        """
        with self._lock:
            with self._transaction():
                for (obj, frame), row in self._masks.items():
                    if row is None:
                        self._database.execute("DELETE FROM masks WHERE object = ? AND frame = ?", (obj, frame))
                    else:
                        values = astuple(row)
                        self._database.execute("INSERT OR REPLACE INTO masks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                for (obj, frame), data in self._outputs.items():
                    if data is None:
                        self._database.execute("DELETE FROM outputs WHERE object = ? AND frame = ?", (obj, frame))
                    else:
                        self._database.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", (obj, frame, data))
                self._database.executemany(
                    "UPDATE masks SET outdated = ? WHERE object = ? AND frame = ?",
                    [(outdated, obj, frame) for (obj, frame), outdated in self._outdated.items()],
                )
                for name, value in self._facts.items():
                    self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
            self._masks.clear()
            self._outputs.clear()
            self._outdated.clear()
            self._facts.clear()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            reason = "the disk is full" if "full" in str(error) else str(error)
            raise OSError(f"cannot write {self.path}: {reason}") from error


def _listed(object_ids: Iterable[int]) -> str:
    return ", ".join(str(int(obj)) for obj in object_ids)


def _mask_row(values: tuple[Any, ...]) -> MaskRow:
    obj, frame, rle, visible, area, confidence, outdated, reverse, change = values
    return MaskRow(obj, frame, rle, visible, area, confidence, bool(outdated), bool(reverse), change)
