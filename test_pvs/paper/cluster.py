"""The runs of a table on the nodes of a cluster: what each Slurm job does."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import submitit
from submitit.helpers import Checkpointable

from i2v.utils.command_line import EXPECTED_ERRORS, one_line
from test_pvs.runner import parse_devices, run_videos
from test_pvs.runs import LockedError, Run

log = logging.getLogger("test_pvs.paper")


class ShareTask(Checkpointable):
    """Evaluates a share of the videos of all runs, on one of the nodes of a job.

    Args:
        runs (Sequence[Run]): the runs.
        devices (str): the devices of each node; see `parse_devices`.
    """

    def __init__(self, runs: Sequence[Run], devices: str) -> None:
        self.runs = list(runs)
        self.devices = devices

    def __call__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        environment = submitit.JobEnvironment()
        share, devices = (environment.global_rank, environment.num_tasks), parse_devices(self.devices)
        failed = [run.output for run in self.runs if not self._evaluate(run, devices, share)]
        if failed:
            raise RuntimeError(f"not all videos of {', '.join(map(str, failed))} were evaluated; see the log above")

    def _evaluate(self, run: Run, devices: list[str], share: tuple[int, int]) -> bool:
        try:
            return not run_videos(run, devices, share=share)
        except LockedError as error:  # another table needs the same run, and its report evaluates what is left of it
            log.warning("skipped: %s", one_line(error))
            return True
        except EXPECTED_ERRORS as error:  # the other runs may be of other systems
            log.error("error: %s: %s", run.output, one_line(error))
            return False


class ReportTask(Checkpointable):
    """Collects the runs, evaluates what is left of them, and makes the report: the command line with --keep-going.

    Args:
        arguments (Sequence[str]): the arguments.

    Raises:
        RuntimeError: a run failed or is left out; the report is written nevertheless.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)

    def __call__(self) -> None:
        from test_pvs.paper.__main__ import main

        if main(self.arguments):
            raise RuntimeError("the report is not complete; see the log above")
