"""Sessions over time: several threads, closing, endless sources, live video that lasts for hours."""

from __future__ import annotations

import gc
import itertools
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v.data.frames import IteratorFrames, open_frames
from i2v.data.video_file import VideoFile


def camera(frame: np.ndarray, limit: int = 1000) -> Iterator[np.ndarray]:
    """An endless source of frames, which fails if it is read to its end."""
    yield from itertools.repeat(frame, limit)
    raise AssertionError("an endless source was read to its end")


@pytest.mark.parametrize("frame", [-1, "-1"])
def test_errors_do_not_read_an_endless_source(tiny_predictor, tiny_video, frame, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = tiny_predictor.init_state(camera(tiny_video[0]))
    with pytest.raises((IndexError, TypeError), match=r"frame -1 in the iterator.* frames 0 to 0 so far|integer, not '-1'"):
        tiny_predictor.add_new_points_or_box(state, frame, 1, points=[[16, 24]], labels=[1])
    assert not list(tmp_path.glob("i2v-frames-*/000001-*"))


def test_an_iterator_that_failed_is_not_a_finished_video(tiny_predictor, tiny_video):
    def frames() -> Iterator[np.ndarray]:
        yield from tiny_video[:3]
        raise ConnectionError("the camera is gone")

    state = tiny_predictor.init_state(frames())
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    for _ in range(3):
        done = []
        with pytest.raises(ConnectionError, match="the camera is gone"):
            done.extend(tiny_predictor.propagate_in_video(state))
        assert len(done) == 3
    with pytest.raises(ConnectionError, match="the camera is gone"):
        state.frames.count()


@pytest.mark.slow
def test_threads_take_turns_on_one_session(tiny_predictor, tiny_video):
    def run(state, obj_id: int) -> None:
        x = 10 + 4 * obj_id
        tiny_predictor.add_new_points_or_box(state, 0, obj_id, points=[[x, 24]], labels=[1])
        for frame in range(4):
            tiny_predictor.add_new_points_or_box(state, frame, obj_id, points=[[x + frame, 20]], labels=[1])

    def masks(state) -> dict[int, torch.Tensor]:
        return {obj: state.objects[obj].bank[3].mask_logits for obj in state.obj_ids}

    expected = tiny_predictor.init_state(tiny_video)
    for obj_id in range(1, 6):
        run(expected, obj_id)
    state = tiny_predictor.init_state(tiny_video)
    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(run, state, obj_id) for obj_id in range(1, 6)]:
            future.result()
    assert sorted(state.obj_ids) == [1, 2, 3, 4, 5]
    for obj_id, mask in masks(expected).items():
        torch.testing.assert_close(masks(state)[obj_id], mask, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_two_threads_that_track_one_session_see_the_same_masks(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    expected = [masks.clone() for _, _, masks in tiny_predictor.propagate_in_video(state)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda: [m.clone() for _, _, m in tiny_predictor.propagate_in_video(state)]) for _ in range(2)]
        for run in runs:
            for found, mask in zip(run.result(), expected, strict=True):
                torch.testing.assert_close(found, mask, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "iterator", "video", "live"])
def test_a_closed_session_leaves_nothing(kind, tiny_predictor, tiny_video, tmp_path, make_video, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "video").mkdir()
    sources = {"array": lambda: tiny_video, "iterator": lambda: iter(tiny_video), "live": lambda: None}
    sources["video"] = lambda: make_video(tmp_path / "video/a.mp4", tiny_video)
    before = set(threading.enumerate())
    gc.disable()  # the collector must not be needed
    try:
        with tiny_predictor.init_state(sources[kind]()) as state:
            if kind == "live":
                tiny_predictor.track_frame(state, tiny_video[0])
            tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
            list(tiny_predictor.propagate_in_video(state))
            assert len(set(threading.enumerate()) - before) == (kind != "iterator")
        assert not set(threading.enumerate()) - before
        assert [path.name for path in tmp_path.iterdir()] == ["video"]
        open_files = [str(path.resolve()) for path in Path("/proc/self/fd").iterdir()] if Path("/proc/self/fd").exists() else []
        assert not any(path.startswith(str(tmp_path / "video")) for path in open_files)
    finally:
        gc.enable()
    for call in (
        lambda: tiny_predictor.add_new_mask(state, 0, 1, np.zeros((48, 64))),
        lambda: tiny_predictor.propagate_in_video(state),
        lambda: tiny_predictor.reset_state(state),
        lambda: tiny_predictor.track_frame(state, tiny_video[0]),
    ):
        with pytest.raises(ValueError, match="session was closed: start another one with init_state"):
            call()
    state.close()  # again: nothing happens


