"""Folders, file lists and JSON files of data sets."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import logging
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from PIL import Image

from i2v.utils.files import require_regular_file

log = logging.getLogger(__name__)

# Names, in lower case, of what systems and programs leave in folders, besides those that begin with a dot.
_FOREIGN = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "#recycle", "$recycle.bin"}
# How the contents begin that are often found under a wrong suffix.
_CONTENTS = {
    "an image": re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|BM....\0{4}|....ftyp(?:hei|mif|avif)", re.DOTALL),
    "a video": re.compile(rb"....(?:ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL),
    "a playlist": re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat|file\s|v=0\s|\[playlist|(?:<\?xml.*)?<MPD)", re.DOTALL),
}
# What json, Pillow, NumPy and look-ups in their results raise for a malformed file.
_MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    EOFError,
    RecursionError,
    MemoryError,
    struct.error,
    zlib.error,
    csv.Error,
    Image.DecompressionBombError,
)


@contextmanager
def named_errors(source: Path | str, error_type: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn the exceptions caused by a missing, malformed or oversized file into an error that names it.

    Args:
        source (Path or str): the file or folder that is read.
        error_type (type[ValueError]): class of the error; if it is a subclass of ValueError, errors of this class pass
            unchanged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise error_type(f"no such file: {source}") from error
    except _MALFORMED as error:
        if isinstance(error, error_type) and (error_type is not ValueError or str(source) in str(error)):
            raise
        if str(source) in str(error):
            raise error_type(str(error)) from error
        raise error_type(f"{source} is unreadable or malformed: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=4096)
def warn_once(message: str) -> None:
    """Log a warning, once per process, because a folder may be read thousands of times."""
    log.warning("%s", message)


def listed(items: Sequence[Any], shown: int = 5, first: int = 0) -> str:
    """Format a list for a message.

    Args:
        items (Sequence[Any]): the items.
        shown (int): number of items that are shown.
        first (int): index of the first item that is shown.

    Returns:
        The items, separated by commas, with the total number if some are left out.
    """
    more = f", ... ({len(items)} in all)" if len(items) > first + shown else ""
    return "..., " * (first > 0) + ", ".join(map(str, items[first : first + shown])) + more


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left there by a system rather than a person."""
    return name.startswith(".") or name.lower() in _FOREIGN


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without hidden and foreign ones (`is_foreign`)."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_foreign(entry.name)), key=lambda entry: entry.name)


def entries(folder: Path) -> list[Path]:
    """The paths of a folder's entries; see `scan`."""
    return [folder / entry.name for entry in scan(folder)]


def subfolders(folder: Path) -> list[Path]:
    """The paths of a folder's subfolders; see `scan`."""
    return [folder / entry.name for entry in scan(folder) if entry.is_dir()]


