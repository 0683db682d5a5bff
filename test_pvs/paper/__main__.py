"""Makes one of the paper's Tables 1 to 7 and 10, or Figure 6: runs what is missing of it, then the report.

    python -m test_pvs.paper 1 [--systems NAME ...] [--data NAME=FOLDER ...] [--output paper-tables] [--devices cuda]

The rows are in test_pvs/paper/systems.yaml, with the config and the weights of each system. Rerun the command to resume.
--dry-run shows the table as it is, the commands for the runs that are missing, and the data, weights and packages that they
lack; --slurm submits them to Slurm. A run that ends with an error is left out of the report with its reason, and the others go
on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from i2v.utils.command_line import (
    EXPECTED_ERRORS,
    command_line,
    given_path,
    given_text,
    make_output_folder,
    one_line,
    whole_number,
)
from i2v.utils.slurm import SlurmSettings, submit_job
from test_pvs.datasets import check_dataset_name, read_dataset
from test_pvs.finished_runs import SystemLabel, read_runs
from test_pvs.paper.plan import PlannedRun, find_problems, make_run, plan_runs, require_runnable
from test_pvs.paper.registry import REGISTRY, read_registry, with_config
from test_pvs.pictures import find_matplotlib
from test_pvs.quotes import PAPER_QUOTES, PARAMETERS, read_quotes
from test_pvs.report import write_report
from test_pvs.runner import parse_devices
from test_pvs.tables import LAYOUTS, PAPER_NAMES, TABLE_SETTINGS, Layout, make_table

log = logging.getLogger("test_pvs.paper")


def _named(text: str) -> tuple[str, str]:
    """Argument type: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _dataset(text: str) -> tuple[str, Path]:
    """Argument type: NAME=FOLDER of a data set."""
    name, folder = _named(text)
    try:
        return check_dataset_name(name), Path(folder)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m test_pvs.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `main` removes --slurm from the job's arguments by its full name
    )
    parser.add_argument(
        "table",
        choices=LAYOUTS,
        help="number of the table, or figure-6 (Figure 1 comes with Table 1; Tables 8 and 9: tools/count_flops.py --tables)",
    )
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="systems of the table to run (default: all)")
    parser.add_argument(
        "--data",
        nargs="+",
        type=_dataset,
        metavar="NAME=FOLDER",
        help="data sets, such as sav=/data/sav_test (default: those of the paper's table, in data/)",
    )
    parser.add_argument(
        "--output", type=given_path, default=Path("paper-tables"), help="folder of runs and reports (default: paper-tables)"
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        type=_named,
        default=(),
        metavar="NAME=PATH",
        help="weights, such as sam-i2v=my.pt",
    )
    parser.add_argument("--config", type=given_text, help="another config for the systems made of SAM-I2V, such as i2v-lite")
    parser.add_argument("--registry", type=given_path, default=REGISTRY, help="another file of systems and rows")
    parser.add_argument(
        "--devices",
        default="",
        help="cuda:0,cuda:1 for these GPUs, cuda for all, cpu:2 for two workers (default: all GPUs, or cpu)",
    )
    parser.add_argument("--strips", nargs="*", default=(), metavar="VIDEO", help="videos to compare frame by frame")
    parser.add_argument("--tables-only", action="store_true", help="leave out the pictures, which need matplotlib")
    parser.add_argument(
        "--keep-going", action="store_true", help="leave out systems that cannot be run, instead of stopping before any work"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="run and write nothing: show the table, and all that is missing")
    mode.add_argument("--slurm", action="store_true", help="submit to Slurm: the videos of all runs, then the report")
    slurm = parser.add_argument_group("with --slurm")
    slurm.add_argument("--nodes", type=whole_number(1), default=1, help="nodes that the videos are spread over (default: 1)")
    slurm.add_argument("--gpus-per-node", type=whole_number(0), default=1, help="GPUs of each node (default: 1)")
    slurm.add_argument("--cpus-per-node", type=whole_number(1), default=10, help="CPU cores of each node (default: 10)")
    slurm.add_argument(
        "--hours", type=whole_number(1), default=24, help="time limit, after which the job is submitted again (default: 24)"
    )
    slurm.add_argument("--partition", type=given_text, help="Slurm's partition (default: that of the cluster)")
    return parser


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if the table is not complete."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.tables_only and args.strips:
        parser.error("--strips cannot be combined with --tables-only")
    data = dict(args.data or ())
    if len(data) < len(args.data or ()):
        parser.error("--data has a data set twice")
    layout = LAYOUTS[args.table]
    registry = read_registry(args.registry, dict(args.checkpoint))
    rows = registry.rows(args.table, args.systems)
    if args.config:
        rows = with_config(rows, args.config)
    for system in rows.values():
        system.check_config()
    elsewhere = PAPER_NAMES.keys() - layout.datasets  # in other tables of the paper only
    data = data or {name: folder for name, folder in registry.data.items() if name not in elsewhere}
    planned = plan_runs(layout, rows, data, args.output / "runs")
    if args.dry_run:
        for each in planned:
            each.compare_settings()
        _show(layout, planned)
        return 0
    if not args.tables_only:
        find_matplotlib()
    devices = [] if args.slurm else parse_devices(args.devices)
    if not args.keep_going:
        require_runnable(planned, None if args.slurm else devices[0])
    if args.strips:
        _require_videos(args.strips, data)
    make_output_folder(args.output)
    todo = [each for each in planned if not each.is_evaluated()]
    if args.slurm and todo:
        _submit(todo, args, [*(argument for argument in arguments if argument != "--slurm"), "--keep-going"])
        return 0
    complete, errors = True, {}
    for each in planned:
        try:
            complete &= make_run(each, devices)
        except EXPECTED_ERRORS as error:  # the other runs may be of other systems
            errors[each.run.output] = one_line(error)
            log.error("error: %s: %s", each.title, one_line(error))
    return 0 if _report(layout, planned, errors, args) and complete else 1


