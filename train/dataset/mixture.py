"""Batches of several data sets, in an order that depends only on the seed and the number of the step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.dataset.sample import BAD_SAMPLE, ClipDataset, RawClip

log = logging.getLogger(__name__)

# Limits far beyond any memory and patience: clips in a batch, and samples in a pass, which is shuffled at once.
_MAX_BATCH, _MAX_PASS = 1024, 10**8
# Purposes of random numbers. Part of the seed, so that the same numbers never serve two purposes.
_STEPS, _SAMPLES, _SEEDS = range(3)


class TooManyBadSamplesError(RuntimeError):
    """Too many consecutive samples of a data set cannot be used."""

    def __init__(self, message: str) -> None:
        # DataLoader recreates a worker's error with the worker's traceback in front of its message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2])


@dataclass
class Sample:
    """A clip that is ready for the network.

    Attributes:
        name (str): name of the clip, for messages.
        frames (Tensor): (T, 3, S, S) float32, RGB in [0, 1].
        masks (Tensor): (O, T, S, S) bool.
    """

    name: str
    frames: Tensor
    masks: Tensor


@dataclass
class Batch:
    """B clips of one data set.

    Attributes:
        frames (Tensor): (B, T, 3, S, S) float32, RGB in [0, 1].
        masks (Tensor): (O, T, S, S) bool, all objects of all clips.
        video (Tensor): (O,) int64, the index of each object's clip.
        names (list[str]): names of the clips, for messages.
    """

    frames: Tensor
    masks: Tensor
    video: Tensor
    names: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; DataLoader(pin_memory=True) calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, frames=change(self.frames), masks=change(self.masks), video=change(self.video))


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a batch of samples with the same number of frames and the same size."""
    counts = torch.tensor([len(sample.masks) for sample in samples])
    return Batch(
        frames=torch.stack([sample.frames for sample in samples]),
        masks=torch.cat([sample.masks for sample in samples]),
        video=torch.arange(len(samples)).repeat_interleave(counts),
        names=[sample.name for sample in samples],
    )


