"""Tables and pictures of finished runs, in the layout of the paper's tables 1, 2 and 7.

    python -m test_pvs.report results/* [--output report] [--quoted quoted.csv] [--strips VIDEO ...]

Numbers of others come from the file of --quoted alone, and are marked as quoted wherever they stand.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib import parse

import numpy as np

from i2v.data.files import named_errors
from i2v.utils.command_line import command_line, given_path, make_output_folder
from i2v.utils.files import atomic_write
from test_pvs.finished_runs import SEMI_SUPERVISED, FinishedRun, dataset_names, read_runs
from test_pvs.pictures import draw_curves, draw_scatter, draw_strip, shared_videos

log = logging.getLogger("test_pvs.report")

AVERAGE = "average"  # name of the column beside the data sets'
NOTHING = "-"
_COLUMNS = ("table", "system", "dataset", "setting", "value", "source")


@dataclass(frozen=True)
class Layout:
    """A table of the paper.

    Attributes:
        number: the paper's. settings: how objects are prompted, a column for each per data set.
    """

    number: str
    title: str
    protocol: str
    settings: tuple[str, ...]


LAYOUTS = (
    Layout("1", "Online interactive", "online", ("1c", "3c", "5c")),
    Layout("2", "Offline interactive", "offline", ("1c", "3c", "5c")),
    Layout("7", "Semi-supervised", SEMI_SUPERVISED, ("1c", "3c", "5c", "bb", "gm")),
)


@dataclass(frozen=True)
class Quote:
    """A number that somebody else published; `dataset` may be `AVERAGE`."""

    table: str
    system: str
    dataset: str
    setting: str
    value: float
    source: str


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        rows: the name of a row, the source of its numbers (empty for those of the runs), and the texts of its columns.
    """

    layout: Layout
    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[str]]]

    def markdown(self) -> str:
        """The table as Markdown, with a title."""
        header = ["system", "quoted", *(f"{dataset} {setting}" for dataset, setting in self.columns)]
        lines = [f"## Table {self.layout.number}: {self.layout.title}, J&F", "", _line(header)]
        lines.append(_line(["---", "---", *["---:"] * len(self.columns)]))
        lines += [_line([name, f"quoted: {source}" if source else "", *texts]) for name, source, texts in self.rows]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The same as CSV; "quoted" has the source of quoted rows."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["system", "quoted", *(f"{dataset} {setting}" for dataset, setting in self.columns)])
        writer.writerows([name, source, *texts] for name, source, texts in self.rows)
        return text.getvalue()


def read_quotes(path: Path) -> list[Quote]:
    """Read the numbers of others: a CSV with the columns table (1, 2 or 7), system, dataset, setting, value, source.

    Raises:
        ValueError: it has other columns, or a line of it cannot be used. OSError: it cannot be read.
    """
    quotes: dict[tuple[str, ...], Quote] = {}
    if not path.is_file():  # a FIFO would be waited for
        raise FileNotFoundError(f"no such file: {path}")
    with named_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            columns, lines = tuple(reader.fieldnames or ()), [(reader.line_num, line) for line in reader]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num + 1}: {error}") from error
        if columns != _COLUMNS:
            raise ValueError(f"{path} has the columns {', '.join(columns) or 'of no table'}, expected {', '.join(_COLUMNS)}")
        for number, line in lines:
            where = f"{path}, line {number}"
            if None in line or not all(line.values()):
                raise ValueError(f"{where}: expected {len(_COLUMNS)} values, none of them empty")
            settings = {layout.number: layout.settings for layout in LAYOUTS}.get(line["table"])
            if settings is None:
                raise ValueError(f"{where}: no table {line['table']}; there are {', '.join(each.number for each in LAYOUTS)}")
            if line["setting"] not in settings:
                raise ValueError(f"{where}: no setting {line['setting']} in this table; there are {', '.join(settings)}")
            key = tuple(line[name] for name in _COLUMNS if name != "value")
            if key in quotes:
                raise ValueError(f"{where}: it stands there twice")
            quotes[key] = Quote(**{**line, "value": _number(line["value"], where)})
    return list(quotes.values())