def _require_videos(names: Sequence[str], data: Mapping[str, Path]) -> None:
    """Check that there are videos of these names.

    Raises:
        ValueError: there is none of a name; see also `read_dataset`.
    """
    known = {video.name for dataset, folder in data.items() for video in read_dataset(dataset, folder)}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no data set has the video {unknown[0]} of --strips")


def _labels(layout: Layout, planned: Sequence[PlannedRun]) -> dict[Path, SystemLabel]:
    """What the table says about the system of each run that has scores, by folder."""
    counted = PARAMETERS in layout.facts
    systems = {each.row: each.system for each in planned if each.has_scores()}
    labels = {
        row: SystemLabel(row, system.count_parameters() if counted else None, system.cost) for row, system in systems.items()
    }
    return {each.run.output: labels[each.row] for each in planned if each.has_scores()}


def _report(layout: Layout, planned: Sequence[PlannedRun], errors: Mapping[Path, str], args: argparse.Namespace) -> bool:
    """Write the report.

    Args:
        layout (Layout): the table.
        planned (Sequence[PlannedRun]): its runs.
        errors (Mapping[Path, str]): errors of runs by folder; these runs are left out.
        args (argparse.Namespace): the parsed arguments.

    Returns:
        Whether all runs are in it.
    """
    labels = _labels(layout, [each for each in planned if each.run.output not in errors])
    runs, left_out = read_runs(list(labels), labels)
    left_out += [
        f"{each.title}: {errors.get(each.run.output, 'missing')}; {each.command}"
        for each in planned
        if each.run.output not in labels
    ]
    output = args.output / layout.stem
    quotes = read_quotes(PAPER_QUOTES, TABLE_SETTINGS)
    write_report(runs, quotes, output, args.strips, pictures=not args.tables_only, left_out=left_out, tables=[layout.key])
    print(f"The report is {output / 'report.md'}")  # noqa: T201
    for line in left_out:
        log.error("left out: %s", line)
    return not left_out


def _show(layout: Layout, planned: Sequence[PlannedRun]) -> None:
    """Print the table as it is, the commands for the runs that are missing, and what these lack."""
    labels = _labels(layout, planned)
    runs, _ = read_runs(list(labels), labels)
    missing = [each for each in planned if not each.is_finished()]
    lines = [f"{layout.heading}: {len(missing)} of {len(planned)} runs are missing{':' if missing else ''}"]
    lines += [f"# {each.title}\n{each.command}" for each in missing]
    problems, summary = find_problems(planned)
    lines += [f"# {line}" for line in (*problems, summary) if line]
    table = make_table(layout, runs, read_quotes(PAPER_QUOTES, TABLE_SETTINGS))
    print(*([table.markdown()] if table else []), *lines, sep="\n")  # noqa: T201


def _submit(todo: Sequence[PlannedRun], args: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Submit the videos of all runs to Slurm, and the report, which waits for them.

    Args:
        todo (Sequence[PlannedRun]): the runs that are not finished.
        args (argparse.Namespace): the parsed arguments.
        arguments (Sequence[str]): the arguments of the report, which is written whatever happens to the runs.

    Raises:
        OSError: Slurm is not available.
    """
    from test_pvs.paper.cluster import ReportTask, ShareTask

    settings = SlurmSettings(args.nodes, args.gpus_per_node, args.cpus_per_node, args.hours, args.partition)
    folder, here = args.output.absolute() / "slurm", Path.cwd()
    job = submit_job(ShareTask([each.run for each in todo], args.devices), settings, folder, here)
    # After the videos, however that ends: what is left of them is evaluated first.
    after = {"dependency": f"afterany:{job}"}
    submit_job(ReportTask(arguments), replace(settings, nodes=1), folder, here, slurm_additional_parameters=after)


if __name__ == "__main__":
    sys.exit(main())
