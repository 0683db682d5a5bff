"""Draws pictures that compare runs: the paper's figures, J&F over interacted frames, one system against another, and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from i2v.data.annotations import object_mask_path
from i2v.data.mask_files import read_mask
from i2v.utils.files import atomic_write
from i2v.utils.visualization import draw_overlay
from test_pvs.datasets import EvaluationVideo, read_dataset
from test_pvs.finished_runs import FinishedRun
from test_pvs.runs import MASKS
from test_pvs.tables import Row, Table, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES, _DOTS_PER_INCH = (6.0, 4.5), 120
_PANELS_PER_ROW = 3
_LINE_STYLES, _MARKERS = (":", "--", "-", "-."), "os^vD"
_LEGEND_LINE = 0.2  # inches
_DECADE = 10.0
_AREA = 4.0  # of a circle per million parameters, in square points
_MARKER, _LABEL_GAP = 30.0, 3.0  # area of other marks in square points, and distance of labels in points
_KEY_SIZES = (20, 100)  # of the circles in the key, in millions of parameters
# Sizes in strips, in pixels.
_TILE_WIDTH, _TITLE_HEIGHT, _GAP = 240, 22, 4
_STRIP_FRAMES = 6
_JPEG_QUALITY = 85


def draw_curves(path: Path, title: str, runs: Sequence[FinishedRun]) -> Path:
    """Plot J&F over the number of interacted frames, a line per run, with a colour per system and a style per setting.

    Args:
        path (Path): file of the picture.
        title (str): title of the plot.
        runs (Sequence[FinishedRun]): interactive runs, each with a finished video.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, (axes,) = _plot(title)
    axes.set_xlabel("maximum number of interacted frames")
    axes.set_ylabel("J&F")
    systems = list(dict.fromkeys(run.system for run in runs))
    settings = list(dict.fromkeys(run.setting for run in runs))
    for run in runs:
        curve, style = run.curve(), settings.index(run.setting)
        axes.plot(
            list(curve),
            list(curve.values()),
            color=f"C{systems.index(run.system)}",
            linestyle=_LINE_STYLES[style % len(_LINE_STYLES)],
            marker=_MARKERS[style % len(_MARKERS)],
            label=_label(run, f"{run.system}, {run.setting}"),
        )
    axes.locator_params(axis="x", integer=True)
    # Names may be long, so the legend is below the plot.
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * len(runs))
    figure.legend(loc="outside lower center", fontsize="small")
    return _save(figure, path)


