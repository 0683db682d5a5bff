"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_Content = TypeVar("_Content")
_SHOWN = 5  # files, in a message


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to, and rename it to `path` when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # the suffix stays: some writers look at it
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        yield partial
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
