"""results.csv, the table of scores that the evaluator writes and the benchmarks read."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from i2v.data.files import named_errors
from i2v.utils.files import require_regular_file

# Stands for the object in the row of the mean if the first and last frame are scored too.
ALL_FRAMES = "all"


def score_cells(rows: Sequence[tuple[str, str, float, float, float]], decimals: int) -> list[list[str]]:
    """Format the cells of the table, padded to columns.

    Args:
        rows (Sequence[tuple]): video, object, and J&F, J and F in percent. The first row is the mean over all objects, whose
            object is empty or `ALL_FRAMES`.
        decimals (int): number of decimals of the scores.

    Returns:
        The cells by row, after a header.
    """
    names = [_marked(video) for video, *_ in rows]
    width = max(map(len, names))
    cells = [[f"{'sequence':<{width}}", f"{'obj':>3}", *(f"{kind:>{decimals + 4}}" for kind in ("J&F", "J", "F"))]]
    for name, (_, obj, *scores) in zip(names, rows, strict=True):
        cells.append([f"{name:<{width}}", f"{obj:>3}", *(f"{score:{decimals + 4}.{decimals}f}" for score in scores)])
    return cells


def format_scores(rows: Sequence[tuple[str, str, float, float, float]], decimals: int) -> str:
    """Format the table as CSV; see `score_cells`.

    Names that contain commas, quotes or line breaks are quoted, and those with spaces at their ends twice.
    """
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(score_cells(rows, decimals))
    return table.getvalue()


def read_j_and_f(path: Path) -> dict[str, list[float]]:
    """Read the J&F of the objects of each video.

    Args:
        path (Path): path of the table, results.csv.

    Returns:
        J&F of its objects in percent by video.

    Raises:
        ValueError: the table is unreadable, has a score outside of 0 to 100, or includes the first and last frame.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    with named_errors(path):
        require_regular_file(path)
    with named_errors(path), path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file, skipinitialspace=True)
        try:
            rows = [(lines.line_num, [cell.strip(" ") for cell in line]) for line in lines]
        except csv.Error as error:
            raise ValueError(f"line {lines.line_num}: {error}") from error
        if not rows:
            raise ValueError("it is empty")
        (_, header), *rows = rows
        if wrong := [name for name in ("sequence", "obj", "J&F") if header.count(name) != 1]:
            raise ValueError(f"it has no column {', '.join(wrong)}, or several of that name")
        for number, row in rows:
            with named_errors(f"line {number}"):
                cells = dict(zip(header, row, strict=True))
                if cells["obj"] == ALL_FRAMES:
                    raise ValueError("the first and last frame are scored too: run semi_eval.sh without this option")
                score, video = float(cells["J&F"]), _unmarked(cells["sequence"])
                if not 0 <= score <= 100:
                    raise ValueError(f"the J&F of {video} is {score}, not from 0 to 100")
            if cells["obj"]:  # the mean over all objects has none
                scores[video].append(score)
    return scores


def _marked(name: str) -> str:
    """A name whose ends can be told from the padding: quoted if it has spaces there or begins with a quote."""
    return f'"{name}"' if name != name.strip(" ") or name.startswith('"') else name


def _unmarked(cell: str) -> str:
    return cell[1:-1] if cell.startswith('"') else cell
