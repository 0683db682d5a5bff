"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
