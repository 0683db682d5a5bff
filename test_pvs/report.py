"""Makes tables and pictures of finished runs, in the layout of the paper's tables.

    python -m test_pvs.report results/* [--output report] [--quoted [FILE]] [--strips VIDEO ...]

Published numbers come only from --quoted, and are marked as quoted. `python -m test_pvs.paper` also makes the runs of a table.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from urllib import parse

from i2v.utils.command_line import command_line, given_path, make_output_folder
from i2v.utils.files import atomic_write
from test_pvs.finished_runs import SEMI_SUPERVISED, FinishedRun, dataset_names, read_runs
from test_pvs.pictures import draw_costs, draw_curves, draw_families, draw_scatter, draw_strip, rows_of_families, shared_videos
from test_pvs.quotes import COLUMNS, PAPER_QUOTES, Quote, read_quotes
from test_pvs.tables import LAYOUTS, TABLE_SETTINGS, Table, make_table, plain

log = logging.getLogger("test_pvs.report")

DEFAULT_TABLES = ("1", "2", "7")  # those of Tables 3 to 6 are runs of Table 1


def write_report(
    runs: Sequence[FinishedRun],
    quotes: Sequence[Quote],
    output: Path,
    strips: Sequence[str] = (),
    strip_settings: Sequence[str] = (),
    pictures: bool = True,
    left_out: Sequence[str] = (),
    tables: Sequence[str] = DEFAULT_TABLES,
) -> None:
    """Write report.md, a CSV per table, and the pictures.

    Args:
        runs (Sequence[FinishedRun]): the runs.
        quotes (Sequence[Quote]): published numbers.
        output (Path): folder of the report.
        strips (Sequence[str]): videos to compare frame by frame; their data sets must not have moved.
        strip_settings (Sequence[str]): settings to compare them in; by default all.
        pictures (bool): whether to draw pictures, which need matplotlib.
        left_out (Sequence[str]): a line for each run that is not in the tables, with the reason.
        tables (Sequence[str]): keys of `LAYOUTS`.

    Raises:
        ImportError: matplotlib is missing.
        ValueError, OSError: frames or masks of a strip cannot be used, or no run has the video or the setting.
    """
    make_output_folder(output)
    parts = ["# Report\n"]
    filled = [table for key in tables if (table := make_table(LAYOUTS[key], runs, quotes))]
    for table in filled:
        _write(output / f"{table.layout.stem}.csv", table.csv())
        parts.append(table.markdown())
    if described := dict.fromkeys(f"- {run.system}: {run.described_system}" for run in runs if run.label):
        parts.append("Measured rows:\n\n" + "\n".join(map(plain, described)) + "\n")
    incomplete = [plain(f"- {run.folder}: {run.missing}") for run in runs if run.missing]
    if incomplete:
        parts.append(
            "Incomplete runs: their J&F is over these videos only, and not in an average.\n\n" + "\n".join(incomplete) + "\n"
        )
    if left_out:
        parts.append("Left out:\n\n" + "\n".join(plain(f"- {line}") for line in left_out) + "\n")
    # Written without pictures first, so that the tables exist even if a picture cannot be drawn.
    _write(output / "report.md", "\n".join(parts))
    if pictures:
        pictures_of = chain(_draw_figures(filled, output), _draw(runs, output, strips, strip_settings))
        drawn = [(plain(title), parse.quote(path.name)) for title, path in pictures_of]
        links = [f"{title}\n\n![{title}]({name})\n" for title, name in drawn]
        _write(output / "report.md", "\n".join(parts + links))


def _in_other_tables(runs: Sequence[FinishedRun], tables: Sequence[str]) -> Iterator[str]:
    """Name the runs that are in none of the tables.

    Args:
        runs (Sequence[FinishedRun]): the runs.
        tables (Sequence[str]): keys of `LAYOUTS`.

    Yields:
        A line for each, with the tables that it fits.
    """
    for run in runs:
        if not any(LAYOUTS[key].takes(run) for key in tables):
            fitting = " ".join(key for key, layout in LAYOUTS.items() if layout.takes(run))
            yield f"{run.folder} ({run.protocol}, {run.setting}) fits other tables: --tables {fitting}"


def _draw_figures(tables: Sequence[Table], output: Path) -> Iterator[tuple[str, Path]]:
    """Draw the figures that show the numbers of tables: Figure 1 of Table 1, and Figure 6, or Table 3 in its form.

    Figure 6 has only systems that are named by an image SAM and a way to upgrade it.

    Yields:
        The title and path of each picture.
    """
    for table in tables:
        if table.layout.key == "1" and any(row.cost is not None and row.overall for row in table.rows):
            title = "Figure 1: OA over the cost of the training"
            yield title, draw_costs(output / "figure_1.png", title, table)
        if table.layout.quoted == "3" and rows_of_families(table):
            title = f"{table.layout.heading}: {table.layout.title}"
            yield title, draw_families(output / f"{table.layout.stem}.png", title, table)


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
    parser.add_argument(
        "--quoted",
        type=given_path,
        nargs="?",
        const=PAPER_QUOTES,
        metavar="FILE",
        help=f"published numbers: those of the paper, or of a CSV with the columns {','.join(COLUMNS)}",
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=LAYOUTS,
        help=f"tables of the paper to lay the runs out as (default: {' '.join(DEFAULT_TABLES)})",
    )
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
    quotes = read_quotes(args.quoted, TABLE_SETTINGS) if args.quoted else []
    runs, left_out = read_runs(args.results)
    if not runs:
        raise ValueError(left_out[0])
    left_out += [
        f"{LAYOUTS[key].heading} has no run: python -m test_pvs.paper {key} --dry-run prints its runs and their commands"
        for key in args.tables or ()
        if make_table(LAYOUTS[key], runs, ()) is None
    ]
    tables = args.tables or DEFAULT_TABLES
    others = list(_in_other_tables(runs, tables))
    lines = [*left_out, *others]
    write_report(runs, quotes, args.output, args.strips, args.strip_settings, not args.tables_only, lines, tables)
    print(f"The report is {args.output / 'report.md'}")  # noqa: T201
    for line in others:  # often on purpose
        log.warning("in none of the tables: %s", line)
    for line in left_out:
        log.error("left out: %s", line)
    return min(len(left_out), 1)


if __name__ == "__main__":
    sys.exit(main())
