"""Image features per frame: what goes into the network, the TFI window, and that nothing grows with the video."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.build_i2v import build_i2v
from i2v.data.frames import ArrayFrames
from i2v.inference.features import FeatureStore, FrameLoader, RecentlyUsed, preprocess
from tests.modeling.test_sam_i2v import WITH_ADAPTERS

CPU = torch.device("cpu")
SIZE = 128  # of the tiny network's input


class RecordingFrames(ArrayFrames):
    """Remembers which frames were read, and from which threads; frame `broken` cannot be read."""

    def __init__(self, video: np.ndarray, broken: int | None = None) -> None:
        super().__init__(video)
        self.reads: list[int] = []
        self.threads: set[int] = set()
        self.broken = broken

    def __getitem__(self, index: int) -> np.ndarray:
        self.reads.append(index)
        self.threads.add(threading.get_ident())
        if index == self.broken:
            raise ValueError(f"frame {index} is broken")
        return super().__getitem__(index)


def make_loader(frames: ArrayFrames, keep: int = 8, background: bool = True, keep_on_cpu: bool = False) -> FrameLoader:
    return FrameLoader(frames, SIZE, CPU, keep_on_cpu=keep_on_cpu, keep=keep, background=background)


def test_recently_used_drops_what_was_not_used_longest():
    made = []
    cache = RecentlyUsed(2, lambda key: made.append(key) or key * 10)
    assert [cache[key] for key in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2]
    assert len(cache) == 2
    assert (1 in cache, 2 in cache, 3 in cache) == (True, True, False)


def test_input_is_resized_by_pil(tiny_video):
    expected = np.asarray(Image.fromarray(tiny_video[3]).resize((40, 40)), np.float64) / 255
    actual = preprocess(tiny_video[3], 40)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual[0].permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("keep_on_cpu", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_loader_reads_each_frame_once_and_from_one_thread(background, keep_on_cpu, tiny_video):
    frames = RecordingFrames(tiny_video)
    loader = make_loader(frames, background=background, keep_on_cpu=keep_on_cpu)
    frames.reads.clear()
    frames.threads.clear()
    for i in range(12):
        loader.prefetch([i + 1, i + 2])
        torch.testing.assert_close(loader.load(i), preprocess(tiny_video[i], SIZE), rtol=0, atol=0)
    assert sorted(frames.reads) == list(range(12))
    assert len(frames.threads) == 1
    assert loader.count() == 12
    assert [loader.has(i) for i in (-1, 0, 11, 12)] == [False, True, True, False]


def test_prefetch_decodes_ahead_only_in_the_background(tiny_video):
    ahead = {}
    for background in (False, True):
        frames = RecordingFrames(tiny_video)
        loader = make_loader(frames, background=background)
        loader.prefetch([-1, 3, 4, 12])
        loader.count()  # one thread: what was asked for before is done now
        ahead[background] = frames.reads[:]
    assert ahead == {False: [], True: [3, 4]}


@pytest.mark.slow
def test_backward_tracking_decodes_ahead_too(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 11, 1, [[40, 24]], [1])
    for frame, _, _ in tiny_predictor.propagate_in_video(state, reverse=True):
        window = tiny_predictor.model.image_encoder.window
        first = frame - window + 1
        assert all(ahead in state.loader._futures for ahead in (first - 1, first - 2) if ahead >= 0)


def test_frame_that_failed_is_tried_again(tiny_video):
    frames = RecordingFrames(tiny_video, broken=2)
    loader = make_loader(frames)
    loader.prefetch([1, 2])
    assert loader.load(1).shape == (1, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="frame 2 is broken"):
        loader.load(2)
    frames.broken = None
    assert loader.load(2).shape == (1, 3, SIZE, SIZE)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(
    ("window", "overrides"),
    [
        *((window, [f"model.image_encoder.trunk_video.window={window}"]) for window in (1, 3, 5)),
        (1, WITH_ADAPTERS["sa_ta"]),
        (5, WITH_ADAPTERS["st_adapter_ta"]),
    ],
)
def test_features_are_those_of_the_window(window, overrides, make_tiny_predictor, tiny_video):
    encoder = make_tiny_predictor(*overrides).model.image_encoder
    assert encoder.window == window
    store = FeatureStore(encoder, make_loader(ArrayFrames(tiny_video)), 4, CPU)
    inputs = torch.stack([preprocess(frame, SIZE)[0] for frame in tiny_video])
    expected = encoder.encode_clip(inputs[None])[0][0]
    for i in (0, 1, 3, 7, 8, 2):  # also back to frames that were dropped
        torch.testing.assert_close(store[i][0], expected[i], rtol=1e-4, atol=1e-5)
    # A frame before the window does not matter, one inside it does.
    for changed, matters in ((8 - window, False), (9 - window, True)):
        video = tiny_video.copy()
        video[changed] = 255 - video[changed]
        other = FeatureStore(encoder, make_loader(ArrayFrames(video)), 4, CPU)[8]
        assert torch.equal(other, store[8]) != matters


@pytest.mark.slow
@torch.inference_mode()
def test_features_without_tfi_are_the_trunks_last_map(make_tiny_predictor, tiny_video):
    encoder = make_tiny_predictor("model.image_encoder.trunk_video=null").model.image_encoder
    store = FeatureStore(encoder, make_loader(ArrayFrames(tiny_video)), 4, CPU)
    expected = encoder.trunk_image(encoder.normalize(preprocess(tiny_video[5], SIZE)))[-1]
    torch.testing.assert_close(store[5], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_similarity_is_the_cosine_of_the_features(tiny_predictor, tiny_video):
    store = FeatureStore(tiny_predictor.model.image_encoder, make_loader(ArrayFrames(tiny_video)), 12, CPU)
    similarity = store.similarity(5, [0, 4, 5])
    flat = [store[i].flatten().double() for i in (0, 4, 5)]
    expected = [float(x @ flat[2] / (x.norm() * flat[2].norm())) for x in flat]
    np.testing.assert_allclose(similarity, expected, atol=1e-5)
    assert similarity[2] == pytest.approx(1, abs=1e-5)
    assert similarity[0] < 1 - 1e-4


@torch.inference_mode()
def test_features_of_a_frame_are_computed_once_while_they_are_kept(tiny_predictor, tiny_video):
    frames = RecordingFrames(tiny_video)
    store = FeatureStore(tiny_predictor.model.image_encoder, make_loader(frames), 3, CPU)
    frames.reads.clear()
    for i in (0, 1, 2, 3):
        assert store[i] is store[i]
    assert frames.reads == [0, 1, 2, 3]
    store.clear()
    assert torch.equal(store[3], store[3])


@pytest.mark.slow
def test_nothing_grows_with_the_video(tiny_predictor, tiny_video):
    long_video = np.concatenate([tiny_video, tiny_video[::-1]] * 2)
    state = tiny_predictor.init_state(long_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    held = []
    for _ in tiny_predictor.propagate_in_video(state):
        held.append((len(state.features._features), len(state.loader._futures), len(state.objects[1].bank.memories)))
    assert len(held) == 48
    reach = tiny_predictor.model.memory_selector.reach
    assert np.all(np.max(held, axis=0) <= (reach + 4, 8, reach + 2))


@pytest.mark.slow
def test_prefetch_leaves_global_random_states_alone(tiny_predictor, png_folder):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    state = tiny_predictor.init_state(png_folder, async_loading_frames=True)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    assert len(list(tiny_predictor.propagate_in_video(state))) == 12
    assert states() == before


@pytest.mark.slow
@torch.inference_mode()
def test_high_resolution_features_are_those_of_the_frame(tiny_video):
    encoder = build_i2v("tests/configs/tiny-lite.yaml", device="cpu").image_encoder
    store = FeatureStore(encoder, make_loader(ArrayFrames(tiny_video)), 4, CPU)
    inputs = torch.stack([preprocess(frame, SIZE)[0] for frame in tiny_video])
    _, expected = encoder.encode_clip(inputs[None])
    for i in (0, 1, 5, 0, 8):  # also back to frames whose features were dropped
        _ = store[i]
        for level, values in zip(store.high_res(i), expected, strict=True):
            torch.testing.assert_close(level[0], values[0, i], rtol=1e-4, atol=1e-4)
    for level, values in zip(store.high_res(3), expected, strict=True):  # without its features
        torch.testing.assert_close(level[0], values[0, 3], rtol=1e-4, atol=1e-4)
