"""Augmentation and resizing of clips."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from i2v.inference.features import preprocess
from i2v.modeling.backbones.image_encoder import IMAGENET_MEAN
from train.dataset.sample import RawClip, SampleError
from train.dataset.transforms import ClipTransform, PlainTransform

SIZE = 64
NO_JITTER = (0.0, 0.0, 0.0)
NO_COLOUR = {"clip_jitter": NO_JITTER, "frame_jitter": NO_JITTER, "grayscale": 0}
STILL = {"flip": 0, "degrees": 0, "shear": 0, "reverse": 0}


def painted_clip(num_frames: int = 4, shift: int = 6) -> RawClip:
    """Two discs that move to the right, object 0 red and object 1 blue on dark green."""
    y, x = np.mgrid[:72, :96]
    masks = np.stack(
        [[(x - 30 - i * 24 - shift * t) ** 2 + (y - 24 - 20 * i) ** 2 < 100 for i in range(2)] for t in range(num_frames)]
    )
    frames = np.broadcast_to(np.uint8([20, 60, 20]), (num_frames, 72, 96, 3)).copy()
    frames[masks[:, 0]] = (250, 20, 20)
    frames[masks[:, 1]] = (20, 20, 250)
    return RawClip("clip", torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(masks))


@pytest.mark.parametrize(
    ("frames", "masks", "message"),
    [
        (
            (2, 8, 8, 3),
            (2, 1, 8, 8),
            r"clip: frames \(2, 8, 8, 3\) uint8 and masks .*, but frames must be \(T, 3, H, W\) uint8",
        ),
        (
            (2, 3, 8, 8),
            (2, 8, 8),
            r"masks \(2, 8, 8\) bool, but masks must be \(T, O, H, W\) bool, with T, H and W of the frames",
        ),
        ((2, 3, 8, 8), (1, 2, 8, 8), r"frames \(2, 3, 8, 8\) uint8 and masks \(1, 2, 8, 8\) bool, but masks must be"),
        ((2, 3, 8, 8), (2, 1, 8, 6), r"masks \(2, 1, 8, 6\) bool, but masks must be"),
    ],
)
def test_clips_of_other_shapes(frames: tuple[int, ...], masks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RawClip("clip", torch.zeros(frames, dtype=torch.uint8), torch.zeros(masks, dtype=torch.bool))


def test_clips_of_other_types() -> None:
    frames, masks = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"frames .* float32 and masks .*, but frames must be"):
        RawClip("clip", frames.float(), masks)
    with pytest.raises(ValueError, match=r"masks .* uint8, but masks must be"):
        RawClip("clip", frames, masks.byte())


def apply(transform: ClipTransform | PlainTransform, clip: RawClip, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return transform(clip, np.random.default_rng(seed))


@pytest.mark.parametrize("transform", [ClipTransform(SIZE), PlainTransform(SIZE)])
def test_shapes(transform: ClipTransform | PlainTransform) -> None:
    for num_frames in (1, 4):
        frames, masks = apply(transform, painted_clip(num_frames))
        assert frames.shape == (num_frames, 3, SIZE, SIZE)
        assert frames.dtype == torch.float32
        assert masks.shape == (2, num_frames, SIZE, SIZE)
        assert masks.dtype == torch.bool


def test_masks_stay_on_their_objects() -> None:
    clip = painted_clip()
    moved = set()
    for seed in range(20):
        frames, masks = apply(ClipTransform(SIZE, grayscale=0), clip, seed)
        for i, channel in enumerate((0, 2)):
            seen = frames[:, channel] > frames.sum(1) - frames[:, channel] + 0.1
            union, intersection = (seen | masks[i]).sum(), (seen & masks[i]).sum()
            assert intersection > 0.85 * union  # they differ at most in a rim of half a pixel
        moved.add(tuple(masks[0, 0].nonzero().float().mean(0).tolist()))
    assert len(moved) == 20


def test_seed_decides_and_global_state_is_left_alone() -> None:
    clip, transform = painted_clip(), ClipTransform(SIZE)
    before = clip.frames.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    frames, masks = apply(transform, clip, 1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.rand(3)
    again = apply(transform, clip, 1)
    assert torch.equal(frames, again[0])
    assert torch.equal(masks, again[1])
    assert not torch.equal(frames, apply(transform, clip, 2)[0])
    assert torch.equal(clip.frames, before)


def test_consistent_over_the_clip() -> None:
    clip = painted_clip(shift=0)  # all frames are equal
    frames, masks = apply(ClipTransform(SIZE, frame_jitter=NO_JITTER), clip)
    assert torch.equal(frames, frames[:1].expand_as(frames))
    assert torch.equal(masks, masks[:, :1].expand_as(masks))
    assert not torch.equal(frames, apply(PlainTransform(SIZE), clip)[0])
    frames, masks = apply(ClipTransform(SIZE), clip)
    assert all(not torch.equal(a, b) for a, b in pairwise(frames))
    assert torch.equal(masks, masks[:, :1].expand_as(masks))


def test_flip() -> None:
    clip = painted_clip()
    plain = apply(ClipTransform(SIZE, **NO_COLOUR, **STILL), clip)
    flipped = apply(ClipTransform(SIZE, **NO_COLOUR, **{**STILL, "flip": 1}), clip)
    torch.testing.assert_close(flipped[0], plain[0].flip(3), atol=0.02, rtol=0)
    assert (flipped[1] == plain[1].flip(3)).float().mean() > 0.99


def test_reverse() -> None:
    clip = painted_clip()
    plain = apply(ClipTransform(SIZE, **NO_COLOUR, **STILL), clip)
    always = ClipTransform(SIZE, **NO_COLOUR, **{**STILL, "reverse": 1})
    reversed_clip = apply(always, clip)
    assert torch.equal(reversed_clip[0], plain[0].flip(0))
    assert torch.equal(reversed_clip[1], plain[1].flip(1))
    half = [
        torch.equal(apply(ClipTransform(SIZE, **NO_COLOUR, **{**STILL, "reverse": 0.5}), clip, i)[0], plain[0])
        for i in range(40)
    ]
    assert 8 < sum(half) < 32
    clip.masks[-1, 1] = False  # a clip must begin with its objects
    assert torch.equal(apply(always, clip)[0], plain[0])


def test_grayscale() -> None:
    pixels = apply(ClipTransform(SIZE, clip_jitter=NO_JITTER, frame_jitter=NO_JITTER, grayscale=1), painted_clip())[0]
    outside = torch.tensor(IMAGENET_MEAN)[:, None, None]
    grey = (pixels - pixels.mean(1, keepdim=True)).abs() < 1e-4
    assert (grey | ((pixels - outside).abs() < 0.05)).all()
    assert grey.float().mean() > 0.5


def test_what_comes_into_view_is_the_mean_colour() -> None:
    clip = painted_clip()
    for seed in range(5):
        frames, masks = apply(ClipTransform(SIZE, flip=0, degrees=25, shear=20, **NO_COLOUR), clip, seed)
        corners = torch.stack([frames[..., 0, 0], frames[..., 0, -1], frames[..., -1, 0], frames[..., -1, -1]])
        assert (corners - torch.tensor(IMAGENET_MEAN)).abs().amax(-1).min() < 0.005
        assert masks.any()


def corner_clip(*objects: int) -> RawClip:
    """A clip some of whose objects are in the first frame's corner, which most affine maps move out of the image."""
    clip = painted_clip()
    clip.masks[0, list(objects)] = False
    clip.masks[0, list(objects), :2, :2] = True
    return clip


