"""The processes of a training: a single one, or several that torchrun or Slurm started."""

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
    """This process among all that train.

    Attributes:
        rank (int): index of this process.
        world_size (int): number of processes.
        device (torch.device): device of this process.
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
        """Overwrite tensors with their values in the first process."""
        if self.world_size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def gather(self, values: list[Any]) -> list[Any]:
        """The concatenated lists of all processes."""
        if self.world_size == 1:
            return values
        lists: list[list[Any]] = [[]] * self.world_size
        dist.all_gather_object(lists, values)
        return list(chain.from_iterable(lists))


@contextmanager
def start_processes(device: str | None = None) -> Iterator[Processes]:
    """Join the other processes, if torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) are set.

    NCCL is used on CUDA, gloo elsewhere. After an error the process group is not destroyed, because other ranks may be blocked
    in a collective: exit, and the launcher stops them.

    Args:
        device (str or None): "cuda", "mps" or "cpu"; by default the first available one.

    Raises:
        ValueError: the device is not available.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = find_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world_size > 1:
        # During validation, a process may wait long for another one.
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=timedelta(hours=1))
    yield Processes(rank, world_size, own)
    if world_size > 1:
        dist.destroy_process_group()


def find_device(device: str | None, number: int = 0) -> torch.device:
    """Find a device.

    Args:
        device (str or None): "cuda", "mps" or "cpu"; None for the first available one.
        number (int): index of the CUDA device.

    Raises:
        ValueError: the device is not available.
    """
    kind = device or default_device().type
    try:
        own = torch.device("cuda", number) if kind == "cuda" else torch.device(kind)
        torch.empty(0, device=own)
        if kind == "meta":
            raise RuntimeError("nothing is computed on it")
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise ValueError(f"cannot use device number {number} of kind {kind!r}: {error}") from error
    return own