def test_tracking_ends_when_its_session_is_closed(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    results = tiny_predictor.propagate_in_video(state)
    next(results)
    state.close()
    with pytest.raises(ValueError, match="session was closed"):
        next(results)


def test_frames_that_were_open_before_stay_open(tiny_predictor, tiny_video, tmp_path, make_video):
    frames = VideoFile(make_video(tmp_path / "a.mp4", tiny_video))
    for _ in range(2):
        with tiny_predictor.init_state(frames) as state:
            tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    assert frames[5].shape == tiny_video[5].shape
    frames.close()
    with pytest.raises(ValueError, match=r"a\.mp4 was closed: open it again"):
        _ = frames[5]


def test_closed_iterators_give_nothing(tiny_video):
    frames = IteratorFrames(iter(tiny_video))
    frames.close()
    for use in (lambda: frames[0], lambda: frames.has(3), frames.count):
        with pytest.raises(ValueError, match="the iterator of frames was closed"):
            use()


@pytest.mark.slow
def test_a_live_session_does_not_grow(make_tiny_predictor, tiny_video):
    predictor = make_tiny_predictor(
        "model.memory_selector.num_global=2", "model.memory_selector.global_reach=6", "++model.memory_selector.max_pointers=8"
    )
    with predictor.init_state() as state:
        sizes = []
        for i in range(120):
            predictor.track_frame(state, tiny_video[i % len(tiny_video)])
            if i == 0:
                predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
            if i % 5 == 2:  # corrections, which must not add up either
                predictor.add_new_points_or_box(state, i, 1, points=[[16 + i % 20, 24]], labels=[1])
            bank = state.objects[1].bank
            sizes.append((len(bank.conditioning) + len(bank.tracked), len(state.objects[1].prompts), len(bank.memories)))
        assert max(sizes[60:]) <= max(sizes[30:60])
        assert sizes[-1][0] <= 1 + 6 + 8 + 1
        assert 0 in state.objects[1].bank  # the first prompted frame is always remembered


@pytest.mark.slow
def test_what_is_forgotten_was_not_needed(make_tiny_predictor, tiny_video):
    predictor = make_tiny_predictor(
        "model.memory_selector.num_global=0", "model.memory_selector.global_reach=4", "++model.memory_selector.max_pointers=3"
    )
    video = np.concatenate([tiny_video, tiny_video[::-1]] * 2)
    masks = {}
    for live in (False, True):
        state = predictor.init_state(None if live else open_frames(video))
        if live:
            predictor.track_frame(state, video[0])
        predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
        if live:
            for frame in video[1:]:
                predictor.track_frame(state, frame)
        else:
            list(predictor.propagate_in_video(state))
        oldest = len(video) - 1 - predictor.model.memory_selector.reach
        masks[live] = predictor.add_new_points_or_box(state, oldest, 1, points=[[20, 20]], labels=[0])[2]
    torch.testing.assert_close(masks[True], masks[False], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["00004.png", "a.mp4"])
def test_files_that_change_in_use_are_named(name, tiny_predictor, tiny_video, png_folder, tmp_path, make_video):
    folder = shutil.copytree(png_folder, tmp_path / "frames")
    path = folder / name if name.endswith("png") else make_video(tmp_path / name, tiny_video)
    state = tiny_predictor.init_state(folder if name.endswith("png") else path, async_loading_frames=False)
    tiny_predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    if name.endswith("png"):
        shutil.copy(folder / "00008.png", path)
    else:
        make_video(path, tiny_video[::-1])
    with pytest.raises(ValueError, match=rf"{name} was changed since the video was opened"):
        list(tiny_predictor.propagate_in_video(state))
