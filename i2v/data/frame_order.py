"""The order of frames by the names of their files, and the frames that masks belong to by theirs.

Names are given without suffix.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from i2v.data.files import listed

# If there are only two or three names, a number that increases by more than this need not count frames.
_MAX_STEP = 10
_DECIMAL = re.compile(r"(?<![0-9.,])([0-9]+)[.,]([0-9]+)(?![.,]?[0-9])")
# Values at which the numbers of a clock restart.
_CLOCKS = (24, 60)
# Natural order is wrong for dates that begin with the day or the month, and for negative numbers.
_DAY_FIRST = re.compile(r"(?<![0-9])([0-9]{1,2}[-._ ][0-9]{1,2})[-._ ](?:19|20)[0-9]{2}(?![0-9])")
_MINUS = re.compile(r"(?:^|[ _.,=])-[0-9]+")
# The same dates without separators, possibly followed directly by a time. No date in the order year, month, day has 19 or 20 at
# this place, where its month is.
_COMPACT_DATE = re.compile(r"(?<![0-9])([0-9]{2})([0-9]{2})((?:19|20)[0-9]{2})(?:[0-9]{4}|[0-9]{6})?(?![0-9])")
# Dates with two-digit years, preceded by text only.
_SHORT_DATES = (
    re.compile(r"^[^0-9]*([0-9]{1,2})[-._ ]([0-9]{1,2})[-._ ]([0-9]{2})(?![0-9])"),
    re.compile(r"^[^0-9]*([0-9]{2})([0-9]{2})([0-9]{2})(?:[0-9]{6})?(?![0-9])"),
)
_RENAME = "Rename the files, or pass the images themselves as a list in the right order"


@functools.lru_cache(maxsize=2**14)  # most videos have the same names
def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts names as people do: numbers in them by value, letters regardless of case."""
    return tuple((int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(_parts(name)))


def in_frame_order(paths: Sequence[Path]) -> list[Path]:
    """Sort the frames of a video in the natural order of their names; see `natural_key`.

    Args:
        paths (Sequence[Path]): paths of the frames. A single frame may have any name.

    Returns:
        The paths in the order of the frames.

    Raises:
        ValueError: a name has no number, two names differ only in leading zeros or suffix, the natural order contradicts the
            number that counts the frames, or it depends on differing texts, dates that begin with the day, or negative numbers.
    """
    ordered = sorted(paths, key=lambda path: natural_key(path.stem))
    if len(ordered) == 1:
        return ordered
    if numberless := [path for path in ordered if len(_parts(path.stem)) == 1]:
        raise ValueError(f"{numberless[0]} has no number in its name, so its place in the video is unknown. {_RENAME}")
    for path, other in pairwise(ordered):
        if natural_key(path.stem) == natural_key(other.stem):
            raise ValueError(f"{path} and {other.name} differ only in leading zeros or suffix: it is unclear which comes first")
    competing = _competing_order([path.stem for path in ordered])
    if competing is not None:
        raise _unclear_order(ordered, competing)
    return ordered


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """Find the number in each name that counts the frames.

    Args:
        names (Sequence[str]): names in the order of the video.

    Returns:
        A number per name; None if no single number counts the frames, as in a date with a time.
    """
    rising = [column for column in reversed(_columns(names)) if _rises(column)]
    return max(rising, key=_evenness, default=None)  # a counter rather than a measured time stamp


def gaps(names: Sequence[str]) -> list[str]:
    """Find the frames after which numbers are missing.

    Args:
        names (Sequence[str]): names in the order of the video.

    Returns:
        Names of the frames before a gap; none if the frames are not evenly numbered.
    """
    numbers = frame_numbers(names) or []
    steps = [after - before for before, after in pairwise(numbers)]
    if not steps or steps.count(min(steps)) < len(steps) / 2:
        return []
    return [name for name, step in zip(names, steps, strict=False) if step > min(steps)]


def restarts(names: Sequence[str]) -> list[str]:
    """Find prefixes after which the frames are numbered again, as if a folder held the videos of several cameras.

    Args:
        names (Sequence[str]): names in the order of the video.

    Returns:
        The prefixes, if the number that counts the frames has the same values after each of them; otherwise none.
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
    common = set.intersection(*numbers.values())
    return list(numbers) if len(numbers) > 1 and len(common) > 1 else []


def match_frames(names: Sequence[str], frames: Sequence[str]) -> dict[str, int]:
    """Find the frame that each mask belongs to.

    It is the frame of the same name. If no mask has the name of a frame, it is the frame whose name the mask's name contains,
    provided that this gives each mask a frame of its own; otherwise the frame of the same number.

    Args:
        names (Sequence[str]): names of the masks, in their order.
        frames (Sequence[str]): names of the video's frames, in their order.

    Returns:
        Index of the frame by the name of the mask. Masks without a frame are missing; all are missing if it is unclear which of
            the numbers in their names is meant.
    """
    indices = {name: index for index, name in enumerate(frames)}
    matched = {name: indices[name] for name in names if name in indices}
    if matched:
        return matched
    within = {name: _longest([frame for frame in frames if _is_within(frame, name)]) for name in names}
    contained = {name: indices[frame] for name, frame in within.items() if frame is not None}
    if names and len(set(contained.values())) == len(names):
        return contained
    by_number = {number: index for index, number in enumerate(frame_numbers(frames) or [])}
    by_column: list[dict[str, int]] = []
    for column in filter(_rises, _columns(names)):
        matched = {name: by_number[number] for name, number in zip(names, column, strict=True) if number in by_number}
        if matched and matched not in by_column:
            by_column.append(matched)
    most = [matched for matched in by_column if len(matched) == max(map(len, by_column))]
    return most[0] if len(most) == 1 else {}


def _competing_order(names: Sequence[str]) -> Sequence[Any] | None:
    """Look for another order that the frames may have.

    Args:
        names (Sequence[str]): at least two names in natural order.

    Returns:
        A sort key per name for the other order; the indices themselves if natural order is unreliable without there being
            another one; None if natural order is right.
    """
    if _misleads_natural_order(names):
        return range(len(names))
    columns = _separate_columns(names)
    numbers = [column for column, is_clock in columns if not is_clock]
    if contradicting := [column for column in numbers if _counts(column) and not _rises(column)]:
        return contradicting[0]
    if len(_texts(names)) > 1:  # a text, such as a hash, may have decided the order
        is_counted = any(_rises(column) and _counts(column) for column, _ in columns)
        begins_alike = len({_parts(name)[0].casefold() for name in names}) == 1
        others = [column for column in numbers if len(set(column)) == len(names) and not _rises(column)]
        if not is_counted and (others or not (begins_alike and _rises(_columns(names)[0]))):
            return (others or _columns(names))[-1]
    elif (decimals := [_as_decimals(name) for name in names]) != sorted(decimals):
        return decimals
    if (times := _time_stamps(names)) and not _rises(times) and not any(_rises(column) for column, _ in columns):
        return times
    return None


def _misleads_natural_order(names: Sequence[str]) -> bool:
    """Whether names hold negative numbers, or dates that begin with the day or the month."""
    texts = _texts(names)
    days = {day for name in names for day in _DAY_FIRST.findall(name)}  # the years of one day are in order
    minuses = {tuple(_MINUS.findall(name)) for name in names}  # one that all names share, as in an id, is not a sign
    negative = len({tuple(text.removesuffix("-") for text in parts) for parts in texts}) < len(texts)  # t-1, t0
    return negative or len(days) > 1 or len(minuses) > 1 or _contradict_dates(names)


def _texts(names: Sequence[str]) -> set[tuple[str, ...]]:
    """The texts between the numbers of each name, regardless of case."""
    return {tuple(part.casefold() for part in _parts(name)[::2]) for name in names}


@functools.lru_cache(maxsize=2**14)
def _parts(name: str) -> tuple[str, ...]:
    """Texts and numbers in turn; the first and last part are texts, possibly empty."""
    return tuple(re.split("([0-9]+)", name))


def _columns(names: Sequence[str]) -> list[list[int]]:
    """The first numbers of all names, their second numbers, and so on, as far as all names have one."""
    return [[int(part) for part in column] for column in zip(*(_parts(name)[1::2] for name in names), strict=False)]


def _separate_columns(names: Sequence[str]) -> list[tuple[list[int], bool]]:
    """Find the numbers that stand apart in all names, unlike the digits in a hash.

    A number stands apart if the texts before and after it are the same in all names, or adjoin it with the same character,
    which is not a letter.

    Args:
        names (Sequence[str]): the names.

    Returns:
        The first, second, ... numbers of all names, also counted from the end. With each, whether they restart like those of a
            clock, or of a counter with a fixed number of digits.
    """
    columns: list[tuple[list[int], bool]] = []
    lengths = {len(_parts(name)) for name in names}
    # If all names have the same number of parts, counting from the end finds the same numbers.
    for from_end in (False, True) if len(lengths) > 1 else (False,):
        for place in range(min(lengths) // 2):
            number = -2 * place - 2 if from_end else 2 * place + 1
            before, digits, after = (list(part) for part in zip(*(_around(name, number) for name in names), strict=True))
            if _adjoin_alike(before, -1) and _adjoin_alike(after, 0):
                column, widths = [int(text) for text in digits], {len(text) for text in digits}
                cycles = (*_CLOCKS, *(10**width for width in widths if len(widths) == 1))
                columns.append((column, any(_counts_on(column, cycle) for cycle in cycles)))
    return columns


def _around(name: str, number: int) -> tuple[str, str, str]:
    """A part of a name, between the parts before and after it."""
    return _parts(name)[number - 1], _parts(name)[number], _parts(name)[number + 1]


def _adjoin_alike(texts: Sequence[str], end: int) -> bool:
    characters = {text[end] if text else "" for text in texts}
    return len(set(texts)) == 1 or (len(characters) == 1 and not characters.pop().isalpha())


def _contradict_dates(names: Sequence[str]) -> bool:
    """Whether names in natural order may hold compact or short dates, the day or month first, that are in another order.

    Two-digit years must be at most one apart, and are assumed to come first wherever that is possible.
    """
    readings = [_by_date(names, _COMPACT_DATE, form) for form in ("%d.%m.%Y", "%m.%d.%Y")]
    for pattern in _SHORT_DATES:
        if not _by_date(names, pattern, "%y.%m.%d", max_years=1):
            readings.append(_by_date(names, pattern, "%d.%m.%y", max_years=1))
    return any(keys != sorted(keys) for keys in readings)


def _by_date(names: Sequence[str], pattern: re.Pattern[str], form: str, max_years: int | None = None) -> list[Any]:
    """Keys that sort names by the dates in them; none if a name has no date, or dates are more than `max_years` apart."""
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
    """The longest name; None if there are no names, or several that are longest."""
    length = max(map(len, frames), default=0)
    longest = [frame for frame in frames if len(frame) == length]
    return longest[0] if len(longest) == 1 else None


def _as_decimals(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by their numbers, reading two that are separated by a point or comma as a decimal: 0.25, 0.5."""
    parts = _parts(name)
    return [
        (0, part.casefold()) if i % 2 == 0 or (i > 1 and parts[i - 1] in (".", ",")) else (int(part), "")
        for i, part in enumerate(parts)
    ]


def _time_stamps(names: Sequence[str]) -> list[tuple[int, str]]:
    """The decimals in all names, if they are all different and not times of day (12.30); otherwise none."""
    found = [_DECIMAL.findall(name) for name in names]
    if {len(numbers) for numbers in found} != {1}:
        return []
    stamps = [(int(whole), decimals) for ((whole, decimals),) in found]
    are_times = all(whole < _CLOCKS[0] and len(decimals) == 2 and int(decimals) < _CLOCKS[1] for whole, decimals in stamps)
    return stamps if len(set(stamps)) == len(stamps) and not are_times else []


def _evenness(column: Sequence[int]) -> float:
    """The share of the most frequent step among all steps."""
    steps = [after - before for before, after in pairwise(column)]
    return max(map(steps.count, set(steps)), default=1) / max(len(steps), 1)


def _rises(column: Sequence[Any]) -> bool:
    return all(before < after for before, after in pairwise(column))


def _is_within(frame: str, name: str) -> bool:
    """Whether a name contains the name of a frame, without splitting a number."""
    start = name.find(frame)
    before, after = name[:start][-1:], name[start + len(frame) :][:1]
    return start >= 0 and not (before.isdigit() and frame[:1].isdigit()) and not (after.isdigit() and frame[-1:].isdigit())


def _counts(column: Sequence[int]) -> bool:
    """Whether numbers count frames, in any order: all are different, and nearly all steps between them are equal."""
    steps = [after - before for before, after in pairwise(sorted(column))]
    usual = max(set(steps), key=steps.count)
    return min(steps) > 0 and steps.count(usual) >= 0.75 * len(steps) and (usual <= _MAX_STEP or len(steps) > 2)


def _counts_on(column: Sequence[int], cycle: int) -> bool:
    """Whether numbers restart like a clock: where they fall, they advance modulo `cycle` by no more than elsewhere."""
    steps = [(after - before, (after - before) % cycle) for before, after in pairwise(column)]
    usual = max((step for change, step in steps if change > 0), default=1)
    return max(column) < cycle and all(step <= 1.5 * usual for change, step in steps if change <= 0)


def _unclear_order(ordered: Sequence[Path], column: Sequence[Any]) -> ValueError:
    """The error for frames whose order by name is not that of a column of numbers."""
    by_name = [path.name for path in ordered]
    by_number = [ordered[i].name for i in sorted(range(len(ordered)), key=lambda i: column[i])]
    if by_name == by_number:
        texts = [_parts(path.stem)[::2] for path in ordered]
        usual = max(texts, key=texts.count)
        odd = [name for name, text in zip(by_name, texts, strict=True) if text != usual]
        unlike = f"; unlike most are {listed(odd)}" if 0 < 2 * len(odd) < len(texts) else ""
        return ValueError(
            f"the order of the frames in {ordered[0].parent} is unclear: no number in their names counts them "
            f"({listed(by_name)}){unlike}. {_RENAME}"
        )
    first = max(next(i for i, (one, other) in enumerate(zip(by_name, by_number, strict=True)) if one != other) - 1, 0)
    return ValueError(
        f"the order of the frames in {ordered[0].parent} is unclear: by name it is {listed(by_name, first=first)}; by the "
        f"number that counts them it is {listed(by_number, first=first)}. {_RENAME}"
    )
