"""Makes tables and pictures of finished runs, in the layout of the paper's tables 1, 2 and 7.

    python -m test_pvs.report results/* [--output report] [--quoted quoted.csv] [--strips VIDEO ...]

Published numbers come only from the file of --quoted, and are marked as quoted.
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
from dataclasses import dataclass, replace
from pathlib import Path
from urllib import parse

import numpy as np

from i2v.data.files import named_errors
from i2v.utils.command_line import command_line, given_path, make_output_folder
from i2v.utils.files import atomic_write
from test_pvs.finished_runs import SEMI_SUPERVISED, FinishedRun, dataset_names, read_runs
from test_pvs.pictures import draw_curves, draw_scatter, draw_strip, shared_videos

log = logging.getLogger("test_pvs.report")

AVERAGE = "average"  # column next to those of the data sets
NOTHING = "-"
_COLUMNS = ("table", "system", "dataset", "setting", "value", "source")


@dataclass(frozen=True)
class Layout:
    """A table of the paper.

    Attributes:
        number (str): number of the table in the paper.
        title (str): title of the table.
        protocol (str): protocol of its runs.
        settings (tuple of str): prompts of the objects, a column for each per data set.
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
    """A published number.

    Attributes:
        table (str): number of the table.
        system (str): name of the row.
        dataset (str): name of the data set, or `AVERAGE`.
        setting (str): prompt of the objects, such as 3c.
        value (float): J&F in percent.
        source (str): where the number was published.
    """

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
        layout (Layout): the layout.
        columns (list of (str, str)): data set and setting of each column.
        rows (list of (str, str, list of str)): name of each row, source of its numbers (empty for runs), and texts of its
            columns.
    """

    layout: Layout
    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[str]]]

    def markdown(self) -> str:
        """Format the table as Markdown, with a title."""
        header = ["system", "quoted", *(f"{dataset} {setting}" for dataset, setting in self.columns)]
        lines = [f"## Table {self.layout.number}: {self.layout.title}, J&F", "", _line(header)]
        lines.append(_line(["---", "---", *["---:"] * len(self.columns)]))
        lines += [_line([name, f"quoted: {source}" if source else "", *texts]) for name, source, texts in self.rows]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Format the table as CSV; the column "quoted" has the source of quoted rows."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["system", "quoted", *(f"{dataset} {setting}" for dataset, setting in self.columns)])
        writer.writerows([name, source, *texts] for name, source, texts in self.rows)
        return text.getvalue()


def read_quotes(path: Path) -> list[Quote]:
    """Read published numbers from a CSV with the columns table (1, 2 or 7), system, dataset, setting, value, source.

    Raises:
        ValueError: the columns differ, or a line cannot be used.
        OSError: the file cannot be read.
    """
    if not path.is_file():  # opening a FIFO would block
        raise FileNotFoundError(f"no such file: {path}")
    with named_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            columns, lines = tuple(reader.fieldnames or ()), [(reader.line_num, line) for line in reader]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num + 1}: {error}") from error
        if columns != _COLUMNS:
            raise ValueError(f"{path} has the columns {', '.join(columns) or 'of no table'}, expected {', '.join(_COLUMNS)}")
        quotes: dict[Quote, Quote] = {}  # by the quote without its value
        for number, line in lines:
            quote = _parse_quote(line, f"{path}, line {number}")
            key = replace(quote, value=0.0)
            if key in quotes:
                raise ValueError(f"{path}, line {number}: duplicate row")
            quotes[key] = quote
    return list(quotes.values())


def _parse_quote(line: dict[str, str], where: str) -> Quote:
    """Parse a line of a CSV.

    Args:
        line (dict[str, str]): values by column.
        where (str): place of the line, for error messages.
    """
    if None in line or not all(line.values()):
        raise ValueError(f"{where}: expected {len(_COLUMNS)} values, none of them empty")
    settings = {layout.number: layout.settings for layout in LAYOUTS}
    if line["table"] not in settings:
        raise ValueError(f"{where}: no table {line['table']}; expected one of {', '.join(settings)}")
    expected = settings[line["table"]]
    if line["setting"] not in expected:
        raise ValueError(f"{where}: no setting {line['setting']} in this table; expected one of {', '.join(expected)}")
    value = _number(line["value"], where)
    return Quote(line["table"], line["system"], line["dataset"], line["setting"], value, line["source"])


def make_table(layout: Layout, runs: Sequence[FinishedRun], quotes: Sequence[Quote]) -> Table | None:
    """Fill a table.

    A system has an average over data sets if it has a complete run on all of them. Quoted rows have only the average that is
    quoted.

    Args:
        layout (Layout): the table.
        runs (Sequence[FinishedRun]): runs of all tables.
        quotes (Sequence[Quote]): quotes of all tables.

    Returns:
        The table; None if it has neither runs nor quotes.
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

    # Data sets that only quoted rows have are not required for the average of a system.
    required = list(dict.fromkeys(names[run.settings["data"]] for run in runs))
    texts: defaultdict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)  # by row and column
    for system in dict.fromkeys(run.system for run in runs):
        cells = {(names[run.settings["data"]], run.setting): run for run in runs if run.system == system}
        texts[system, ""] = {column: _cell(run) for column, run in cells.items()} | _averages(cells, required, settings)
    for quote in quotes:
        texts[quote.system, quote.source][quote.dataset, quote.setting] = f"{quote.value:.1f}"
    rows = [(*row, [cells.get(column, NOTHING) for column in columns]) for row, cells in texts.items()]
    return Table(layout, columns, rows)


