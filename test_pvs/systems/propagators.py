"""Mask propagators: Cutie and XMem++, which the user installs, and optical flow.

Cutie and XMem++ are fed frame by frame and keep a memory. Their packages are imported when a propagator is made.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.core.global_hydra import GlobalHydra

from i2v.data.frames import ImageFolder
from test_pvs.systems.carried_masks import CarriedMaskSession, flow_carry
from test_pvs.systems.interface import VideoSession
from test_pvs.systems.segment_then_propagate import Propagator, ToMask

XMEM_REPOSITORY = "XMEM_REPOSITORY"  # environment variable
_SHORT_SIDE = 480  # shorter side in pixels of the frames that both are given, as in their evaluations
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# XMem's published memory settings.
_XMEM_CONFIG = {
    "top_k": 30,
    "mem_every": 5,
    "deep_update_every": -1,
    "enable_long_term": True,
    "enable_long_term_count_usage": True,
    "num_prototypes": 128,
    "min_mid_term_frames": 5,
    "max_mid_term_frames": 10,
    "max_long_term_elements": 10000,
}

ObjectMasks = dict[int, np.ndarray]  # (H, W) bool by object


class Processor(ABC):
    """A propagator during one pass over a video."""

    @abstractmethod
    def remember(self, frame: int, image: np.ndarray, references: ObjectMasks) -> None:
        """Take the references of a frame anywhere in the video before tracking begins; `step` is given them again.

        Args:
            frame (int): index of the frame.
            image (np.ndarray): (H, W, 3) uint8 RGB.
            references (ObjectMasks): masks given in this frame.
        """

    @abstractmethod
    def step(self, frame: int, image: np.ndarray, references: ObjectMasks) -> ObjectMasks:
        """Process the next frame, or the same one with a correction.

        Args:
            frame (int): index of the frame.
            image (np.ndarray): (H, W, 3) uint8 RGB.
            references (ObjectMasks): masks given in this frame, for any of the objects or none. Some were given in this frame
                or before it.

        Returns:
            The masks of all objects that were given so far.
        """


class ProcessorSession(CarriedMaskSession):
    """A session with a new `Processor` for each pass, that is, whenever tracking does not continue from the frame before.

    Args:
        images (ImageFolder): frames of the video.
        start (Callable[[], Processor]): makes a processor.
        to_mask (ToMask): converts prompts to masks.
    """

    def __init__(self, images: ImageFolder, start: Callable[[], Processor], to_mask: ToMask) -> None:
        super().__init__(images, lambda frame, masks: masks, to_mask)
        self._start = start
        self._processor: Processor | None = None
        self._position = -1  # index of the frame that the processor saw last

    def reset(self) -> None:
        super().reset()
        self._processor = None

    def _track(self, frame: int, given: ObjectMasks) -> ObjectMasks:
        if self._processor is None or frame not in (self._position, self._position + 1):
            prompted = sorted({other for other, _ in self._prompts})
            if prompted[0] > frame:
                return {}  # nothing is known yet
            self._processor = self._start()
            for other in prompted:
                self._processor.remember(other, self._frames[other], self._given(other))
        self._position = frame
        return self._processor.step(frame, self._frames[frame], given)


class FlowPropagator(Propagator):
    """The optical flow of the baseline, which needs no package."""

    def __init__(self, device: str, options: Mapping[str, str]) -> None:
        pass

    def open(self, images: ImageFolder, to_mask: ToMask) -> VideoSession:
        return CarriedMaskSession(images, flow_carry(images), to_mask)


def import_cutie() -> tuple[Any, Any]:
    """Import what is used of Cutie: its InferenceCore, and the function that loads its default model.

    Raises:
        ImportError: the package is missing; the message says how to install it.
    """
    try:
        from cutie.inference.inference_core import InferenceCore
        from cutie.utils.get_default_model import get_default_model
    except ImportError as error:
        raise ImportError(
            "Cutie is not installed: git clone https://github.com/hkchengrex/Cutie && pip install -e Cutie "
            "(the package cutie on PyPI is a different one)"
        ) from error
    return InferenceCore, get_default_model


def import_xmem(options: Mapping[str, str]) -> tuple[Any, Any, Path]:
    """Import what is used of XMem++: its InferenceCore and its network, and find its weights.

    Args:
        options (Mapping[str, str]): see `XMemPlusPlus`.

    Raises:
        ImportError: the clone or one of its modules is missing; the message says how to get it.
        FileNotFoundError: there are no weights.
    """
    repository = options.get("repository") or os.environ.get(XMEM_REPOSITORY, "")
    help_text = (
        "git clone https://github.com/mbzuai-metaverse/XMem2, put its weights into saves/XMem.pth (see its README), and "
        f"set {XMEM_REPOSITORY} (or --overrides adapter.repository=...) to the clone"
    )
    if not repository or not Path(repository).is_dir():
        raise ImportError(f"XMem++ is not installed ({repository or 'no repository given'}): {help_text}")
    if repository not in sys.path:
        sys.path.append(repository)  # it is not a package, and imports some of its modules late
    try:
        from inference.inference_core import InferenceCore
        from model.network import XMem
    except ImportError as error:
        raise ImportError(f"XMem++ cannot be imported from {repository}; is it a clone? ({error}): {help_text}") from error
    weights = Path(repository) / "saves/XMem.pth"
    if not weights.is_file():
        raise FileNotFoundError(f"XMem++ has no weights {weights}: {help_text}")
    return InferenceCore, XMem, weights


class Cutie(Propagator):
    """Cutie with its default model, whose weights it downloads when first used. It needs a GPU to load them.

    Args:
        device (str): PyTorch device to run on.
        options (Mapping[str, str]): "size", the shorter side in pixels of the frames that it is given; -1 for the video's
            (default: 480).

    Raises:
        ImportError: the package is missing; the message says how to install it.
        ValueError: the size is not a number.
    """

    def __init__(self, device: str, options: Mapping[str, str]) -> None:
        self._core, get_default_model = import_cutie()
        self._size = _short_side(options)
        self._device = device
        # Cutie initialises Hydra globally, which fails if that was done before; afterwards the state of others is restored.
        theirs = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            self._network = get_default_model().to(device).eval()
        finally:
            GlobalHydra.instance().hydra = theirs

    def open(self, images: ImageFolder, to_mask: ToMask) -> VideoSession:
        return ProcessorSession(images, self._start, to_mask)

    def _start(self) -> Processor:
        core = self._core(self._network, cfg=self._network.cfg)
        core.max_internal_size = self._size
        return _CutieProcessor(core, self._device)


class _CutieProcessor(Processor):
    def __init__(self, core: Any, device: str) -> None:
        self._core = core
        self._device = device
        self._objects: list[int] = []

    def remember(self, frame: int, image: np.ndarray, references: ObjectMasks) -> None:
        pass  # Cutie does not use references ahead of the current frame

    @torch.inference_mode()
    def step(self, frame: int, image: np.ndarray, references: ObjectMasks) -> ObjectMasks:
        pixels = _pixels(image, self._device)
        self._objects += [obj for obj in references if obj not in self._objects]
        if references:
            # Cutie numbers objects from 1; it propagates those that are not given here.
            numbers = {obj: 1 + self._objects.index(obj) for obj in references}
            labels = np.zeros(image.shape[:2], np.int64)
            for obj, mask in references.items():
                labels[mask] = numbers[obj]
            given = torch.from_numpy(labels).to(self._device)
            probabilities = self._core.step(pixels, given, objects=list(numbers.values()))
        else:
            probabilities = self._core.step(pixels)
        found = self._core.output_prob_to_mask(probabilities).cpu().numpy()
        return {obj: found == number for number, obj in enumerate(self._objects, start=1)}


class XMemPlusPlus(Propagator):
    """XMem++ from a clone of its repository, with the weights in its folder saves.

    Frames with a mask for every object are put into its permanent memory, in every pass before tracking begins.

    Args:
        device (str): PyTorch device to run on.
        options (Mapping[str, str]): "repository", the path of the clone, by default that in $XMEM_REPOSITORY; "size" as for
            `Cutie`.

    Raises:
        ImportError: the clone or one of its modules is missing; the message says how to get it.
        FileNotFoundError: there are no weights.
        ValueError: the size is not a number.
    """

    def __init__(self, device: str, options: Mapping[str, str]) -> None:
        self._core, network, weights = import_xmem(options)
        self._size = _short_side(options)
        self._device = device
        self._config = dict(_XMEM_CONFIG)
        self._network = network(self._config, str(weights), map_location=device).to(device).eval()

    def open(self, images: ImageFolder, to_mask: ToMask) -> VideoSession:
        return ProcessorSession(images, self._start, to_mask)

    def _start(self) -> Processor:
        return _XMemProcessor(self._core(self._network, config=self._config), self._device, self._size)


class _XMemProcessor(Processor):
    def __init__(self, core: Any, device: str, size: int) -> None:
        self._core = core
        self._device = device
        self._size = size
        self._objects: list[int] = []

    @torch.inference_mode()
    def remember(self, frame: int, image: np.ndarray, references: ObjectMasks) -> None:
        self._add(references)
        # In the permanent memory, a frame without the mask of an object would mean that the object is absent there.
        if set(references) == set(self._objects):
            pixels, masks = self._prepare(image, references)
            self._core.put_to_permanent_memory(pixels, masks, ti=frame)

    @torch.inference_mode()
    def step(self, frame: int, image: np.ndarray, references: ObjectMasks) -> ObjectMasks:
        self.remember(frame, image, references)
        pixels, masks = self._prepare(image, references)
        if references:
            numbers = [1 + self._objects.index(obj) for obj in references]
            permanent = set(references) == set(self._objects)
            probabilities = self._core.step(pixels, masks, numbers, do_not_add_mask_to_memory=permanent)
        else:
            probabilities = self._core.step(pixels)
        resized = F.interpolate(probabilities[None].float(), image.shape[:2], mode="bilinear", align_corners=False)[0]
        found = resized.argmax(dim=0).cpu().numpy()
        return {obj: found == number for number, obj in enumerate(self._objects, start=1)}

    def _add(self, references: ObjectMasks) -> None:
        new = [obj for obj in references if obj not in self._objects]
        if new:
            self._objects += new
            self._core.set_all_labels(list(range(1, len(self._objects) + 1)))

    def _prepare(self, image: np.ndarray, references: ObjectMasks) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert an image and masks to XMem's input.

        Returns:
            The image, (3, h, w) float32, normalized; and masks (O, h, w) float32 of all objects, empty for those not given.
        """
        height, width = image.shape[:2]
        scale = self._size / min(height, width) if self._size > 0 else 1.0
        size = (round(height * scale), round(width * scale))
        masks = np.stack([references.get(obj, np.zeros((height, width), bool)) for obj in self._objects])
        mean, std = (torch.tensor(values, device=self._device)[:, None, None] for values in (_MEAN, _STD))
        pixels = (_pixels(image, self._device) - mean) / std
        small = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        given = torch.from_numpy(masks).to(self._device, torch.float32)
        return small, F.interpolate(given[None], size, mode="nearest")[0]


def _pixels(image: np.ndarray, device: str) -> torch.Tensor:
    """Convert an image (H, W, 3) uint8 to (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255


def _short_side(options: Mapping[str, str]) -> int:
    """Parse the option "size", in pixels; -1 for the size of the video."""
    text = options.get("size", str(_SHORT_SIDE))
    if text != "-1" and not (text.isdigit() and int(text)):
        raise ValueError(f"expected the shorter side (adapter.size) in pixels, or -1, got {text!r}")
    return int(text)
