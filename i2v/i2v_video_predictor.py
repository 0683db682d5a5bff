"""I2VVideoPredictor: prompts in, masks out, with the methods, argument names and returns of SAM 2."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2v.data.frames import Frames, LiveFrames, check_bounds, open_frames
from i2v.data.images import ValueRange
from i2v.inference.features import FeatureStore, FrameLoader
from i2v.inference.state import TrackedObject, VideoState, in_session
from i2v.inference.tracker import Tracker
from i2v.modeling.sam_i2v import SAMI2V
from i2v.prompt import Prompt, parse_mask
from i2v.utils.numbers import whole_number
from i2v.utils.process_memory import release_free_memory

# Number of frames that are decoded ahead of the tracked one.
_PREFETCH = 2
# Number of frames between two releases of free memory.
_RELEASE_EVERY = 16


class I2VVideoPredictor:
    """Segments objects in a video from clicks, boxes and masks.

    The session of one video is a `VideoState` (`init_state`); the predictor itself holds only the network, so it can serve
    several videos. Masks are returned as logits at the video's size, (O, 1, height, width) float32, foreground where positive,
    for all objects in the order of the ids returned with them; an object without a result in a frame has -1024 everywhere.

    Args:
        model (SAMI2V): the network, in evaluation mode.
        fill_hole_area (int): fill holes of up to this many cells of the low-resolution mask.
        binarize_prompted_masks (bool): encode the memory of a prompted frame from its binary mask.
        add_all_frames_to_correct_as_cond (bool): make frames that are corrected after tracking conditioning frames, which are
            always remembered (an option of SAM 2); False remembers them like other tracked frames.
        keep_given_masks (bool): return a mask prompt unchanged; False returns it at the resolution of the network's masks,
            where thin parts are lost (as published, and as SAM 2).
        correct_with_memory (bool): let clicks in a tracked frame attend to the memory, as published; False starts from the
            tracked mask alone, as a click on a photograph does.
        non_overlap_masks (bool): where objects overlap, assign a pixel only to the one with the largest logit (an option of
            SAM 2).
        clear_non_cond_mem_around_input (bool): when tracking starts, remove an object's tracked frames around those that were
            prompted since the last time, because they may show what the prompt corrects (an option of SAM 2). Their masks are
            gone until they are tracked again.
        precision (str or None): "fp32", "bf16" or "fp16", for everything but the decoder. None for that of the caller's
            `torch.autocast`; without one, bf16 on a GPU that supports it, and fp32 elsewhere.
    """

    def __init__(
        self,
        model: SAMI2V,
        fill_hole_area: int = 8,
        binarize_prompted_masks: bool = True,
        add_all_frames_to_correct_as_cond: bool = False,
        keep_given_masks: bool = False,
        correct_with_memory: bool = True,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        precision: str | None = None,
    ) -> None:
        self.model = model
        self._clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self._add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self._keep_given_masks = keep_given_masks
        self._tracker = Tracker(
            model, fill_hole_area, binarize_prompted_masks, correct_with_memory, non_overlap_masks, precision
        )

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **options: Any) -> I2VVideoPredictor:
        """Build a predictor from a folder, a file or a Hugging Face repository; see `i2v.pretrained.from_pretrained`."""
        from i2v.pretrained import from_pretrained  # here, because it imports this class

        return from_pretrained(source, **options)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self._tracker.device

    @property
    def image_size(self) -> int:
        """Side of the network's input, in pixels."""
        return self.model.image_size

    @property
    def fill_hole_area(self) -> int:
        """Size, in cells of the low-resolution mask, up to which holes are filled."""
        return self._tracker.fill_hole_area

    @fill_hole_area.setter
    def fill_hole_area(self, value: int) -> None:
        self._tracker.fill_hole_area = value

    def to(self, device: str | int | torch.device) -> I2VVideoPredictor:
        """Move the network, but no session that was started before. Returns the predictor."""
        self.model.to(device)
        return self

    def eval(self) -> I2VVideoPredictor:
        """Switch dropout off, as `build_i2v_video_predictor` does. Returns the predictor."""
        self.model.eval()
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of the network."""
        return self.model.state_dict()

    @torch.inference_mode()
    def init_state(
        self,
        video_path: str | Path | Frames | np.ndarray | Sequence[Any] | Iterable[Any] | None = None,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = True,
        seed: int = 0,
        value_range: ValueRange = None,
    ) -> VideoState:
        """Start a session. It ends with `close` of the returned state, or at the end of a `with` block.

        Args:
            video_path (str or Path or Frames or np.ndarray or Sequence or Iterable or None): a folder of images (JPEG, PNG,
                WebP, BMP, TIFF), a video file, an array (T, H, W, 3) uint8 RGB, a list or an iterator of such images or of PIL
                images, or open frames, which several sessions may share. None for a live video (`track_frame`).
            offload_video_to_cpu (bool): keep decoded frames in main memory until they are used.
            offload_state_to_cpu (bool): keep features, memories and masks in main memory.
            async_loading_frames (bool): decode frames ahead of time in the background.
            seed (int): random seed of the memory selector.
            value_range (ValueRange): values that become black and white in images of more than 8 bits: two numbers, or
                "data" for the smallest and the largest value in a folder; by default the range of their type.

        Raises:
            FileNotFoundError, NotADirectoryError, TypeError, ValueError: see `i2v.data.frames`; nothing was done then.
        """
        seed = whole_number(seed, "seed")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2**63 - 1, not {seed}")
        encoder = self.model.image_encoder
        reach = self.model.memory_selector.reach
        # To correct the oldest usable frame, the frames that it remembers are needed, and the window of each of them.
        frames: Frames
        if video_path is None:
            bounds = check_bounds(value_range)
            frames = LiveFrames(num_usable=reach + 1, num_kept=2 * reach + encoder.window, value_range=bounds)
        else:
            frames = open_frames(video_path, value_range)
        loader = FrameLoader(
            frames,
            self.model.image_size,
            self.device,
            keep_on_cpu=offload_video_to_cpu,
            keep=encoder.window + _PREFETCH + 1,
            background=async_loading_frames,
        )
        storage_device = torch.device("cpu") if offload_state_to_cpu else self.device
        # The frames that the selector compares, the current one, and a few more for going back and forth.
        features = FeatureStore(encoder, loader, reach + 4, storage_device)
        return VideoState(frames, loader, features, storage_device, seed, owns_frames=frames is not video_path)

    @in_session
    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: int,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> tuple[int, list[int], Tensor]:
        """Prompt an object with points, a box, or both. A new `obj_id` starts a new object, at any time.

        Where the object already has a mask, the prompt corrects it: points start from that mask.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.
            obj_id (int): the object.
            points: (N, 2), (x, y) in pixels of the video.
            labels: (N,), 1 for foreground, 0 for background; 2 and 3 for the corners of a box; points with -1 are left
                out.
            clear_old_points (bool): replace the points that the object has in this frame; False adds to them.
            normalize_coords (bool): False if points and box are given as fractions of the video's width and height.
            box: (4,), (x0, y0, x1, y1) in pixels of the video.

        Returns:
            frame_idx, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            ValueError: neither points nor a box; points without labels or labels without points; coordinates that are not
                finite or outside of the frame; unknown labels; a box without area, or with clear_old_points=False; more than
                10,000 points, including the old ones.
            IndexError: no such frame.
            TypeError: points, labels or box are not arrays of numbers, or frame_idx or obj_id is not an integer.
        """
        state = inference_state
        frame_idx, obj_id = self._check_frame(state, frame_idx), whole_number(obj_id, "an object id")
        frame_size = state.frames.size if normalize_coords else (1, 1)  # fractions are pixels of a frame of one pixel
        return self._prompt(state, frame_idx, obj_id, Prompt(points, labels, box), frame_size, clear_old_points)

    def add_new_points(self, *arguments: Any, **options: Any) -> tuple[int, list[int], Tensor]:
        """The former name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*arguments, **options)

    @in_session
    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: int, mask: Any
    ) -> tuple[int, list[int], Tensor]:
        """Prompt an object with its mask. A new `obj_id` starts a new object, at any time.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.
            obj_id (int): the object.
            mask: (height, width), or a PIL image of one object: booleans, 0 and one other value, or soft values from 0
                to 1. A mask of another size is resized, with a warning. An empty one says that the object is absent; any
                other, however small, leaves a mask.

        Returns:
            frame_idx, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            ValueError: a mask without pixels or not of two dimensions, with width and height swapped, with NaN or negative
                values, or of several objects.
            IndexError: no such frame.
            TypeError: the mask is not an array of numbers, or frame_idx or obj_id is not an integer.
        """
        state = inference_state
        frame_idx, obj_id = self._check_frame(state, frame_idx), whole_number(obj_id, "an object id")
        prompt = Prompt(mask=parse_mask(mask))  # parsed here, because None would be no prompt
        return self._prompt(state, frame_idx, obj_id, prompt, state.frames.size)

    @in_session
    @torch.inference_mode()
    def add_prompt(
        self, inference_state: VideoState, frame_idx: int, obj_id: int, prompt: Prompt
    ) -> tuple[int, list[int], Tensor]:
        """Prompt an object: `add_new_points_or_box` and `add_new_mask` in one, not in SAM 2.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.
            obj_id (int): the object; a new id starts a new object, at any time.
            prompt (Prompt): the prompt, which replaces the one that the object has in this frame.

        Returns:
            frame_idx, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            ValueError: the prompt does not fit the video, see `Prompt.check`.
            IndexError: no such frame.
            TypeError: frame_idx or obj_id is not an integer.
        """
        state = inference_state
        frame_idx, obj_id = self._check_frame(state, frame_idx), whole_number(obj_id, "an object id")
        return self._prompt(state, frame_idx, obj_id, prompt, state.frames.size)

    @in_session
    def propagate_in_video_preflight(self, inference_state: VideoState) -> None:
        """Do nothing: SAM 2 prepares its memories here, and this predictor on demand."""

    @in_session
    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[tuple[int, list[int], Tensor]]:
        """Track all objects through the video.

        Prompted frames keep their masks; all others are predicted, even if they were before. Objects and prompts may be added,
        changed and removed between two frames.

        Args:
            inference_state (VideoState): the session.
            start_frame_idx (int or None): index of the first frame; by default the first prompted one in the direction of
                tracking.
            max_frame_num_to_track (int or None): number of frames to track after the first one; all by default.
            reverse (bool): track backward. Time then counts from the last frame, so an iterator is first read to its end; an
                endless one can only be tracked forward.

        Yields:
            frame_idx, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            ValueError: nothing was prompted.
            IndexError: no such start frame.
        """
        state = inference_state
        prompted = [frame for obj in state.objects.values() for frame in obj.bank.conditioning]
        if not prompted:
            raise ValueError("nothing to track: prompt an object first (add_new_points_or_box or add_new_mask)")
        if max_frame_num_to_track is not None:
            max_frame_num_to_track = whole_number(max_frame_num_to_track, "max_frame_num_to_track")
            if max_frame_num_to_track < 0:
                raise ValueError(f"max_frame_num_to_track must not be negative, got {max_frame_num_to_track}")
        if start_frame_idx is None:
            start_frame_idx = max(prompted) if reverse else min(prompted)
        start_frame_idx = self._check_frame(state, start_frame_idx)
        self._forget_around_prompts(state)
        return self._propagate(state, start_frame_idx, max_frame_num_to_track, -1 if reverse else 1)

    @in_session
    @torch.inference_mode()
    def track_frame(self, inference_state: VideoState, frame: Any) -> tuple[int, list[int], Tensor]:
        """Add the next frame of a live video (`init_state()` without a video), and track all objects into it.

        Objects are prompted in this or a recent frame (`add_new_points_or_box`, `add_new_mask`).

        Args:
            inference_state (VideoState): the session.
            frame: (H, W, 3) uint8 RGB, or a PIL image; all frames have the same size.

        Returns:
            The frame's index, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            ValueError: the session is not live, or the frame is of another type or size.
        """
        state = inference_state
        if not isinstance(state.frames, LiveFrames):
            raise ValueError("track_frame is for live video: start the session with init_state() without a video")
        self._forget_around_prompts(state)
        frame_idx = state.frames.append(frame)
        result = self._result(state, frame_idx, reverse=False)
        selector = self.model.memory_selector
        for obj in state.objects.values():
            # The masks of earlier frames can no longer be asked for, and the oldest frame that can be corrected does not look
            # back to them.
            obj.forget_tracked(frame_idx - selector.reach - selector.look_back)
        return result

    @in_session
    @torch.inference_mode()
    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: int, need_output: bool = True
    ) -> tuple[int, list[int], Tensor] | None:
        """Remove an object's prompts in a frame.

        A frame that was corrected after tracking is tracked again. A frame that was prompted before tracking has no mask until
        it is tracked; if it was the last of its kind, the object starts over from its corrected frames. An object without any
        prompt is not tracked.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.
            obj_id (int): the object.
            need_output (bool): return masks.

        Returns:
            As `add_new_points_or_box`, or None without `need_output`.

        Raises:
            KeyError: no such object.
            IndexError: no such frame.
        """
        state = inference_state
        frame_idx, obj_id = self._check_frame(state, frame_idx), whole_number(obj_id, "an object id")
        if obj_id not in state.objects:
            raise KeyError(f"no object {obj_id!r}; there are {state.obj_ids}")
        obj = state.objects[obj_id]
        if frame_idx in obj.prompts:
            if obj.bank.was_tracked(frame_idx):
                self._tracker.track(state, [obj], frame_idx, obj.bank[frame_idx].reverse)
            else:
                obj.bank.remove(frame_idx)
                obj.bank.start_from_corrections()
            del obj.prompts[frame_idx]
        if need_output:
            return frame_idx, state.obj_ids, self._tracker.masks_at_video_size(state, frame_idx)
        return None

    @in_session
    @torch.inference_mode()
    def reset_state(self, inference_state: VideoState) -> None:
        """Remove all objects. The video stays open."""
        inference_state.objects.clear()

    @in_session
    @torch.inference_mode()
    def remove_object(
        self, inference_state: VideoState, obj_id: int, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Remove an object, without effect on the others.

        Args:
            inference_state (VideoState): the session.
            obj_id (int): the object.
            strict (bool): raise a KeyError if there is no such object.
            need_output (bool): return masks.

        Returns:
            The ids of the remaining objects, and (frame_idx, their masks) for each frame in which the object was prompted.

        Raises:
            KeyError: no such object, with `strict`.
        """
        state = inference_state
        obj_id = whole_number(obj_id, "an object id")
        obj = state.objects.pop(obj_id, None)
        if obj is None and strict:
            raise KeyError(f"no object {obj_id!r} to remove; there are {state.obj_ids}")
        frames = sorted(obj.prompts) if obj is not None and need_output else []
        return state.obj_ids, [(frame, self._tracker.masks_at_video_size(state, frame)) for frame in frames]

    @in_session
    def confidence(self, inference_state: VideoState, frame_idx: int) -> dict[int, float]:
        """How good the network expects the masks of a frame to be, not in SAM 2.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.

        Returns:
            The predicted IoU with the object's true mask, about 0 to 1, by object; objects without a result in the frame are
            left out.

        Raises:
            IndexError: no such frame.
        """
        state = inference_state
        frame_idx = self._check_frame(state, frame_idx)
        outputs = {obj_id: obj.bank.get(frame_idx) for obj_id, obj in state.objects.items()}
        return {
            obj_id: float(output.iou) for obj_id, output in outputs.items() if output is not None and output.iou is not None
        }

    @in_session
    @torch.inference_mode()
    def masks_in_frame(self, inference_state: VideoState, frame_idx: int) -> tuple[int, list[int], Tensor]:
        """The masks of a frame as they are, without tracking; not in SAM 2.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.

        Returns:
            frame_idx, the ids of all objects, and their masks in this frame (see the class).

        Raises:
            IndexError: no such frame.
        """
        state = inference_state
        frame_idx = self._check_frame(state, frame_idx)
        return frame_idx, state.obj_ids, self._tracker.masks_at_video_size(state, frame_idx)

    @in_session
    @torch.inference_mode()
    def encode_frame(self, inference_state: VideoState, frame_idx: int) -> None:
        """Compute the image features of a frame, so that the next prompt in it is answered quickly; not in SAM 2.

        Args:
            inference_state (VideoState): the session.
            frame_idx (int): index of the frame.

        Raises:
            IndexError: no such frame.
        """
        self._tracker.encode(inference_state, self._check_frame(inference_state, frame_idx))

    @torch.inference_mode()
    def _propagate(
        self, state: VideoState, start: int, limit: int | None, step: int
    ) -> Iterator[tuple[int, list[int], Tensor]]:
        frame_idx = start
        # Going backward, the new frame is the first of the window.
        lead = 0 if step > 0 else self.model.image_encoder.window - 1
        while limit is None or abs(frame_idx - start) <= limit:
            with state.in_use():
                if not state.loader.has(frame_idx):
                    return
                state.loader.prefetch(frame_idx + step * (lead + ahead) for ahead in range(1, _PREFETCH + 1))
                result = self._result(state, frame_idx, reverse=step < 0)
            yield result
            frame_idx += step

    def _forget_around_prompts(self, state: VideoState) -> None:
        selector = self.model.memory_selector
        reach = (selector.num_tracked + 1) * selector.spacing  # SAM 2's
        for obj in state.objects.values():
            for frame_idx in obj.newly_prompted:
                obj.bank.forget_tracked_around(frame_idx, reach)
            obj.newly_prompted.clear()

    def _result(self, state: VideoState, frame_idx: int, reverse: bool) -> tuple[int, list[int], Tensor]:
        """Track all objects that are not prompted in the frame, and return the masks of all."""
        objects = [o for o in state.objects.values() if o.bank.conditioning and frame_idx not in o.prompts]
        if objects:
            self._tracker.track(state, objects, frame_idx, reverse)
            if frame_idx % _RELEASE_EVERY == 0:
                release_free_memory()
        return frame_idx, state.obj_ids, self._tracker.masks_at_video_size(state, frame_idx)

    def _prompt(
        self,
        state: VideoState,
        frame_idx: int,
        obj_id: int,
        prompt: Prompt,
        frame_size: tuple[int, int],
        clear_old_points: bool = True,
    ) -> tuple[int, list[int], Tensor]:
        prompt = prompt.with_mask_resized(frame_size)
        prompt.check(frame_size)
        if prompt.box is not None and not clear_old_points:
            raise ValueError("a box replaces the points in its frame: give it with clear_old_points=True, before points")
        network_prompt = prompt.to_network(frame_size, self.model.image_size, self.model.mask_size)
        obj = state.objects.get(obj_id) or TrackedObject(obj_id)
        if not clear_old_points and frame_idx in obj.prompts:
            network_prompt = network_prompt.with_points_before(obj.prompts[frame_idx])
        output = self._tracker.prompt(state, obj, frame_idx, network_prompt)
        if prompt.mask is not None and self._keep_given_masks:
            output.given = prompt.mask.to(state.storage_device)
        conditioning = self._add_all_frames_to_correct_as_cond or not obj.bank.was_tracked(frame_idx)
        obj.bank.store(frame_idx, output, conditioning)
        if self._clear_non_cond_mem_around_input:
            obj.newly_prompted.append(frame_idx)
        obj.prompts[frame_idx] = replace(network_prompt, mask=None)  # no longer needed, and large
        state.objects[obj.obj_id] = obj
        return frame_idx, state.obj_ids, self._tracker.masks_at_video_size(state, frame_idx)

    @staticmethod
    def _check_frame(state: VideoState, frame_idx: int) -> int:
        frame_idx = whole_number(frame_idx, "a frame index")
        if not state.loader.has(frame_idx):
            raise state.frames.missing_frame_error(frame_idx)
        return frame_idx