def _averages(
    cells: dict[tuple[str, str], FinishedRun], datasets: Sequence[str], settings: Sequence[str]
) -> dict[tuple[str, str], str]:
    """Average J&F of a system over data sets, for the settings in which it has a complete run on each.

    Args:
        cells (dict[tuple[str, str], FinishedRun]): runs of the system by data set and setting.
        datasets (Sequence[str]): names of the data sets.
        settings (Sequence[str]): settings.

    Returns:
        Texts by column.
    """
    averages = {}
    for setting in settings:
        runs = [cells[dataset, setting] for dataset in datasets if (dataset, setting) in cells]
        scores = [run.j_and_f for run in runs if not run.missing and run.j_and_f is not None]
        if len(scores) == len(datasets):
            averages[AVERAGE, setting] = f"{np.mean(scores):.1f}"
    return averages


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
        runs (Sequence[FinishedRun]): the runs.
        quotes (Sequence[Quote]): published numbers.
        output (Path): folder of the report.
        strips (Sequence[str]): videos to compare frame by frame; their data sets must not have moved.
        strip_settings (Sequence[str]): settings to compare them in; by default all.
        pictures (bool): whether to draw pictures, which need matplotlib.
        left_out (Sequence[str]): a line for each run that is not in the report, with the reason.

    Raises:
        ImportError: matplotlib is missing.
        ValueError, OSError: frames or masks of a strip cannot be used, or no run has the video or the setting.
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
        parts.append(
            "Incomplete runs: their J&F is over these videos only, and not in an average.\n\n" + "\n".join(incomplete) + "\n"
        )
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(_plain(f"- {line}") for line in left_out) + "\n")
    # Written without pictures first, so that the tables exist even if a picture cannot be drawn.
    _write(output / "report.md", "\n".join(parts))
    if pictures:
        drawn = [(_plain(title), parse.quote(path.name)) for title, path in _draw(runs, output, strips, strip_settings)]
        links = [f"{title}\n\n![{title}]({name})\n" for title, name in drawn]
        _write(output / "report.md", "\n".join(parts + links))


