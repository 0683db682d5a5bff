"""Transforms from raw clips to the network's input: augmentation and resizing. The network normalises."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from i2v.modeling.backbones.image_encoder import IMAGENET_MEAN
from train.dataset.sample import RawClip, SampleError
from train.utils.seeds import seeded

# Brightness, contrast and saturation are each scaled by a factor of up to 1 +- this.
Jitter = tuple[float, float, float]


class PlainTransform:
    """Resizes as the predictor does, for evaluation.

    Args:
        image_size (int): S, side of the network's input in pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, clip: RawClip, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A clip as (T, 3, S, S) float32 in [0, 1], and masks (O, T, S, S) bool. `rng` is not used."""
        frames = _resize_frames(clip.frames, self.image_size, InterpolationMode.BICUBIC)
        return frames, _resize_masks(clip.masks, self.image_size).transpose(0, 1)


class ClipTransform:
    """Augmentation for training. All frames of a clip undergo the same affine map.

    Objects are prompted in the first frame. So a clip is reversed in time only if all of its objects are visible in its last
    frame, and objects that the affine map moves out of the first frame are left out. If that were all of them, the clip is not
    moved.

    Args:
        image_size (int): S, side of the network's input in pixels.
        flip (float): probability of a horizontal flip.
        degrees (float): largest rotation of the affine map, in degrees.
        shear (float): largest shear of the affine map, in degrees.
        scale (tuple[float, float] or None): lowest and highest factor of the affine map; None for no scaling.
        clip_jitter (Jitter): jitter of the colours, the same for all frames.
        grayscale (float): probability that a clip loses its colours.
        frame_jitter (Jitter): jitter of the colours of each frame.
        reverse (float): probability of a reversal in time.
    """

    def __init__(
        self,
        image_size: int,
        flip: float = 0.5,
        degrees: float = 25,
        shear: float = 20,
        scale: tuple[float, float] | None = None,
        clip_jitter: Jitter = (0.1, 0.03, 0.03),
        grayscale: float = 0.05,
        frame_jitter: Jitter = (0.1, 0.05, 0.05),
        reverse: float = 0.5,
    ) -> None:
        self.image_size = image_size
        self.reverse = reverse
        affine = v2.RandomAffine(degrees, scale=scale, shear=shear, interpolation=InterpolationMode.BILINEAR, fill=None)
        self._move = v2.Compose([v2.RandomHorizontalFlip(flip), affine if degrees or shear or scale else v2.Identity()])
        self._colour_clip = v2.Compose([v2.ColorJitter(*clip_jitter), v2.RandomGrayscale(grayscale)])
        self._colour_frame = v2.ColorJitter(*frame_jitter)

    def __call__(self, clip: RawClip, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A clip as (T, 3, S, S) float32 in [0, 1], and masks (O, T, S, S) bool, each visible in the first frame.

        Raises:
            SampleError: all objects are too small to be seen at this size.
        """
        # torchvision uses PyTorch's global generator.
        with seeded(int(rng.integers(2**63)), torch.device("cpu")):
            frames, masks = self._augment(clip.frames, clip.masks)
        if not len(masks):
            raise SampleError(f"all objects of {clip.name} are too small to be seen at {self.image_size} pixels")
        return frames, masks

    def _augment(self, frames: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        frames, inside, masks = self._move_and_resize(frames, masks)
        # The area beyond the frame becomes grey, about the mean of pixels. (torchvision's `fill` costs twice the affine map.)
        frames = frames + (1 - inside) * torch.tensor(IMAGENET_MEAN)[:, None, None]
        frames = self._colour_clip(frames)
        frames = torch.stack([self._colour_frame(frame) for frame in frames])
        if torch.rand(()) < self.reverse and _visible(masks[-1]).all():
            frames, masks = frames.flip(0), masks.flip(0)
        return frames, masks[:, _visible(masks[0])].transpose(0, 1)

    def _move_and_resize(self, frames: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (T, 3, S, S) and where they show the clip (1, 1, S, S), float32 in [0, 1]; masks (T, O, S, S) bool."""
        inside = tv_tensors.Image(torch.full((1, 1, *frames.shape[-2:]), 255, dtype=torch.uint8))
        clip = (tv_tensors.Image(frames), inside, tv_tensors.Mask(masks))
        *moved, moved_masks = self._move(*clip)
        resized = _resize_masks(moved_masks.as_subclass(Tensor), self.image_size)
        if not _visible(resized[0]).any():
            *moved, moved_masks = clip
            resized = _resize_masks(masks, self.image_size)
        images, inside = (_resize_frames(x.as_subclass(Tensor), self.image_size, InterpolationMode.BILINEAR) for x in moved)
        return images, inside, resized


def _resize_frames(frames: Tensor, image_size: int, interpolation: InterpolationMode) -> Tensor:
    """Resize (T, 3, H, W) uint8 to (T, 3, S, S) float32 in [0, 1]. As in Pillow, bytes are resized."""
    resized = F.resize_image(frames, [image_size, image_size], interpolation=interpolation, antialias=True)
    return F.to_dtype_image(resized, torch.float32, scale=True)


def _resize_masks(masks: Tensor, image_size: int) -> Tensor:
    """Resize (T, O, H, W) bool to (T, O, S, S) bool. PyTorch's "nearest" would shift masks by up to half a pixel."""
    return F.resize_image(masks, [image_size, image_size], interpolation=InterpolationMode.NEAREST_EXACT)


def _visible(masks: Tensor) -> Tensor:
    """Which of the masks (O, S, S) are not empty: (O,) bool."""
    return masks.flatten(1).any(1)