def test_objects_that_leave_the_first_frame_are_left_out() -> None:
    transform = ClipTransform(SIZE)
    counts = []
    for seed in range(20):
        masks = apply(transform, corner_clip(0), seed)[1]
        assert masks[:, 0].flatten(1).any(1).all()
        counts.append(len(masks))
    assert set(counts) == {1, 2}


def test_a_clip_that_would_lose_all_objects_is_not_moved() -> None:
    transform = ClipTransform(SIZE, flip=0, reverse=0, **NO_COLOUR)
    plain = apply(ClipTransform(SIZE, **NO_COLOUR, **STILL), corner_clip(0, 1))
    still = 0
    for seed in range(20):
        frames, masks = apply(transform, corner_clip(0, 1), seed)
        assert masks[:, 0].flatten(1).any(1).all()
        still += torch.equal(frames, plain[0]) and torch.equal(masks, plain[1])
    assert 0 < still < 20


def test_objects_that_are_too_small() -> None:
    clip = painted_clip()
    clip.masks[:] = False
    clip.masks[:, :, 1, 1] = True
    with pytest.raises(SampleError, match="all objects of clip are too small to be seen at 16 pixels"):
        apply(ClipTransform(16), clip)


@pytest.mark.parametrize("size", [32, 128])
def test_plain_is_what_the_predictor_does(size: int) -> None:
    clip = painted_clip()
    clip.frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 72, 96), np.uint8))
    clip.masks = clip.masks[:2]
    frames, masks = apply(PlainTransform(size), clip)
    expected = torch.cat([preprocess(frame.permute(1, 2, 0).numpy(), size) for frame in clip.frames])
    difference = (frames - expected).abs() * 255
    assert difference.max() < 1.01  # one level of a byte
    assert difference.mean() < 0.1
    assert (masks.float().mean((2, 3)) - clip.masks.transpose(0, 1).float().mean((2, 3))).abs().max() < 0.01


def test_plain_keeps_the_colours_of_an_image_of_that_size() -> None:
    clip = painted_clip()
    clip = RawClip("clip", clip.frames[..., :SIZE, :SIZE], clip.masks[..., :SIZE, :SIZE])
    frames, masks = apply(PlainTransform(SIZE), clip)
    torch.testing.assert_close(frames, clip.frames / 255)
    assert torch.equal(masks, clip.masks.transpose(0, 1))
