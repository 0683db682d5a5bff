"""results.csv, the table of scores that the evaluator writes and the benchmarks read."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from i2v.data.files import named_errors
from i2v.utils.files import require_regular_file

# Stands in the table's first line, in place of an object, where the first and the last frame are scored, too.
ALL_FRAMES = "all"


def score_cells(rows: Sequence[tuple[str, str, float, float, float]], decimals: int) -> list[list[str]]:
    """The cells of the table, padded to columns: a line for the mean over all objects, then one per object.

    Args:
        rows: video, object, and J&F, J and F in percent; of the mean, the object is empty or `ALL_FRAMES`.
        decimals: of the scores.
    """
    width = max(len(video) for video, *_ in rows)
    cells = [[f"{'sequence':<{width}}", f"{'obj':>3}", *(f"{name:>{decimals + 4}}" for name in ("J&F", "J", "F"))]]
    for video, obj, *scores in rows:
        cells.append([f"{video:<{width}}", f"{obj:>3}", *(f"{score:{decimals + 4}.{decimals}f}" for score in scores)])
    return cells


def format_scores(rows: Sequence[tuple[str, str, float, float, float]], decimals: int) -> str:
    """The cells of `score_cells` as CSV; names with commas, quotes or line breaks in them are quoted."""
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(score_cells(rows, decimals))
    return table.getvalue()


def read_j_and_f(path: Path) -> dict[str, list[float]]:
    """J&F in percent of the objects of each video.

    Raises:
        ValueError: the table cannot be read, or is of all frames, the first and the last one included.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    with named_errors(path):
        require_regular_file(path)
    with named_errors(path), path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file, skipinitialspace=True)
        try:
            rows = [[cell.strip(" ") for cell in line] for line in lines]
        except csv.Error as error:
            raise ValueError(f"line {lines.line_num}: {error}") from error
        if not rows:
            raise ValueError("it is empty")
        header, *rows = rows
        if missing := [name for name in ("sequence", "obj", "J&F") if name not in header]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        for row in rows:
            cells = dict(zip(header, row, strict=True))
            if cells["obj"] == ALL_FRAMES:
                raise ValueError("the first and the last frame are scored, too: run semi_eval.sh without this option")
            if not math.isfinite(score := float(cells["J&F"])):
                raise ValueError(f"the J&F of {cells['sequence']} is {score}")
            if cells["obj"]:  # the mean of all has none
                scores[cells["sequence"]].append(score)
    return scores
