"""Folders, lists and JSON files of data sets, and the order of frames in a folder."""

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
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from i2v.utils.files import require_regular_file

log = logging.getLogger(__name__)

# What systems and programs leave in folders; names that begin with a dot go without saying. In lower case.
_FOREIGN = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "#recycle", "$recycle.bin"}
# Of two or three names, a number that goes up by more than this need not count frames.
_MAX_STEP = 10
_DECIMAL = re.compile(r"(?<![0-9.,])([0-9]+)[.,]([0-9]+)(?![.,]?[0-9])")
# Where clocks begin anew.
_CLOCKS = (24, 60)
# Dates that begin with the day or the month, and numbers below zero: natural order has them wrong.
_DAY_FIRST = re.compile(r"(?<![0-9])([0-9]{1,2}[-._ ][0-9]{1,2})[-._ ](?:19|20)[0-9]{2}(?![0-9])")
_MINUS = re.compile(r"(?:^|[ _.,=])-[0-9]+")
# The same dates without separators, perhaps with a time right behind them: year-month-day has no month 19 or 20.
_COMPACT_DATE = re.compile(r"(?<![0-9])([0-9]{2})([0-9]{2})((?:19|20)[0-9]{2})(?:[0-9]{4}|[0-9]{6})?(?![0-9])")
# Dates with years of two digits, where nothing but text comes before them.
_SHORT_DATES = (
    re.compile(r"^[^0-9]*([0-9]{1,2})[-._ ]([0-9]{1,2})[-._ ]([0-9]{2})(?![0-9])"),
    re.compile(r"^[^0-9]*([0-9]{2})([0-9]{2})([0-9]{2})(?:[0-9]{6})?(?![0-9])"),
)
_RENAME = "Rename the files, or give the images themselves, in a list in their order"
# How files begin that are often given for others.
_CONTENTS = {
    "an image": re.compile(rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|BM....\0{4}|....ftyp(?:hei|mif|avif)", re.DOTALL),
    "a video": re.compile(rb"....(?:ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL),
    "a playlist": re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat|file\s|v=0\s|\[playlist|(?:<\?xml.*)?<MPD)", re.DOTALL),
}
# What json, Pillow, NumPy and look-ups in their results raise at a file that is not what it should be.
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
    """Turn what a missing, malformed or oversized file raises into an error that names it.

    Args:
        source: the file or folder that is read.
        error_type: what is raised; an error of this very type passes through if it is not ValueError itself.
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
        raise error_type(f"{source} is unreadable or not as it should be: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=4096)
def warn_once(message: str) -> None:
    """Log a warning, unless this process has logged it already: a folder may be read thousands of times."""
    log.warning("%s", message)


def listed(items: Sequence[Any], shown: int = 5, first: int = 0) -> str:
    """A list for a message, from the item `first` on, cut off where it is long."""
    more = f", ... ({len(items)} in all)" if len(items) > first + shown else ""
    return "..., " * (first > 0) + ", ".join(map(str, items[first : first + shown])) + more


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left by a system rather than put there by a person."""
    return name.startswith(".") or name.lower() in _FOREIGN


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in the order of the names, without hidden and foreign entries."""
    with os.scandir(folder) as found:
        return sorted((entry for entry in found if not is_foreign(entry.name)), key=lambda entry: entry.name)


def entries(folder: Path) -> list[Path]:
    """Paths of what is in a folder, see `scan`."""
    return [folder / entry.name for entry in scan(folder)]


def subfolders(folder: Path) -> list[Path]:
    """Paths of the folders in a folder, see `scan`."""
    return [folder / entry.name for entry in scan(folder) if entry.is_dir()]


def walk(folder: Path) -> Iterator[Path]:
    """All files in a folder and below, without hidden and foreign ones and without what lies in such folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_foreign(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_foreign(name))


def find_file(stem: Path, suffixes: Sequence[str]) -> Path | None:
    """The file of a name and one of some suffixes, in small or capital letters, or, if there is none, in both.

    Args:
        stem: its path without suffix.
        suffixes: in small letters, with the dot; the first one that exists counts.

    Returns:
        Its path, or None if there is no such file.
    """
    usual = (variant for suffix in suffixes for variant in dict.fromkeys((suffix, suffix.upper())))
    # Rather than a look into the folder, which may hold millions of files.
    mixed = (variant for suffix in suffixes for variant in _in_any_case(suffix))
    names = (f"{stem.name}{variant}" for variant in itertools.chain(usual, mixed))
    return next((path for name in names if (path := stem.with_name(name)).exists()), None)


def _in_any_case(suffix: str) -> Iterator[str]:
    """A suffix with each letter after its last dot small or capital."""
    start, dot, kind = suffix.rpartition(".")
    letters = (dict.fromkeys((letter, letter.upper())) for letter in kind)
    return (f"{start}{dot}{''.join(chosen)}" for chosen in itertools.product(*letters))


def expected_file(stem: Path, suffixes: Sequence[str]) -> Path:
    """As `find_file`; where there is no such file, the path of the first suffix, which errors can name."""
    return find_file(stem, suffixes) or stem.with_name(f"{stem.name}{suffixes[0]}")


def find_samples(folder: str | Path, suffixes: Sequence[str], file_list: str | Path | None = None) -> list[str]:
    """The names of a data set's samples: paths below its folder, without suffix.

    Args:
        folder: of the data set.
        suffixes: of the files that stand for a sample, in small letters; one of them is enough. "" where samples are
            sub-folders.
        file_list: a text file with a name per line; None for all samples, in alphabetical order.

    Raises:
        FileNotFoundError: no such folder or list, or a name of the list is not in the folder.
        NotADirectoryError: `folder` is a file.
        ValueError: nothing in the folder or in the list.
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


def _without(path: Path, suffixes: Sequence[str]) -> str | None:
    """A path without its suffix, or None if it has another one."""
    name = path.as_posix()
    return next((name[: -len(suffix)] for suffix in suffixes if name.lower().endswith(suffix)), None)


def check_inside(name: str, source: Path) -> str:
    """A relative path that a file gives: it must lead into the folder that it is relative to, not out of it.

    Args:
        name: the path.
        source: the file that gives it, for the message.

    Returns:
        The path, as it is.

    Raises:
        ValueError: it is empty, absolute, or has ".." in it.
    """
    path = Path(name) if isinstance(name, str) and "\0" not in name else Path()
    if not path.parts or path.is_absolute() or path.drive or ".." in path.parts:
        raise ValueError(f"{source} names {name!r}: expected a path inside of its folder, relative and without '..'")
    return name


def _listed_samples(file_list: Path, folder: Path, suffixes: Sequence[str]) -> list[str]:
    """The samples that a list names. The published lists have names with their suffix (sa_1.jpg) and without sub-folder
    (sav_000001 for sav_000/sav_000001), and are read, too."""
    names = [check_inside(name, file_list) for name in read_list(file_list)]
    if not names:
        raise ValueError(f"the file list {file_list} is empty")
    found = {name: _listed_sample(name, folder, suffixes) for name in names}
    if None in found.values() and any(suffixes):
        below = defaultdict(list)  # by their last part; the whole folder is looked through only if it has to be
        for sample in sorted(_all_samples(folder, suffixes)):
            below[PurePosixPath(sample).name].append(sample)
        for name in [name for name, sample in found.items() if sample is None and "/" not in name]:
            several = below.get(name) or below.get(_without(PurePosixPath(name), suffixes) or name, [])
            if len(several) > 1:
                raise ValueError(f"{file_list} names {name}, which {folder} has more than once: {listed(several)}")
            found[name] = next(iter(several), None)
    missing = [name for name, sample in found.items() if sample is None]
    if missing:
        what = f"{missing[0]}{suffixes[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise FileNotFoundError(f"{folder} lacks {what} of the {len(names)} names in {file_list}")
    return [found[name] for name in names]


def _listed_sample(name: str, folder: Path, suffixes: Sequence[str]) -> str | None:
    """The sample of a name in a list, which may have its suffix; None if it is not in the folder."""
    variants = (name, _without(PurePosixPath(name), suffixes))
    return next((variant for variant in variants if variant and find_file(folder / variant, suffixes) is not None), None)


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, or in UTF-16, as Windows' shell writes it; byte order marks are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not text in either encoding, or not a file.
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
    if "\0" in text:  # UTF-32, too, begins with the mark of UTF-16
        raise ValueError(f"{path} is not a text file in UTF-8, nor in UTF-16 with a byte order mark: save it as UTF-8")
    return text


def content_of(path: Path) -> str | None:
    """What a file holds by its first bytes, whatever its suffix: "an image", "a video" or "a playlist"; None if it is not
    known, or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    return next((content for content, pattern in _CONTENTS.items() if pattern.match(head)), None)


def read_list(path: Path) -> list[str]:
    """The lines of a text file, without spaces around them and without empty ones.

    Raises:
        FileNotFoundError, ValueError: see `read_text`.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is missing or corrupt; the message names it.
    """
    with named_errors(path):
        require_regular_file(path)
        return json.loads(path.read_bytes())  # from bytes: the encoding and a byte order mark are recognised


@functools.lru_cache(maxsize=2**14)  # most videos have the same names
def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts names as people do: numbers in them by their value, letters in any case alike."""
    return tuple((int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(_parts(name)))


def in_frame_order(paths: Sequence[Path]) -> list[Path]:
    """The frames of a video in the natural order of their names (`natural_key`, without suffix). A single one may have any.

    Raises:
        ValueError: a name has no number, two names differ in leading zeros or suffix alone, the order of the names is not
            that of the number in them which counts the frames, or it hangs on texts that differ, on dates that begin with the
            day, or on numbers below zero.
    """
    ordered = sorted(paths, key=lambda path: natural_key(path.stem))
    if len(ordered) == 1:
        return ordered
    names = [path.stem for path in ordered]
    numberless = [path for path in ordered if len(_parts(path.stem)) == 1]
    if numberless:
        raise ValueError(f"{numberless[0]} has no number in its name, so that its place in the video is unknown. {_RENAME}")
    for path, other in pairwise(ordered):
        if natural_key(path.stem) == natural_key(other.stem):
            raise ValueError(f"{path} and {other.name} differ in leading zeros or suffix alone: which comes first is not clear")
    texts = {tuple(part.casefold() for part in _parts(name)[::2]) for name in names}
    days = {day for name in names for day in _DAY_FIRST.findall(name)}  # of one day, years are in order
    below_zero = {tuple(_MINUS.findall(name)) for name in names}  # one that all have, as in an id, is no number
    negative = len({tuple(text.removesuffix("-") for text in parts) for parts in texts}) < len(texts)  # t-1, t0
    if negative or len(days) > 1 or len(below_zero) > 1 or _contradict_dates(names):
        raise _unclear_order(ordered, range(len(ordered)))
    columns = _separate_columns(names)
    if contradicting := [column for column, clock in columns if not clock and _counts(column) and not _rises(column)]:
        raise _unclear_order(ordered, contradicting[0])
    if len(texts) > 1:  # a text, such as a hash, may have decided
        counted = any(_rises(column) and _counts(column) for column, _ in columns)
        first = _columns(names)[0]
        by_first = len({_parts(name)[0].casefold() for name in names}) == 1 and _rises(first)
        others = [column for column, clock in columns if not clock and len(set(column)) == len(names) and not _rises(column)]
        if not counted and (others or not by_first):
            raise _unclear_order(ordered, (others or _columns(names))[-1])
    elif (decimals := [_as_decimals(name) for name in names]) != sorted(decimals):
        raise _unclear_order(ordered, decimals)
    if (times := _time_stamps(names)) and not _rises(times) and not any(_rises(column) for column, _ in columns):
        raise _unclear_order(ordered, times)
    return ordered


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number in each name that counts the frames; None if no single one does, as in a date with a time.

    Args:
        names: without suffix, in the order of the video.
    """
    rising = [column for column in reversed(_columns(names)) if _rises(column)]
    return max(rising, key=_evenness, default=None)  # a counter rather than a time stamp that is measured


def gaps(names: Sequence[str]) -> list[str]:
    """The names of frames after which the numbers skip some.

    Args:
        names: without suffix, in the order of the video. Where they are not evenly numbered, nothing can be said.
    """
    numbers = frame_numbers(names) or []
    steps = [after - before for before, after in pairwise(numbers)]
    if not steps or steps.count(min(steps)) < len(steps) / 2:
        return []
    return [name for name, step in zip(names, steps, strict=False) if step > min(steps)]


def restarts(names: Sequence[str]) -> list[str]:
    """What comes before the number that counts the frames, where it takes the same values again behind each of several such
    beginnings, as if the videos of several cameras were in one folder; otherwise nothing.

    Args:
        names: without suffix, in the order of the video.
    """
    if len({_parts(name)[::2] for name in names}) > 1:
        return []
    columns = _separate_columns(names)
    place = max((place for place, (column, _) in enumerate(columns) if len(set(column)) > 1), default=None)
    if place is None or columns[place][1]:  # a clock
        return []
    numbers = defaultdict(set)
    for name, number in zip(names, columns[place][0], strict=True):
        numbers["".join(_parts(name)[: 2 * place + 1])].add(number)
    again = set.intersection(*numbers.values())
    return list(numbers) if len(numbers) > 1 and len(again) > 1 else []


def match_frames(names: Sequence[str], frames: Sequence[str]) -> dict[str, int]:
    """Which frame each mask belongs to: that of its name, or where none has such a name, that whose name it has within its own,
    if each mask has another one, or else that of its number.

    Args:
        names: of the masks, without suffix, in their order.
        frames: names of the video's frames, without suffix, in their order.

    Returns:
        Index of the frame by the name of the mask; masks without frame are missing, and all of them where several of their
        numbers could be meant.
    """
    indices = {name: index for index, name in enumerate(frames)}
    matched = {name: indices[name] for name in names if name in indices}
    if matched:
        return matched
    within = {name: _longest([frame for frame in frames if _is_within(frame, name)]) for name in names}
    if names and None not in within.values() and len(set(within.values())) == len(names):
        return {name: indices[frame] for name, frame in within.items()}
    by_number = {number: index for index, number in enumerate(frame_numbers(frames) or [])}
    by_column = []
    for column in filter(_rises, _columns(names)):
        matched = {name: by_number[number] for name, number in zip(names, column, strict=True) if number in by_number}
        if matched and matched not in by_column:
            by_column.append(matched)
    most = [matched for matched in by_column if len(matched) == max(map(len, by_column))]
    return most[0] if len(most) == 1 else {}  # which of its numbers is meant is not clear


@functools.lru_cache(maxsize=2**14)
def _parts(name: str) -> tuple[str, ...]:
    """Text and numbers in turn; the first and the last one are text, perhaps empty."""
    return tuple(re.split("([0-9]+)", name))


def _columns(names: Sequence[str]) -> list[list[int]]:
    """The first number of all names, the second one, ..., as far as all have such."""
    return [[int(part) for part in column] for column in zip(*(_parts(name)[1::2] for name in names), strict=False)]


def _separate_columns(names: Sequence[str]) -> list[tuple[list[int], bool]]:
    """The first, the second, ... number of all names, also counted from the end, where it stands apart: the texts before and
    after it are the same in all names, or touch it with the same character, which is no letter. Digits in a hash do not.

    Returns:
        The numbers, and whether they begin anew like those of a clock or a counter of so many digits, for each.
    """
    columns = []
    lengths = {len(_parts(name)) for name in names}
    # Where all names have as many numbers, those counted from the end are the same.
    for from_end in (False, True) if len(lengths) > 1 else (False,):
        for place in range(min(lengths) // 2):
            number = -2 * place - 2 if from_end else 2 * place + 1
            before, digits, after = (list(part) for part in zip(*(_around(name, number) for name in names), strict=True))
            if _touch_alike(before, -1) and _touch_alike(after, 0):
                column, widths = [int(text) for text in digits], {len(text) for text in digits}
                cycles = (*_CLOCKS, *(10**width for width in widths if len(widths) == 1))
                columns.append((column, any(_counts_on(column, cycle) for cycle in cycles)))
    return columns


def _around(name: str, number: int) -> tuple[str, str, str]:
    return _parts(name)[number - 1], _parts(name)[number], _parts(name)[number + 1]


def _touch_alike(texts: Sequence[str], end: int) -> bool:
    characters = {text[end] if text else "" for text in texts}
    return len(set(texts)) == 1 or (len(characters) == 1 and not characters.pop().isalpha())


def _contradict_dates(names: Sequence[str]) -> bool:
    """Whether names, which are in natural order, may hold compact or short dates of another order, the day or the month first.

    Years of two digits must not be further apart than one, and are taken to come first where they may.
    """
    readings = [_by_date(names, _COMPACT_DATE, form) for form in ("%d.%m.%Y", "%m.%d.%Y")]
    for pattern in _SHORT_DATES:
        if not _by_date(names, pattern, "%y.%m.%d", max_years=1):
            readings.append(_by_date(names, pattern, "%d.%m.%y", max_years=1))
    return any(keys != sorted(keys) for keys in readings)


def _by_date(names: Sequence[str], pattern: re.Pattern[str], form: str, max_years: int | None = None) -> list[Any]:
    """Keys that sort names by the dates in them; nothing where one has none, or where they are more than `max_years` apart."""
    found = [match for name in names if (match := pattern.search(name))]
    if len(found) < len(names):
        return []
    try:
        dates = [datetime.strptime(".".join(match.groups()), form) for match in found]
    except ValueError:
        return []
    years = [date.year for date in dates]
    if max_years is not None and max(years) - min(years) > max_years:
        return []
    texts = [(match.string[: match.start(1)], match.string[match.end(3) :]) for match in found]
    return [(natural_key(before), date, natural_key(after)) for (before, after), date in zip(texts, dates, strict=True)]


def _longest(frames: Sequence[str]) -> str | None:
    """The longest of several names; None if there is none, or more than one."""
    length = max(map(len, frames), default=0)
    longest = [frame for frame in frames if len(frame) == length]
    return longest[0] if len(longest) == 1 else None


def _as_decimals(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them, taken for decimals where a point or a comma is between two: 0.25 before
    0.5."""
    parts = _parts(name)
    return [
        (0, part.casefold()) if i % 2 == 0 or (i > 1 and parts[i - 1] in (".", ",")) else (int(part), "")
        for i, part in enumerate(parts)
    ]


def _time_stamps(names: Sequence[str]) -> list[tuple[int, str]]:
    """The number with a point or a comma in all names, if it is another one in each and no time of day (12.30); otherwise
    nothing."""
    found = [_DECIMAL.findall(name) for name in names]
    if {len(numbers) for numbers in found} != {1}:
        return []
    stamps = [(int(whole), decimals) for ((whole, decimals),) in found]
    are_times = all(whole < _CLOCKS[0] and len(decimals) == 2 and int(decimals) < _CLOCKS[1] for whole, decimals in stamps)
    return stamps if len(set(stamps)) == len(stamps) and not are_times else []


def _evenness(column: Sequence[int]) -> float:
    """The share of the most frequent step."""
    steps = [after - before for before, after in pairwise(column)]
    return max(map(steps.count, set(steps)), default=1) / max(len(steps), 1)


def _rises(column: Sequence[Any]) -> bool:
    return all(before < after for before, after in pairwise(column))


def _is_within(frame: str, name: str) -> bool:
    """Whether a name is a frame's and more, without a number being cut in two."""
    start = name.find(frame)
    before, after = name[:start][-1:], name[start + len(frame) :][:1]
    return start >= 0 and not (before.isdigit() and frame[:1].isdigit()) and not (after.isdigit() and frame[-1:].isdigit())


def _counts(column: Sequence[int]) -> bool:
    """Whether numbers count frames, in whatever order: no two are the same, and nearly all steps between them are equal."""
    steps = [after - before for before, after in pairwise(sorted(column))]
    usual = max(set(steps), key=steps.count)
    return min(steps) > 0 and steps.count(usual) >= 0.75 * len(steps) and (usual <= _MAX_STEP or len(steps) > 2)


def _counts_on(column: Sequence[int], cycle: int) -> bool:
    """Whether numbers begin anew like those of a clock: where they fall, they have gone on by no more than elsewhere."""
    steps = [(after - before, (after - before) % cycle) for before, after in pairwise(column)]
    usual = max((step for change, step in steps if change > 0), default=1)
    return max(column) < cycle and all(step <= 1.5 * usual for change, step in steps if change <= 0)


def _unclear_order(ordered: Sequence[Path], column: Sequence[Any]) -> ValueError:
    by_name = [path.name for path in ordered]
    by_number = [ordered[i].name for i in sorted(range(len(ordered)), key=lambda i: column[i])]
    if by_name == by_number:
        texts = [_parts(path.stem)[::2] for path in ordered]
        usual = max(texts, key=texts.count)
        odd = [name for name, text in zip(by_name, texts, strict=True) if text != usual]
        unlike = f"; named unlike most are {listed(odd)}" if 0 < 2 * len(odd) < len(texts) else ""
        return ValueError(
            f"no number in the names of the frames in {ordered[0].parent} counts them ({listed(by_name)}){unlike}, so that "
            f"their order is not clear. {_RENAME}"
        )
    first = max(next(i for i, (one, other) in enumerate(zip(by_name, by_number, strict=True)) if one != other) - 1, 0)
    return ValueError(
        f"the order of the frames in {ordered[0].parent} is not clear: by name it is {listed(by_name, first=first)}; by the "
        f"number that counts them {listed(by_number, first=first)}. {_RENAME}"
    )
