"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_Content = TypeVar("_Content")
_SHOWN = 5  # number of files in a message
_NUMBERS = itertools.count()  # of temporary files


def require_regular_file(path: str | Path) -> None:
    """Refuse anything that is not a regular file: reading a named pipe would block, and a device may never end.

    Raises:
        FileNotFoundError: nothing exists under this name.
        ValueError: it is a folder, a named pipe, a socket or a device.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 (a Path is slower, and this is called for every mask)
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to, and rename it to `path` if the block ends without an error."""
    path = Path(path)
    # With the host and a number, because processes on several hosts, and several threads, may write the same file; with the
    # suffix, which some writers look at.
    temporary = path.with_name(f".{platform.node()}.{os.getpid()}.{next(_NUMBERS)}.{path.name}")
    try:
        with full_disk_named(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_each(read: Callable[[Path], _Content], paths: Iterable[Path]) -> list[_Content]:
    """Apply a function to all files, so that one error names all unusable ones.

    Args:
        read (Callable[[Path], _Content]): function that reads a file.
        paths (Iterable[Path]): the files.

    Returns:
        The function's results.

    Raises:
        ValueError: the function raised it for some files; the first message, and the names of the other files.
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
    """Yield a new, hidden folder beside `target` to write to, and rename it to `target` if the block ends without an error."""
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
    """Name the file in a block's errors for a full disk and the like, because the system's do not."""
    try:
        yield
    except OSError as error:
        full = "the disk is full"
        reasons = {errno.ENOSPC: full, errno.EDQUOT: full, errno.EFBIG: "it is larger than files may be here (ulimit -f)"}
        if error.errno not in reasons or str(path) in str(error):
            raise
        raise OSError(f"cannot write {path}: {reasons[error.errno]}") from error