def make_table(layout: Layout, runs: Sequence[FinishedRun], quotes: Sequence[Quote]) -> Table | None:
    """Fill a table; None if there is nothing for it.

    The average over data sets is there where a system has all of the table's, each with all videos. Quoted rows have the
    average that is quoted, and no other.

    Args:
        runs, quotes: of all tables.
    """
    names = dataset_names(runs)
    runs = [run for run in runs if run.protocol == layout.protocol]
    quotes = [quote for quote in quotes if quote.table == layout.number]
    if not runs and not quotes:
        return None
    datasets = list(dict.fromkeys([names[run.settings["data"]] for run in runs] + [quote.dataset for quote in quotes]))
    datasets = [*(name for name in datasets if name != AVERAGE), AVERAGE]
    settings = list(dict.fromkeys([*layout.settings, *sorted(run.setting for run in runs)]))
    columns = [(dataset, setting) for dataset in datasets for setting in settings]

    measured: defaultdict[str, dict[tuple[str, str], FinishedRun]] = defaultdict(dict)
    for run in runs:
        measured[run.system][names[run.settings["data"]], run.setting] = run
    # A data set of which there are quotes alone cannot be asked of a system.
    asked = list(dict.fromkeys(names[run.settings["data"]] for run in runs))
    rows = []
    for system, cells in measured.items():
        texts = {column: _cell(run) for column, run in cells.items()}
        for setting in settings:
            found = [cells.get((dataset, setting)) for dataset in asked]
            if all(run is not None and not run.missing for run in found):
                texts[AVERAGE, setting] = f"{np.mean([run.j_and_f for run in found]):.1f}"
        rows.append((system, "", [texts.get(column, NOTHING) for column in columns]))

    quoted: defaultdict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)
    for quote in quotes:
        quoted[quote.system, quote.source][quote.dataset, quote.setting] = f"{quote.value:.1f}"
    rows += [(*row, [cells.get(column, NOTHING) for column in columns]) for row, cells in quoted.items()]
    return Table(layout, columns, rows)


def write_report(
    runs: Sequence[FinishedRun],
    quotes: Sequence[Quote],
    output: Path,
    strips: Sequence[str] = (),
    strip_settings: Sequence[str] = (),
    pictures: bool = True,
    left_out: Sequence[str] = (),
) -> None:
    """Write report.md, a CSV per table, and the pictures.

    Args:
        strips: videos to compare frame by frame; their data sets must be where they were. strip_settings: only in these, by
            default in all. pictures: plots, too, which need matplotlib. left_out: why runs are not in the report, a line each.

    Raises:
        ImportError: matplotlib is missing. ValueError, OSError: frames or masks of a strip cannot be used, or no run has the
            video or the setting.
    """
    make_output_folder(output)
    parts = ["# Report\n"]
    for layout in LAYOUTS:
        table = make_table(layout, runs, quotes)
        if table is not None:
            _write(output / f"table_{layout.number}.csv", table.csv())
            parts.append(table.markdown())
    incomplete = [_plain(f"- {run.folder}: {run.missing}") for run in runs if run.missing]
    if incomplete:
        parts.append("Incomplete runs: the J&F is of these videos only, and in no average.\n\n" + "\n".join(incomplete) + "\n")
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(_plain(f"- {line}") for line in left_out) + "\n")
    # First without pictures: the tables are there even if one of those cannot be drawn.
    _write(output / "report.md", "\n".join(parts))
    if pictures:
        drawn = [(_plain(title), parse.quote(path.name)) for title, path in _draw(runs, output, strips, strip_settings)]
        links = [f"{title}\n\n![{title}]({name})\n" for title, name in drawn]
        _write(output / "report.md", "\n".join(parts + links))


