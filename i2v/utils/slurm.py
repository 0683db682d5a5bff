"""Submits jobs to Slurm."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]  # where the packages are


@dataclass
class SlurmSettings:
    """What a job asks Slurm for.

    Attributes:
        nodes (int): number of nodes.
        gpus_per_node (int): number of GPUs per node.
        cpus_per_task (int): number of CPU cores per process.
        hours (float): time limit; when it runs out, the job is submitted again and resumes.
        partition (str or None): Slurm's partition; None for its default.
    """

    nodes: int
    gpus_per_node: int
    cpus_per_task: int
    hours: float
    partition: str | None


def submit_job(
    task: Callable[[], Any],
    settings: SlurmSettings,
    folder: Path,
    working_folder: Path,
    tasks_per_node: int = 1,
    **options: Any,
) -> str:
    """Submit a job whose processes all call `task`.

    Args:
        task (Callable): what to call; a `submitit.helpers.Checkpointable` is submitted again when its time runs out.
        settings (SlurmSettings): what the job asks for.
        folder (Path): folder of the job's files and output.
        working_folder (Path): where the processes start, and find relative paths.
        tasks_per_node (int): number of processes per node.
        **options: further parameters of submitit's executor.

    Returns:
        The number of the job.

    Raises:
        OSError: Slurm is not available.
    """
    import submitit

    try:
        # Resubmitted whenever the time runs out, in effect without limit.
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=1000)
    except RuntimeError as error:
        raise OSError(f"cannot submit to Slurm: {error}") from error
    executor.update_parameters(
        name="sam-i2v",
        nodes=settings.nodes,
        tasks_per_node=tasks_per_node,
        cpus_per_task=settings.cpus_per_task,
        timeout_min=round(settings.hours * 60),
        gpus_per_node=settings.gpus_per_node,
        slurm_partition=settings.partition,
        slurm_setup=[
            f"cd {shlex.quote(str(working_folder))}",
            f"export PYTHONPATH={shlex.quote(str(_ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
        ],
        **options,
    )
    job = executor.submit(task)
    log.info("submitted as job %s; its output is in %s", job.job_id, folder)
    return str(job.job_id)