class SampleReader:
    """Reads samples of a data set; samples that cannot be used are reported and replaced.

    Args:
        dataset (ClipDataset): the data set.
        transform (Callable): a function from a clip and a generator to frames (T, 3, S, S) float32 and masks (O, T,
            S, S) bool, as in transforms.py.
        max_failures (int): number of consecutive bad samples that is an error.

    Raises:
        ValueError: `max_failures` is below 1.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        transform: Callable[[RawClip, np.random.Generator], tuple[Tensor, Tensor]],
        max_failures: int = 20,
    ) -> None:
        if max_failures < 1:
            raise ValueError(f"max_failures must be at least 1, not {max_failures}")
        self.dataset = dataset
        self.transform = transform
        self.max_failures = max_failures

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, seed: int) -> Sample:
        """Read a sample, or another one if it is bad.

        Args:
            index (int): index of the sample.
            seed (int): seed of all random choices.

        Raises:
            TooManyBadSamplesError: `max_failures` consecutive samples are bad; the message names the last error.
        """
        failure: Exception | None = None
        for attempt in range(self.max_failures):
            # A generator for each attempt: how far a bad sample came before it failed must not matter.
            rng = np.random.default_rng((seed, attempt))
            if failure is not None:
                index = int(rng.integers(len(self.dataset)))
            try:
                clip = self.dataset.load(index, rng)
                return Sample(clip.name, *self.transform(clip, rng))
            except BAD_SAMPLE as error:
                message = str(error) or type(error).__name__
                log.warning("%s: sample %d is replaced by another one: %s", self.dataset.name, index, message)
                failure = error
        raise TooManyBadSamplesError(
            f"{self.dataset.name}: {self.max_failures} bad samples in a row, the last one: {failure}"
        ) from failure


@dataclass(frozen=True)
class MixturePart:
    """A data set of a mixture.

    Attributes:
        name (str): name of the data set.
        num_samples (int): number of its samples.
        batch_size (int): number of samples per batch and process.
        repeat (int): number of passes through it in one pass through the mixture.
    """

    name: str
    num_samples: int
    batch_size: int
    repeat: int = 1

    def __post_init__(self) -> None:
        for field in ("num_samples", "batch_size", "repeat"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} of {self.name} must be at least 1, not {getattr(self, field)}")
        if self.batch_size > _MAX_BATCH:
            raise ValueError(f"batch_size of {self.name} must be at most {_MAX_BATCH}, not {self.batch_size}")
        if self.num_samples * self.repeat > _MAX_PASS:
            counts = f"{self.num_samples} samples {self.repeat} times"
            raise ValueError(f"repeat of {self.name} is too large: a pass has at most {_MAX_PASS} samples, not {counts}")


class MixtureSchedule:
    """Assigns samples to batches. It has no state: every batch can be computed at any time.

    One pass goes `repeat` times through each data set, shuffled. The rest of a data set that does not fill a batch in every
    process is dropped; a data set that is too small for a single batch is repeated until it fills one. The steps of all data
    sets are shuffled together, and in each step all processes read the same data set, so that none waits long for another. The
    batches of all processes together do not depend on the number of processes, as long as their total size is the same.

    Args:
        parts (Sequence[MixturePart]): the data sets.
        seed (int): random seed of order and samples.
        world_size (int): number of processes.
        rank (int): index of this process.
        steps_per_epoch (int or None): number of steps in an epoch, into which the endless sequence of passes is cut; None for
            one pass.
    """

    def __init__(
        self,
        parts: Sequence[MixturePart],
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        steps_per_epoch: int | None = None,
    ) -> None:
        if not parts:
            raise ValueError("a mixture needs a data set")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} processes")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, not {steps_per_epoch}")
        self.parts = list(parts)
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self._steps = [max(part.num_samples * part.repeat // (part.batch_size * world_size), 1) for part in parts]
        self._length = sum(self._steps) if steps_per_epoch is None else steps_per_epoch
        self._latest: tuple[int, np.ndarray, list[np.ndarray]] | None = None

    def __len__(self) -> int:
        """Steps per epoch."""
        return self._length

    def batch(self, epoch: int, step: int) -> tuple[int, list[int], list[int]]:
        """The batch of this process in a step of an epoch.

        Returns:
            The index of the data set, the indices of its samples, and a seed for each of them.
        """
        if epoch < 0 or not 0 <= step < len(self):
            raise IndexError(f"no step {step} in epoch {epoch}: epochs have {len(self)} steps")
        pass_index, position = divmod(epoch * len(self) + step, sum(self._steps))
        datasets, orders = self._pass(pass_index)
        dataset = int(datasets[position])
        earlier = int((datasets[:position] == dataset).sum())
        batch_size = self.parts[dataset].batch_size
        start = (earlier * self.world_size + self.rank) * batch_size
        indices = orders[dataset][start : start + batch_size]
        seeds = [int(self._rng(pass_index, _SEEDS, dataset, start + i).integers(2**63)) for i in range(batch_size)]
        return dataset, indices.tolist(), seeds

    def _pass(self, pass_index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The data set of each step of a pass, and the order of each data set's samples.

        The latest pass is cached: the eleven million images of SA-1B take half a second to shuffle.
        """
        if self._latest is None or self._latest[0] != pass_index:
            datasets = self._rng(pass_index, _STEPS).permutation(np.repeat(np.arange(len(self.parts)), self._steps))
            orders = [self._order(pass_index, dataset) for dataset in range(len(self.parts))]
            self._latest = pass_index, datasets, orders
        return self._latest[1:]

    def _order(self, pass_index: int, dataset: int) -> np.ndarray:
        """The samples of a data set in the order of a pass."""
        part = self.parts[dataset]
        needed = self._steps[dataset] * part.batch_size * self.world_size
        rounds = -(-needed // part.num_samples)
        return np.concatenate(
            [self._rng(pass_index, _SAMPLES, dataset, i).permutation(part.num_samples) for i in range(rounds)]
        )

    def _rng(self, pass_index: int, purpose: int, dataset: int = 0, number: int = 0) -> np.random.Generator:
        return np.random.default_rng((self.seed, pass_index, purpose, dataset, number))


class MixtureDataset(Dataset[Batch]):
    """The batches of a mixture, by the number of their step since the beginning of the training.

    For `DataLoader(dataset, sampler=range(start, stop), batch_size=None)`: a run that is resumed at `start` gets the same data
    as without interruption, with any number of workers.

    Args:
        readers (Sequence[SampleReader]): readers of the data sets, in the order of the schedule's parts.
        schedule (MixtureSchedule): the samples of each batch.
    """

    def __init__(self, readers: Sequence[SampleReader], schedule: MixtureSchedule) -> None:
        sizes = [len(reader) for reader in readers]
        scheduled = [part.num_samples for part in schedule.parts]
        if sizes != scheduled:
            raise ValueError(f"the readers have {sizes} samples, the schedule {scheduled}")
        self.readers = list(readers)
        self.schedule = schedule

    def __getitem__(self, step: int) -> Batch:
        dataset, indices, seeds = self.schedule.batch(*divmod(step, len(self.schedule)))
        return collate([self.readers[dataset].read(index, seed) for index, seed in zip(indices, seeds, strict=True)])