def walk(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, without hidden and foreign files and folders (`is_foreign`)."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_foreign(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_foreign(name))


def find_file(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """Find a file by its name without suffix.

    Args:
        stem (Path): path of the file without suffix.
        suffixes (Sequence[str]): possible suffixes with their dot, in lower case and in order of preference. They are looked
            for in lower case and upper case first, then in mixed case.

    Returns:
        Path of the file, or None if there is no such file.
    """
    usual = (variant for suffix in suffixes for variant in dict.fromkeys((suffix, suffix.upper())))
    # Files are probed, not listed, since a folder may hold millions of them.
    mixed = (variant for suffix in suffixes for variant in _in_any_case(suffix))
    names = (f"{stem.name}{variant}" for variant in itertools.chain(usual, mixed))
    return next((path for name in names if (path := stem.with_name(name)).exists()), None)


def _in_any_case(suffix: str) -> Iterator[str]:
    """A suffix in all combinations of lower and upper case after its last dot."""
    start, dot, kind = suffix.rpartition(".")
    letters = (dict.fromkeys((letter, letter.upper())) for letter in kind)
    return (f"{start}{dot}{''.join(chosen)}" for chosen in itertools.product(*letters))


def expected_file(stem: Path, suffixes: Sequence[str]) -> Path:
    """As `find_file`, but without such a file the path with the first suffix, for errors to name."""
    return find_file(stem, suffixes) or stem.with_name(f"{stem.name}{suffixes[0]}")


def find_samples(folder: str | Path, suffixes: Sequence[str], file_list: str | Path | None = None) -> list[str]:
    """Find the samples of a data set.

    Args:
        folder (str or Path): folder of the data set.
        suffixes (Sequence[str]): suffixes, in lower case, of the files that a sample may be; "" if samples are subfolders.
        file_list (str or Path or None): text file with a sample per line; None for all samples in alphabetical order.

    Returns:
        Names of the samples: their paths relative to the folder, without suffix.

    Raises:
        FileNotFoundError: no such folder or list, or a sample of the list is not in the folder.
        NotADirectoryError: `folder` is a file.
        ValueError: the folder or the list is empty.
    """
    folder = Path(folder)
    if not folder.exists():
        no_list = f", and no such file list: {file_list}" if file_list is not None and not Path(file_list).exists() else ""
        raise FileNotFoundError(f"no such folder: {folder}{no_list}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    if file_list is not None:
        return _listed_samples(Path(file_list), folder, suffixes)
    found = _all_samples(folder, suffixes) if any(suffixes) else {path.name for path in subfolders(folder)}
    if not found:
        raise ValueError(f"{folder} has no {' or '.join(f'*{suffix}' for suffix in suffixes) if any(suffixes) else 'folders'}")
    return sorted(found)


def _all_samples(folder: Path, suffixes: Sequence[str]) -> set[str]:
    return {name for path in walk(folder) if (name := _without(path.relative_to(folder), suffixes)) is not None}


def _without(path: PurePath, suffixes: Sequence[str]) -> str | None:
    """A path without its suffix, or None if it has none of the suffixes."""
    name = path.as_posix()
    return next((name[: -len(suffix)] for suffix in suffixes if name.lower().endswith(suffix)), None)


def check_inside(name: str, source: Path) -> str:
    """Check that a relative path found in a file does not lead out of the folder that it is relative to.

    Args:
        name (str): the path.
        source (Path): file in which it was found, for the message.

    Returns:
        The path, unchanged.

    Raises:
        ValueError: the path is empty, absolute, or contains "..".
    """
    path = Path(name) if isinstance(name, str) and "\0" not in name else Path()
    if not path.parts or path.is_absolute() or path.drive or ".." in path.parts:
        raise ValueError(f"{source} names {name!r}: expected a path inside of its folder, relative and without '..'")
    return name


def _listed_samples(file_list: Path, folder: Path, suffixes: Sequence[str]) -> list[str]:
    """Find the samples that a list names.

    Published lists are read too: they have names with suffix (sa_1.jpg) and without subfolder (sav_000001 instead of
    sav_000/sav_000001).
    """
    names = [check_inside(name, file_list) for name in read_list(file_list)]
    if not names:
        raise ValueError(f"the file list {file_list} is empty")
    found = {name: _listed_sample(name, folder, suffixes) for name in names}
    if None in found.values() and any(suffixes):
        below = defaultdict(list)  # by their last part; the whole folder is searched only if necessary
        for sample in sorted(_all_samples(folder, suffixes)):
            below[PurePosixPath(sample).name].append(sample)
        for name in [name for name, path in found.items() if path is None and "/" not in name]:
            several = below.get(name) or below.get(_without(PurePosixPath(name), suffixes) or name, [])
            if len(several) > 1:
                raise ValueError(f"{file_list} names {name}, which is in {folder} more than once: {listed(several)}")
            found[name] = next(iter(several), None)
    missing = [name for name, sample in found.items() if sample is None]
    if missing:
        what = f"{missing[0]}{suffixes[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise FileNotFoundError(f"{folder} lacks {what} of the {len(names)} names in {file_list}")
    return [path for name in names if (path := found[name]) is not None]


def _listed_sample(name: str, folder: Path, suffixes: Sequence[str]) -> str | None:
    """The sample of a name in a list, with or without suffix; None if it is not in the folder."""
    variants = (name, _without(PurePosixPath(name), suffixes))
    return next((variant for variant in variants if variant and find_file(folder / variant, suffixes) is not None), None)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16, which PowerShell writes.

    Args:
        path (Path): path of the file.

    Returns:
        Its text, without byte order mark.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the path is not a file, or not text in either encoding.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file list: {path}")
    require_regular_file(path)
    data = path.read_bytes()
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 or UTF-16: {error}") from error
    if "\0" in text:  # UTF-32 begins with the mark of UTF-16, too
        raise ValueError(f"{path} is not a text file in UTF-8, nor in UTF-16 with a byte order mark: save it as UTF-8")
    return text


def content_of(path: Path) -> str | None:
    """Recognise the content of a file by its first bytes, regardless of its suffix.

    Args:
        path (Path): path of the file.

    Returns:
        "an image", "a video" or "a playlist"; None if it is unknown or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    return next((content for content, pattern in _CONTENTS.items() if pattern.match(head)), None)


def read_list(path: Path) -> list[str]:
    """Read the lines of a text file, stripped, without empty ones.

    Args:
        path (Path): path of the file.

    Returns:
        The lines.

    Raises:
        FileNotFoundError: see `read_text`.
        ValueError: see `read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path (Path): path of the file.

    Returns:
        Its content.

    Raises:
        ValueError: the file is missing or corrupt; the message names it.
    """
    with named_errors(path):
        require_regular_file(path)
        return json.loads(path.read_bytes())  # from bytes: the encoding and a byte order mark are recognised
