"""The processes of a training: one by itself, or many that torchrun or Slurm started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from i2v.utils.devices import default_device


@dataclass(frozen=True)
class Processes:
    """Which process this is.

    Attributes:
        rank, world_size: of all processes. device: of this one.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self.sum(value) / self.world_size

    def broadcast(self, values: Sequence[Tensor]) -> None:
        """Give tensors the values that they have in the first process."""
        if self.world_size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes as one."""
        if self.world_size == 1:
            return values
        lists: list[list[Any]] = [[]] * self.world_size
        dist.all_gather_object(lists, values)
        return list(chain.from_iterable(lists))


@contextmanager
def start_processes(device: str | None = None) -> Iterator[Processes]:
    """Join the other processes, if torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) say that there are any. NCCL is used on
    CUDA, gloo elsewhere.

    After an error the process group is left as it is: the others may wait in it. The process must end then, which ends them.

    Args:
        device: "cuda", "mps" or "cpu"; by default the first that there is.

    Raises:
        ValueError: there is no such device.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = find_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world_size > 1:
        # In a validation a process may wait long for another one.
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=timedelta(hours=1))
    yield Processes(rank, world_size, own)
    if world_size > 1:
        dist.destroy_process_group()


def find_device(device: str | None, number: int = 0) -> torch.device:
    """A device by its kind, "cuda", "mps" or "cpu"; the first kind that there is for None. A ValueError if there is none."""
    kind = device or default_device().type
    try:
        own = torch.device("cuda", number) if kind == "cuda" else torch.device(kind)
        torch.empty(0, device=own)
        if kind == "meta":
            raise RuntimeError("nothing is computed on it")
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise ValueError(f"cannot use device number {number} of kind {kind!r}: {error}") from error
    return own