def draw_scatter(path: Path, title: str, pairs: Sequence[tuple[FinishedRun, FinishedRun]]) -> Path:
    """Plot J&F of two systems against each other, a point per video that both finished.

    Args:
        path (Path): file of the picture.
        title (str): title of the plot.
        pairs (sequence of (FinishedRun, FinishedRun)): a run of each system, for each panel.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, panels = _plot(title, len(pairs))
    for axes, (first, second) in zip(panels, pairs, strict=True):
        shared = shared_videos(first, second)
        x, y = (np.array([np.mean(run.scores[name]) for name in shared]) for run in (first, second))
        axes.set_title(f"{first.setting}: the second is better in {np.sum(y > x)} of {len(shared)} videos", fontsize="small")
        axes.set_xlabel(_label(first, first.system))
        axes.set_ylabel(_label(second, second.system))
        axes.plot([0, 100], [0, 100], color="grey", linewidth=1)
        axes.scatter(x, y, s=16)
        for name, across, up in zip(shared, x, y, strict=True):
            axes.annotate(name, (across, up), fontsize=6, xytext=(3, 3), textcoords="offset points")
    return _save(figure, path)


def draw_costs(path: Path, title: str, table: Table) -> Path:
    """Plot OA over the cost of the training, a circle per system with an area by its parameters (Figure 1 of the paper).

    Quoted systems have hollow circles. Those without a training, or whose cost is unknown, are at the left. Those whose
    parameters are unknown are crosses.

    Args:
        path (Path): file of the picture.
        title (str): title of the plot.
        table (Table): a table with OA, in which a system has a cost.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure, (axes,) = _plot(title)
    costs = sorted({row.cost for row in table.rows if row.cost})
    untrained = costs[0] / _DECADE
    axes.set_xscale("log")
    axes.set_xlim(untrained / 2, costs[-1] * _DECADE)
    ticks = [untrained, *costs]
    axes.set_xticks(ticks, ["none or unknown", *map(short_number, costs)])
    axes.minorticks_off()
    axes.set_xlabel("cost of the training, GPUs x GB x hours")
    axes.set_ylabel("OA, J&F")
    for row in table.rows:
        if row.overall is None or row.overall.value is None:
            continue
        colour = "grey" if row.source else "C0"
        x, y = row.cost or untrained, row.overall.value
        radius = math.sqrt(_MARKER) / 2
        if row.parameters:
            area = _AREA * row.parameters
            radius = math.sqrt(area) / 2  # as matplotlib has it: `area` is that of the square around the circle
            axes.scatter(x, y, s=area, facecolors="none" if row.source else colour, edgecolors=colour)
        else:
            axes.scatter(x, y, s=_MARKER, marker="x", color=colour)
        note = f" ({row.overall.note})" if row.overall.note else ""
        # Beside the circle.
        offset = (radius + _LABEL_GAP, 0)
        label = _label_of(row.name, row.source) + note
        axes.annotate(label, (x, y), fontsize=6, xytext=offset, textcoords="offset points", verticalalignment="center")
    key = [
        *(axes.scatter([], [], s=_AREA * size, color="C0", label=f"{size} M parameters") for size in _KEY_SIZES),
        axes.scatter([], [], s=_MARKER, marker="x", color="C0", label="parameters unknown"),
        axes.scatter([], [], s=_MARKER, facecolors="none", edgecolors="grey", label="hollow or grey: quoted"),
    ]
    figure.set_figheight(figure.get_figheight() + 2 * _LEGEND_LINE)
    figure.legend(handles=key, loc="outside lower center", ncols=len(key), fontsize="x-small", handletextpad=1.5, borderpad=1.5)
    return _save(figure, path)


def rows_of_families(table: Table) -> list[Row]:
    """The rows of a table that are named by an image SAM and a way to upgrade it, such as TinySAM + TA."""
    return [row for row in table.rows if all(row.name.partition(" + "))]


def draw_families(path: Path, title: str, table: Table) -> Path:
    """Plot what different image SAMs reach with each way to upgrade them, a panel per column (Figure 6 of the paper).

    Args:
        path (Path): file of the picture.
        title (str): title of the plot.
        table (Table): a table in which systems have names such as TinySAM + TA; others are left out. Quoted ones have hatched
            bars. The notes of numbers, such as over which data sets an average is, stand on the bars.

    Returns:
        `path`.

    Raises:
        ImportError: matplotlib is missing.
    """
    rows = rows_of_families(table)
    columns = [column for column in table.columns if any(column in row.cells for row in rows)]
    bars = {(*row.name.partition(" + ")[::2], row.source): row for row in rows}
    families = list(dict.fromkeys(family for family, _, _ in bars))
    methods = list(dict.fromkeys((method, source) for _, method, source in bars))
    names = list(dict.fromkeys(method for method, _ in methods))
    figure, panels = _plot(title, len(columns))
    width = 0.8 / len(methods)
    for axes, column in zip(panels, columns, strict=True):
        axes.set_title(table.column_title(column), fontsize="small")
        axes.set_ylabel("J&F")
        axes.set_xticks(range(len(families)), families)
        for number, (method, source) in enumerate(methods):
            cells = [row.cells.get(column) if (row := bars.get((family, method, source))) else None for family in families]
            drawn = axes.bar(
                [place + (number + 0.5) * width - 0.4 for place in range(len(families))],
                [cell.value if cell and cell.value is not None else 0.0 for cell in cells],
                width,
                color=f"C{names.index(method)}",
                alpha=0.5 if source else 1.0,
                hatch="//" if source else None,
                label=_label_of(method, source),
            )
            notes = [cell.note if cell else "" for cell in cells]
            axes.bar_label(drawn, notes, label_type="center", rotation=90, color="white", fontsize="small")
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * len(methods))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small")
    return _save(figure, path)


def _label_of(name: str, source: str) -> str:
    return f"{name}, quoted" if source else name


