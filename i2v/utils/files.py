"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_Content = TypeVar("_Content")
_SHOWN = 5  # files, in a message


def require_regular_file(path: str | Path) -> None:
    """Refuse to read from what is not a file: a named pipe would be waited for, a device may never end.

    Raises:
        FileNotFoundError: there is nothing of this name.
        ValueError: it is a folder, a named pipe, a socket or a device.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 (a Path would take longer, and it is called for every mask)
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and rename it to `path` when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix stays: some writers look at it
    try:
        with full_disk_named(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_each(read: Callable[[Path], _Content], paths: Iterable[Path]) -> list[_Content]:
    """What a function makes of each file; all are read, so that one error tells of all that are unusable.

    Raises:
        ValueError: the function raised it for some: the first one's message, and the names of the others.
    """
    contents, failures = [], {}
    for path in paths:
        try:
            contents.append(read(path))
        except ValueError as error:
            failures[path] = error
    if failures:
        first, *others = failures
        names = ", ".join([path.name for path in others[:_SHOWN]] + ["..."] * (len(others) > _SHOWN))
        more = f" ({len(others)} more files of this folder cannot be used: {names})" if others else ""
        raise ValueError(f"{failures[first]}{more}") from failures[first]
    return contents


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new, hidden folder beside `target` to write to, and rename it to `target` when the block ends without an error."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        with full_disk_named(target):
            yield partial
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """For a block that writes a file: the system's errors for a full disk and the like say nothing of what was written."""
    try:
        yield
    except OSError as error:
        full = "the disk is full"
        reasons = {errno.ENOSPC: full, errno.EDQUOT: full, errno.EFBIG: "it is larger than files may be here (ulimit -f)"}
        if error.errno not in reasons or str(path) in str(error):
            raise
        raise OSError(f"cannot write {path}: {reasons[error.errno]}") from error
