"""The steps of inference: the network applied to the objects of a video's session."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from i2v.inference.memory_bank import FrameMemory, FrameOutput
from i2v.inference.state import TrackedObject, VideoState
from i2v.modeling.memory.selector import History, MemoryPlan
from i2v.modeling.precision import PRECISIONS, autocast, full_precision, has_fast_bf16, usual_precision
from i2v.modeling.sam_i2v import (
    MASK_BIAS,
    MASK_SCALE,
    NO_OBJECT_LOGIT,
    PREVIOUS_LOGIT_LIMIT,
    SAMI2V,
    MaskPrediction,
    ObjectMemory,
)
from i2v.prompt import NetworkPrompt
from i2v.utils.masks import fill_holes

log = logging.getLogger(__name__)


def separated(mask_logits: Tensor) -> Tensor:
    """Masks (O, 1, H, W) without overlap: wherever another object's logit is larger, an object's logit is at most -10."""
    winner = mask_logits.argmax(dim=0, keepdim=True)
    own = torch.arange(len(mask_logits), device=mask_logits.device).view(-1, 1, 1, 1)
    return torch.where(winner == own, mask_logits, mask_logits.clamp(max=MASK_BIAS))


class Tracker:
    """Applies the network to prompts and frames.

    Args:
        model (SAMI2V): the network, in evaluation mode.
        fill_hole_area (int): fill holes of up to this many cells of a low-resolution mask.
        binarize_prompted_masks (bool): encode the memory of a prompted frame from its binary mask.
        correct_with_memory (bool): let points in a tracked frame attend to the memory.
        non_overlap_masks (bool): where objects overlap, assign a pixel only to the one with the largest logit.
        precision (str or None): "fp32", "bf16" or "fp16", for the matrix products and convolutions outside the decoder. None
            for that of the caller's autocast; without one, bf16 on a GPU that supports it, and fp32 elsewhere.
    """

    def __init__(
        self,
        model: SAMI2V,
        fill_hole_area: int,
        binarize_prompted_masks: bool,
        correct_with_memory: bool,
        non_overlap_masks: bool,
        precision: str | None,
    ) -> None:
        self.model = model
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        if precision == "fp16" and self.device.type == "cpu":
            log.warning("fp16 is many times slower than fp32 on a CPU: use bf16")
        if precision == "bf16" and self.device.type == "cpu" and not has_fast_bf16():
            log.warning("bf16 is many times slower than fp32 on this CPU, which lacks instructions for it: use fp32")
        self.fill_hole_area = fill_hole_area
        self.binarize_prompted_masks = binarize_prompted_masks
        self.correct_with_memory = correct_with_memory
        self.non_overlap_masks = non_overlap_masks
        self.precision = precision

    @property
    def fill_hole_area(self) -> int:
        """Size, in cells of a low-resolution mask, up to which holes are filled."""
        return self._fill_hole_area

    @fill_hole_area.setter
    def fill_hole_area(self, cells: int) -> None:
        if cells < 0:
            raise ValueError(f"fill_hole_area must be 0 or more cells, got {cells}")
        self._fill_hole_area = cells

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.no_mem_embed.device

    def prompt(self, state: VideoState, obj: TrackedObject, frame: int, prompt: NetworkPrompt) -> FrameOutput:
        """Predict an object in a prompted frame.

        Points in a frame that was tracked attend to the memory, unless corrections go without it; other prompts do not. Points
        start from the mask that the object has in the frame, if any.

        Raises:
            ValueError: the network's results are not finite.
        """
        earlier = obj.bank.get(frame)
        reverse = earlier is not None and earlier.reverse
        features = self._features(state, frame)
        if prompt.mask is not None:
            mask, high_res = prompt.mask.to(self.device), self._high_res(state, frame)
            prediction = self._decode(self.model.use_mask, features, mask, high_res)
        else:
            memory = None
            if self.correct_with_memory and obj.bank.was_tracked(frame):
                plan = self._plan(state, obj, frame, reverse)
                memory = self._gather(state, [obj], [plan], reverse)
            previous = None
            if earlier is not None:
                logits = self.postprocess(earlier.mask_logits.unsqueeze(0).to(self.device))
                previous = logits.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
            attended, memory_prompts = self._attend_to_memory(features, memory)
            assert prompt.points is not None and prompt.labels is not None  # there is no mask
            points, labels = (x.unsqueeze(0).to(self.device) for x in (prompt.points, prompt.labels))
            high_res = self._high_res(state, frame)
            prediction = self._decode(
                self.model.decode, attended, memory_prompts, 1, points, labels, previous, high_res_features=high_res
            )
        output = self._outputs(state, prediction, prompted=True, reverse=reverse)[0]
        # Not in every tracked frame, because it waits for the GPU.
        if not all(bool(x.isfinite().all()) for x in (output.mask_logits, output.score, output.pointer)):
            raise ValueError("the network's outputs are not finite: its weights are broken, or too large for its precision")
        return output

    def track(self, state: VideoState, objects: Sequence[TrackedObject], frame: int, reverse: bool) -> None:
        """Predict objects in a frame from their memory, and store the results.

        Objects whose memory plans have the same layout are one batch.
        """
        groups: dict[tuple, list[tuple[TrackedObject, MemoryPlan]]] = defaultdict(list)
        features = self._features(state, frame)
        for obj in objects:
            plan = self._plan(state, obj, frame, reverse)
            groups[plan.layout].append((obj, plan))
        for group in groups.values():
            members, plans = [obj for obj, _ in group], [plan for _, plan in group]
            memory = self._gather(state, members, plans, reverse)
            attended, memory_prompts = self._attend_to_memory(features, memory)
            high_res = self._high_res(state, frame)
            prediction = self._decode(self.model.decode, attended, memory_prompts, len(members), high_res_features=high_res)
            outputs = self._outputs(state, prediction, prompted=False, reverse=reverse)
            for obj, output in zip(members, outputs, strict=True):
                obj.bank.store(frame, output, conditioning=False)
                obj.bank.drop_memories(frame, self.model.memory_selector.reach)

    def encode(self, state: VideoState, frame: int) -> None:
        """Compute the features of a frame that a prompt needs."""
        self._features(state, frame)
        self._high_res(state, frame)

    def masks_at_video_size(self, state: VideoState, frame: int) -> Tensor:
        """Mask logits of all objects in a frame.

        Returns:
            (O, 1, height, width) float32 on the network's device; -1024 everywhere for an object without a result there.
        """
        size = self.model.mask_size
        absent = torch.full((1, size, size), NO_OBJECT_LOGIT)
        masks = [obj.bank[frame].mask_logits if frame in obj.bank else absent for obj in state.objects.values()]
        video_size = (state.frames.height, state.frames.width)
        if not masks:
            return torch.zeros(0, 1, *video_size, device=self.device)
        logits = self.postprocess(torch.stack([mask.to(self.device) for mask in masks]))
        logits = F.interpolate(logits, size=video_size, mode="bilinear", align_corners=False)
        for own, obj in zip(logits, state.objects.values(), strict=True):
            output = obj.bank.get(frame)
            if output is not None and output.given is not None:
                own[0] = output.given.to(self.device) * MASK_SCALE + MASK_BIAS
        return separated(logits) if self.non_overlap_masks else logits

    def postprocess(self, mask_logits: Tensor) -> Tensor:
        """Fill the holes of low-resolution masks (O, 1, h, w)."""
        return fill_holes(mask_logits, self.fill_hole_area)

    def _autocast(self) -> AbstractContextManager:
        """Lower precision for the costly parts: features, memory attention and memory encoder.

        The decoder, a hundredth of the work, stays in float32 (`_decode`), because its rounding errors show in the mask.
        """
        if self.precision is None and torch.is_autocast_enabled(self.device.type):
            return nullcontext()
        return autocast(self.device, self.precision or usual_precision(self.device))

    def _decode(self, function: Callable[..., MaskPrediction], *arguments: Any, **options: Any) -> MaskPrediction:
        with full_precision(self.model.no_mem_embed):  # even under the caller's autocast
            return function(*arguments, **options)

    def _features(self, state: VideoState, frame: int) -> Tensor:
        with self._autocast():
            return state.features[frame]

    def _high_res(self, state: VideoState, frame: int) -> list[Tensor]:
        with self._autocast():  # computes those that were dropped
            return state.features.high_res(frame)

    def _attend_to_memory(self, features: Tensor, memory: ObjectMemory | None) -> tuple[Tensor, Tensor | None]:
        """Memory-conditioned features and memory prompts in float32."""
        with self._autocast():
            attended, memory_prompts = self.model.condition(features, memory)
        return attended.float(), None if memory_prompts is None else memory_prompts.float()

    def _plan(self, state: VideoState, obj: TrackedObject, frame: int, reverse: bool) -> MemoryPlan:
        selector = self.model.memory_selector
        span = selector.look_back
        near = range(frame + 1, frame + span + 1) if reverse else range(max(frame - span, 0), frame)
        history = History(
            conditioning=[state.time(f, reverse) for f in obj.bank.conditioning if f != frame],
            tracked={state.time(f, reverse) for f in near if f in obj.bank.tracked},
            similarity=lambda times: self._similarity(state, frame, [state.time(t, reverse) for t in times]),
            seed=state.seed,
            num_frames=state.num_frames,
        )
        return selector.plan(state.time(frame, reverse), history)

    def _similarity(self, state: VideoState, frame: int, others: Sequence[int]) -> Tensor:
        with self._autocast():  # computes features that were dropped
            return state.features.similarity(frame, others)

    def _gather(
        self, state: VideoState, objects: Sequence[TrackedObject], plans: Sequence[MemoryPlan], reverse: bool
    ) -> ObjectMemory:
        """The batched memory of objects whose plans have the same layout."""
        device = self.device
        frames = [[state.time(memory.time, reverse) for memory in plan.memories] for plan in plans]
        self._encode_missing(state, objects, frames)
        memories = [[obj.bank.memories[f] for f in own] for obj, own in zip(objects, frames, strict=True)]
        pointers = [
            [obj.bank[state.time(pointer.time, reverse)].pointer for pointer in plan.pointers]
            for obj, plan in zip(objects, plans, strict=True)
        ]

        def stack(rows: list[list[Tensor]]) -> Tensor:
            with full_precision(self.model.no_mem_embed):  # float16 autocast cannot stack the memories, which are bfloat16
                return torch.stack([torch.stack(row) for row in rows]).to(device)

        empty = torch.zeros(len(objects), 0, self.model.embed_dim, device=device)
        return ObjectMemory.of_plan(
            plans[0],
            features=stack([[memory.features for memory in row] for row in memories]),
            foreground=stack([[memory.foreground for memory in row] for row in memories]),
            pointers=stack(pointers) if plans[0].pointers else empty,
        )

    def _encode_missing(self, state: VideoState, objects: Sequence[TrackedObject], frames: Sequence[Sequence[int]]) -> None:
        """Encode the memories that are missing: of new results, and of old ones that were dropped."""
        missing: dict[int, list[TrackedObject]] = defaultdict(list)
        for obj, own in zip(objects, frames, strict=True):
            for frame in own:
                if frame not in obj.bank.memories:
                    missing[frame].append(obj)
        for frame, members in missing.items():
            outputs = [obj.bank[frame] for obj in members]
            decoded = torch.stack([output.mask_logits for output in outputs]).to(self.device)
            filled = self.postprocess(decoded)
            prompted = torch.tensor([output.prompted for output in outputs], device=self.device).view(-1, 1, 1, 1)
            # As in SAM 2, a tracked mask is encoded as it was decoded, and a prompted one as it was returned.
            logits = self.model.upsample(torch.where(prompted, filled, decoded))
            binary = prompted & self.binarize_prompted_masks
            mask = torch.where(binary, (logits > 0).float(), logits.sigmoid())
            scores = torch.stack([output.score for output in outputs]).to(self.device)
            with self._autocast():
                features = self.model.encode_memory(state.features[frame], mask, scores)
            features = features.to(state.storage_device, torch.bfloat16)
            foreground = self.model.foreground(filled).to(state.storage_device)
            for obj, own_features, own_foreground in zip(members, features, foreground, strict=True):
                obj.bank.memories[frame] = FrameMemory(own_features.clone(), own_foreground.clone())

    def _outputs(self, state: VideoState, prediction: MaskPrediction, prompted: bool, reverse: bool) -> list[FrameOutput]:
        """Split a batch into one output per object, cloned so that an output does not keep the batch alive."""

        def keep(x: Tensor) -> Tensor:
            return x.float().to(state.storage_device).clone()

        return [
            FrameOutput(
                mask_logits=keep(prediction.masks[i]),
                score=keep(prediction.object_score_logits[i]),
                pointer=keep(prediction.pointers[i]),
                prompted=prompted,
                reverse=reverse,
                iou=keep(prediction.ious[i].amax()),
            )
            for i in range(prediction.masks.shape[0])
        ]