def shared_videos(first: FinishedRun, second: FinishedRun) -> list[str]:
    """List the videos in which both of two runs have a scored object."""
    return sorted(name for name, scores in first.scores.items() if scores and second.scores.get(name))


def draw_strip(path: Path, name: str, runs: Sequence[FinishedRun]) -> Path:
    """Draw the masks of a video: a column per frame, the ground truth in the first row, then a row per run.

    Args:
        path (Path): file of the picture, a JPEG, because photographs are large as PNG.
        name (str): name of the video.
        runs (Sequence[FinishedRun]): runs on one data set, which must not have moved.

    Returns:
        `path`.

    Raises:
        ValueError, OSError: the data set, its frames or the masks cannot be used.
    """
    settings = runs[0].settings
    (video,) = read_dataset(settings["dataset"], settings["data"], [name], settings.get("void"))
    frames = spread(video.annotated_frames)
    truth = [{obj: video.mask(frame, obj) for obj in video.objects} for frame in frames]
    rows = [_row("ground truth", video, frames, truth)]
    for run in runs:
        folder = run.folder / MASKS / name
        masks = [{obj: _saved_mask(folder, obj, video, frame) for obj in video.objects} for frame in frames]
        rows.append(_row(f"{run.system}, {run.setting}", video, frames, masks))
    with atomic_write(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, quality=_JPEG_QUALITY)
    return path


def spread(frames: Sequence[int], count: int = _STRIP_FRAMES) -> list[int]:
    """Choose at most `count` of some frames, evenly spaced, with the first and the last one."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[place] for place in places]


def _saved_mask(folder: Path, obj: int, video: EvaluationVideo, frame: int) -> np.ndarray:
    path = object_mask_path(folder, obj, video.frame_names[frame])
    mask = read_mask(path)
    if mask.shape[::-1] != video.size:
        sizes = ["x".join(map(str, size)) for size in (mask.shape[::-1], video.size)]
        raise ValueError(f"{path} is {sizes[0]} pixels, but the frames of the video are {sizes[1]}: was the data set replaced?")
    return mask


def _row(title: str, video: EvaluationVideo, frames: Sequence[int], masks: Sequence[dict[int, np.ndarray]]) -> np.ndarray:
    """Draw a row of a strip, (h, w, 3) uint8 RGB, with its title above.

    Args:
        title (str): title of the row.
        video (EvaluationVideo): the video.
        frames (Sequence[int]): indices of the frames.
        masks (Sequence[dict[int, np.ndarray]]): masks (H, W) bool by object, for each frame.
    """
    width, height = _TILE_WIDTH, round(_TILE_WIDTH * video.size[1] / video.size[0])
    tiles = []
    for frame, objects in zip(frames, masks, strict=True):
        labels = np.zeros((height, width), np.uint8)
        for label, mask in enumerate(objects.values(), start=1):
            small = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
            labels[small > 0] = 1 + (label - 1) % 255
        image = cv2.resize(video.images[frame], (width, height), interpolation=cv2.INTER_AREA)
        tiles.append(cv2.copyMakeBorder(draw_overlay(image, labels), 0, _GAP, 0, _GAP, cv2.BORDER_CONSTANT, value=(255,) * 3))
    row = np.concatenate(tiles, axis=1)
    above = np.full((_TITLE_HEIGHT, row.shape[1], 3), 255, np.uint8)
    cv2.putText(above, title, (2, _TITLE_HEIGHT - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([above, row])


def _label(run: FinishedRun, text: str) -> str:
    return f"{text} (incomplete: {run.missing})" if run.missing else text


def find_matplotlib() -> type[Figure]:
    """Import matplotlib, without pyplot, which keeps figures and needs a display.

    Raises:
        ImportError: it is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib, or leave them out with --tables-only") from error
    return Figure


def _plot(title: str, num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    width, height = _INCHES
    columns = min(num_panels, _PANELS_PER_ROW)
    rows = -(-num_panels // columns)
    figure = find_matplotlib()((width * columns, height * rows), _DOTS_PER_INCH, layout="constrained")
    figure.suptitle(title, fontsize="medium")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[num_panels:]:
        axes.remove()
    for axes in panels[:num_panels]:
        axes.grid(alpha=0.3)
    return figure, panels[:num_panels]


def _save(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight")
    return path