def _draw(
    runs: Sequence[FinishedRun], output: Path, strips: Sequence[str], strip_settings: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """Draw all pictures. Yields their titles and paths."""
    unknown = sorted(set(strips) - {video for run in runs for video in run.videos})
    if unknown:
        raise ValueError(f"no run has finished the video {unknown[0]}")
    unknown = sorted(set(strip_settings) - {run.setting for run in runs})
    if unknown:
        raise ValueError(f"no run has the setting {unknown[0]}")
    names = dataset_names(runs)
    groups: defaultdict[tuple[str, ...], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        if run.scores:
            groups[run.protocol, names[run.settings["data"]]].append(run)
    for number, ((protocol, dataset), group) in enumerate(groups.items(), start=1):
        title, stem = f"{protocol}, {dataset}", _file_name(f"{number:02d}_{protocol}_{group[0].settings['dataset']}")
        # Online runs have a curve with --curve alone.
        if curved := [run for run in group if protocol != SEMI_SUPERVISED and 1 in run.curve()]:
            yield f"{title}: J&F over interacted frames", draw_curves(output / f"{stem}_curves.png", title, curved)
        first, *others = dict.fromkeys(run.system for run in group)
        for number_of_other, other in enumerate(others, start=2):
            pairs = [(one, two) for one in group for two in group if (one.system, two.system) == (first, other)]
            # A single point says nothing.
            pairs = [pair for pair in pairs if pair[0].setting == pair[1].setting and len(shared_videos(*pair)) > 1]
            if pairs:
                versus = f"{title}: {first} and {other}, by video"
                yield versus, draw_scatter(output / f"{stem}_1_{number_of_other}.png", title, pairs)
        for setting in dict.fromkeys(run.setting for run in group):
            if strip_settings and setting not in strip_settings:
                continue
            same = [run for run in group if run.setting == setting]
            for video in strips:
                shown = [run for run in same if video in run.videos]
                if shown:
                    yield (
                        f"{title}, {setting}: {video}",
                        draw_strip(output / _file_name(f"{stem}_{setting}_{video}.jpg"), video, shown),
                    )


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {text!r} is no number")
    return number


def _cell(run: FinishedRun) -> str:
    number = NOTHING if run.j_and_f is None else f"{run.j_and_f:.1f}"
    return f"{number} (incomplete: {run.missing})" if run.missing else number


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """A text for a line of Markdown: a line break in a name would end the line."""
    return "<br>".join(text.splitlines())


def _file_name(text: str) -> str:
    """A text as the name of a file: a path in the settings of a run would lead out of the report's folder."""
    return re.sub(r"[/\\:\x00-\x1f]", "_", text)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a folder is left out."""
    parser = argparse.ArgumentParser(description="Tables and pictures of finished runs.")
    parser.add_argument("results", nargs="+", type=given_path, metavar="RESULTS", help="folder of a finished run")
    parser.add_argument("--output", type=given_path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--quoted", type=given_path, metavar="FILE", help=f"CSV of published numbers: {','.join(_COLUMNS)}")
    parser.add_argument("--strips", nargs="*", default=(), metavar="VIDEO", help="videos to compare frame by frame")
    parser.add_argument("--strip-settings", nargs="*", default=(), metavar="SETTING", help="strips of these only: 3c, gm ...")
    parser.add_argument("--tables-only", action="store_true", help="no pictures, which need matplotlib")
    args = parser.parse_args(arguments)
    if args.tables_only and args.strips:
        parser.error("--strips are pictures: leave out --tables-only")
    if args.strip_settings and not args.strips:
        parser.error("--strip-settings go with --strips VIDEO ...")
    quotes = read_quotes(args.quoted) if args.quoted else []
    runs, left_out = read_runs(args.results)
    if not runs:
        raise ValueError(left_out[0])
    write_report(runs, quotes, args.output, args.strips, args.strip_settings, not args.tables_only, left_out)
    print(f"The report is {args.output / 'report.md'}")  # noqa: T201
    for line in left_out:
        log.error("left out: %s", line)
    return min(len(left_out), 1)


if __name__ == "__main__":
    sys.exit(main())
