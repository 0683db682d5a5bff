"""results.csv, the table of scores that the evaluator writes and the benchmarks read."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from i2v.data.files import named_errors

# Stands in the table's first line, in place of an object, where the first and the last frame are scored, too.
ALL_FRAMES = "all"


def format_scores(rows: Sequence[tuple[str, str, float, float, float]], decimals: int) -> str:
    """The table: a line for the mean over all objects, then one per object.

    Args:
        rows: video, object, and J&F, J and F in percent; of the mean, the object is empty or `ALL_FRAMES`.
        decimals: of the scores.
    """
    width = max(len(video) for video, *_ in rows)
    table = [f"{'sequence':<{width}},{'obj':>3},{'J&F':>{decimals + 4}},{'J':>{decimals + 4}},{'F':>{decimals + 4}}"]
    for video, obj, *scores in rows:
        table.append(",".join([f"{video:<{width}}", f"{obj:>3}", *(f"{score:{decimals + 4}.{decimals}f}" for score in scores)]))
    return "\n".join(table) + "\n"


def read_j_and_f(path: Path) -> dict[str, list[float]]:
    """J&F in percent of the objects of each video.

    Raises:
        ValueError: the table cannot be read, or is of all frames, the first and the last one included.
    """
    scores: defaultdict[str, list[float]] = defaultdict(list)
    with named_errors(path), path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file, skipinitialspace=True):
            cells = {name.strip(): text.strip() for name, text in line.items()}
            if cells["obj"] == ALL_FRAMES:
                raise ValueError("the first and the last frame are scored, too: run semi_eval.sh without this option")
            if cells["obj"]:  # the mean of all has none
                scores[cells["sequence"]].append(float(cells["J&F"]))
    return scores
