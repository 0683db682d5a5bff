"""Batches: reading with replacement of bad samples, collation, order, resuming, worker processes."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from train.dataset.mixture import Batch, MixtureDataset, MixturePart, MixtureSchedule, Sample, SampleReader, collate
from train.dataset.sample import ClipDataset, RawClip, SampleError
from train.dataset.transforms import ClipTransform


class Stripes(ClipDataset):
    """Clips whose frames have the value of their index; those in `bad` cannot be read."""

    def __init__(self, name: str, length: int, num_frames: int = 2, bad: dict[int, Exception] | None = None) -> None:
        self.name = name
        self.length = length
        self.num_frames = num_frames
        self.bad = bad or {}

    def __len__(self) -> int:
        return self.length

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        if index in self.bad:
            rng.random(index)  # how much was drawn before must not matter
            raise self.bad[index]
        masks = torch.zeros(self.num_frames, 1 + int(rng.integers(3)), 16, 16, dtype=torch.bool)
        masks[..., 4:12, 4:12] = True
        frames = torch.full((self.num_frames, 3, 16, 16), index, dtype=torch.uint8)
        return RawClip(f"{self.name}/{index}", frames, masks)


def reader_of(*args, max_failures: int = 20, **options) -> SampleReader:
    return SampleReader(Stripes(*args, **options), ClipTransform(16), max_failures)


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.names == b.names
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("frames", "masks", "video"))


# Reading


def test_a_seed_makes_a_sample() -> None:
    reader = reader_of("set", 9)
    sample = reader.read(4, 7)
    assert sample.name == "set/4"
    again, other = reader.read(4, 7), reader.read(4, 8)
    assert torch.equal(sample.frames, again.frames)
    assert torch.equal(sample.masks, again.masks)
    assert not torch.equal(sample.frames, other.frames)


def test_a_bad_sample_is_reported_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    reader = reader_of("set", 9, bad={i: SampleError(f"file_{i}.jpg is broken") for i in range(1, 9)}, max_failures=200)
    with caplog.at_level(logging.WARNING):
        sample = reader.read(3, 5)
    assert sample.name == "set/0"
    messages = [record.getMessage() for record in caplog.records]
    assert "set: sample 3 is replaced" in messages[0]
    assert "file_3.jpg is broken" in messages[0]
    assert torch.equal(sample.frames, reader.read(3, 5).frames)
    replacements = {reader_of("set", 99, bad={0: OSError("disk")}).read(0, seed).name for seed in range(10)}
    assert len(replacements) > 5


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("maximum recursion depth exceeded")])
def test_absurd_sizes_and_depths_are_bad_samples(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    assert reader_of("set", 2, bad={0: error}, max_failures=200).read(0, 5).name == "set/1"
    assert f"set: sample 0 is replaced by another one: {str(error) or 'MemoryError'}" in caplog.text


def test_too_many_bad_samples() -> None:
    reader = reader_of("set", 5, bad={i: SampleError(f"file_{i}.jpg is broken") for i in range(5)}, max_failures=4)
    with pytest.raises(RuntimeError, match=r"set: 4 bad samples in a row, the last one: file_\d\.jpg is broken") as error:
        reader.read(0, 0)
    assert isinstance(error.value.__cause__, SampleError)


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        reader_of("set", 5, bad={0: ZeroDivisionError()}).read(0, 0)


# Batches


def sample_with(num_objects: int) -> Sample:
    return Sample(f"clip of {num_objects}", torch.rand(2, 3, 8, 8), torch.rand(num_objects, 2, 8, 8) > 0.5)


def test_collate() -> None:
    samples = [sample_with(2), sample_with(1), sample_with(3)]
    batch = collate(samples)
    assert batch.names == ["clip of 2", "clip of 1", "clip of 3"]
    assert torch.equal(batch.frames, torch.stack([sample.frames for sample in samples]))
    assert batch.video.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.video.dtype == torch.int64
    for i, sample in enumerate(samples):
        assert torch.equal(batch.masks[batch.video == i], sample.masks)


def test_to_a_device() -> None:
    batch = collate([sample_with(2)]).to("meta", non_blocking=True)
    assert {batch.frames.device.type, batch.masks.device.type, batch.video.device.type} == {"meta"}
    assert batch.names == ["clip of 2"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU has page-locked memory")
def test_pin_memory() -> None:
    batch = collate([sample_with(2)]).pin_memory()
    assert batch.frames.is_pinned() and batch.masks.is_pinned() and batch.video.is_pinned()


# Order

PARTS = [MixturePart("images", 23, batch_size=2), MixturePart("videos", 10, batch_size=1, repeat=2)]


def schedules(world_size: int = 2, parts=PARTS, seed: int = 0, **options) -> list[MixtureSchedule]:
    return [MixtureSchedule(parts, seed, world_size, rank, **options) for rank in range(world_size)]


def epoch_of(ranks: list[MixtureSchedule], epoch: int) -> list[list[tuple[int, list[int], list[int]]]]:
    return [[rank.batch(epoch, step) for rank in ranks] for step in range(len(ranks[0]))]


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_has_each_sample_once(epoch: int) -> None:
    ranks = schedules()
    assert len(ranks[0]) == 23 // 4 + 20 // 2
    seen: dict[int, list[int]] = {0: [], 1: []}
    seeds = []
    for step in epoch_of(ranks, epoch):
        assert len({dataset for dataset, _, _ in step}) == 1
        for dataset, indices, its_seeds in step:
            assert len(indices) == len(its_seeds) == PARTS[dataset].batch_size
            seen[dataset] += indices
            seeds += its_seeds
    assert len(seen[0]) == len(set(seen[0])) == 20  # three do not fill a batch on both
    assert set(seen[0]) <= set(range(23))
    assert sorted(seen[1]) == sorted(2 * list(range(10)))
    assert len(set(seeds)) == len(seeds)


def test_order_depends_on_seed_and_epoch_only() -> None:
    ranks = schedules()
    epochs = [epoch_of(ranks, epoch) for epoch in range(3)]
    assert epoch_of(schedules(), 1) == epochs[1]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epoch_of(schedules(seed=1), 0) != epochs[0]
    orders = [tuple(step[0][0] for step in epoch) for epoch in epochs]
    assert len(set(orders)) == 3  # the steps of the data sets are shuffled together
    assert all(0 < order.index(1) < 15 or order[0] == 1 for order in orders)
    assert any(list(order) != sorted(order) for order in orders)


def test_number_of_processes_does_not_matter() -> None:
    def global_batches(world_size: int) -> list[tuple]:
        parts = [MixturePart("images", 30, 4 // world_size), MixturePart("videos", 9, 8 // world_size)]
        steps = epoch_of(schedules(world_size, parts), 2)
        return [(step[0][0], *([value for rank in step for value in rank[i]] for i in (1, 2))) for step in steps]

    assert global_batches(1) == global_batches(2) == global_batches(4)


def test_a_small_data_set_is_repeated() -> None:
    ranks = schedules(2, [MixturePart("three", 3, batch_size=4)])
    ((first, second),) = epoch_of(ranks, 0)
    counts = np.bincount(first[1] + second[1])
    assert counts.sum() == 8
    assert set(counts) == {2, 3}


def test_steps_per_epoch() -> None:
    whole = epoch_of(schedules(), 0) + epoch_of(schedules(), 1)
    short = [step for epoch in range(4) for step in epoch_of(schedules(steps_per_epoch=7), epoch)]
    assert short == whole[:28]
    assert epoch_of(schedules(steps_per_epoch=20), 0) == whole[:20]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="needs a data set"):
        MixtureSchedule([], 0)
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        MixtureSchedule(PARTS, 0, world_size=2, rank=2)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        MixtureSchedule(PARTS, 0, steps_per_epoch=0)
    with pytest.raises(ValueError, match="batch_size of images must be at least 1"):
        MixturePart("images", 5, 0)
    with pytest.raises(IndexError, match="no step 15"):
        schedules()[0].batch(0, 15)
    with pytest.raises(ValueError, match=r"the readers have \[22, 10\] samples, the schedule \[23, 10\]"):
        MixtureDataset([reader_of("images", 22), reader_of("videos", 10)], schedules()[0])


# All together


@pytest.fixture
def mixture() -> MixtureDataset:
    bad = {3: SampleError("file_3.jpg is broken")}
    return MixtureDataset([reader_of("images", 23, 1, bad=bad), reader_of("videos", 10)], schedules()[1])


def load(mixture: MixtureDataset, start: int, stop: int, **options) -> list[Batch]:
    return list(DataLoader(mixture, sampler=range(start, stop), batch_size=None, **options))


def test_batches(mixture: MixtureDataset) -> None:
    for step in (0, 14, 15, 40):
        dataset, indices, seeds = mixture.schedule.batch(*divmod(step, 15))
        assert_equal(
            mixture[step], collate([mixture.readers[dataset].read(*pair) for pair in zip(indices, seeds, strict=True)])
        )


def test_a_resumed_run_goes_on_with_the_same_data(mixture: MixtureDataset) -> None:
    whole = load(mixture, 0, 24)
    for batch, again in zip(whole[9:], load(mixture, 9, 24), strict=True):
        assert_equal(batch, again)


def test_workers_do_not_matter(mixture: MixtureDataset) -> None:
    batches = load(mixture, 10, 16, num_workers=2, multiprocessing_context="fork")
    for batch, expected in zip(batches, load(mixture, 10, 16), strict=True):
        assert_equal(batch, expected)


def test_a_spawned_worker_gets_a_copy_that_does_the_same(mixture: MixtureDataset) -> None:
    assert_equal(pickle.loads(pickle.dumps(mixture))[10], mixture[10])