def _draw(
    runs: Sequence[FinishedRun], output: Path, strips: Sequence[str], strip_settings: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """Draw all pictures.

    Yields:
        The title and path of each picture.
    """
    unknown = sorted(set(strips) - {video for run in runs for video in run.videos})
    if unknown:
        raise ValueError(f"no run has finished the video {unknown[0]}")
    unknown = sorted(set(strip_settings) - {run.setting for run in runs})
    if unknown:
        raise ValueError(f"no run has the setting {unknown[0]}")
    names = dataset_names(runs)
    groups: defaultdict[tuple[str, str], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        if run.scores:
            groups[run.protocol, names[run.settings["data"]]].append(run)
    for number, ((protocol, dataset), group) in enumerate(groups.items(), start=1):
        stem = _file_name(f"{number:02d}_{protocol}_{group[0].settings['dataset']}")
        yield from _draw_plots(group, f"{protocol}, {dataset}", output / stem)
        yield from _draw_strips(group, f"{protocol}, {dataset}", output / stem, strips, strip_settings)


def _draw_plots(group: Sequence[FinishedRun], title: str, stem: Path) -> Iterator[tuple[str, Path]]:
    """Draw the curves of runs, and the first system against each other one.

    Args:
        group (Sequence[FinishedRun]): runs of one protocol on one data set.
        title (str): start of the titles.
        stem (Path): start of the paths.

    Yields:
        The title and path of each picture.
    """
    # Online runs only have a curve with --curve.
    if curved := [run for run in group if run.protocol != SEMI_SUPERVISED and 1 in run.curve()]:
        yield f"{title}: J&F over interacted frames", draw_curves(Path(f"{stem}_curves.png"), title, curved)
    first, *others = dict.fromkeys(run.system for run in group)
    for number, other in enumerate(others, start=2):
        pairs = [(one, two) for one in group for two in group if (one.system, two.system) == (first, other)]
        # A single point says nothing.
        pairs = [pair for pair in pairs if pair[0].setting == pair[1].setting and len(shared_videos(*pair)) > 1]
        if pairs:
            versus = f"{title}: {first} and {other}, by video"
            yield versus, draw_scatter(Path(f"{stem}_1_{number}.png"), title, pairs)


def _draw_strips(
    group: Sequence[FinishedRun], title: str, stem: Path, videos: Sequence[str], settings: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """Draw videos frame by frame, with a row for each run of a setting.

    Args:
        group (Sequence[FinishedRun]): runs of one protocol on one data set.
        title (str): start of the titles.
        stem (Path): start of the paths.
        videos (Sequence[str]): names of the videos.
        settings (Sequence[str]): settings to draw; all if empty.

    Yields:
        The title and path of each picture.
    """
    for setting in dict.fromkeys(run.setting for run in group):
        for video in videos if not settings or setting in settings else ():
            if shown := [run for run in group if run.setting == setting and video in run.videos]:
                path = stem.with_name(_file_name(f"{stem.name}_{setting}_{video}.jpg"))
                yield f"{title}, {setting}: {video}", draw_strip(path, video, shown)


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {text!r} is not a number")
    return number


def _cell(run: FinishedRun) -> str:
    number = NOTHING if run.j_and_f is None else f"{run.j_and_f:.1f}"
    return f"{number} (incomplete: {run.missing})" if run.missing else number


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Replace line breaks, which names may have, in a line of Markdown."""
    return "<br>".join(text.splitlines())


def _file_name(text: str) -> str:
    """Make a text the name of a file: a path in the settings of a run would lead out of the report's folder."""
    return re.sub(r"[/\\:\x00-\x1f]", "_", text)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a folder is left out."""
    parser = argparse.ArgumentParser(description="Tables and pictures of finished runs.")
    parser.add_argument("results", nargs="+", type=given_path, metavar="RESULTS", help="output folder of a finished run")
    parser.add_argument("--output", type=given_path, default=Path("report"), help="folder of the report (default: report)")
    parser.add_argument("--quoted", type=given_path, metavar="FILE", help=f"CSV of published numbers: {','.join(_COLUMNS)}")
    parser.add_argument("--strips", nargs="*", default=(), metavar="VIDEO", help="videos to compare frame by frame")
    parser.add_argument(
        "--strip-settings",
        nargs="*",
        default=(),
        metavar="SETTING",
        help="settings to compare them in, such as 3c gm (default: all)",
    )
    parser.add_argument("--tables-only", action="store_true", help="leave out the pictures, which need matplotlib")
    args = parser.parse_args(arguments)
    if args.tables_only and args.strips:
        parser.error("--strips cannot be combined with --tables-only")
    if args.strip_settings and not args.strips:
        parser.error("--strip-settings needs --strips VIDEO ...")
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
