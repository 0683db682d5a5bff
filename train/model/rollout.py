"""The network unrolled over a clip in training (SAM 2, appendix D.2; SAM-I2V, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from i2v.modeling.memory.selector import History, MemoryPlan
from i2v.modeling.sam_i2v import MASK_BIAS, MASK_SCALE, PREVIOUS_LOGIT_LIMIT, SAMI2V, MaskPrediction, ObjectMemory
from train.model.prompts import roughen, sample_box, sample_click

# Steps in a frame whose activations can be recomputed: mask decoding, and the memory of the frame.
RECOMPUTABLE_STEPS = ("decode", "remember")


@dataclass
class PromptPlan:
    """How the simulated user prompts a clip.

    Attributes:
        first (dict[int, str]): "mask", "click", "box" or "rough" (a mask full of errors, to be corrected) for each initially
            prompted frame.
        corrected (dict[int, int]): the number of correction clicks for each frame that is corrected; at least 1 for a rough
            mask.
        forgetful (bool): whether correction clicks in tracked frames ignore the memory and see only the tracked mask.
        selected_memory (bool): whether memories are those that the network's selector samples, as at inference, instead of the
            preceding frames.
    """

    first: dict[int, str]
    corrected: dict[int, int] = field(default_factory=dict)
    forgetful: bool = False
    selected_memory: bool = False


@dataclass
class PromptSampling:
    """Probabilities and numbers of prompts in training. The defaults are those of the paper.

    Attributes:
        mask (float): probability that a clip is prompted by masks.
        box (float): probability of a box among the other prompts.
        max_prompted_frames (int): largest number of initially prompted frames: the first one, and others at random.
        max_corrected_frames (int): largest number of frames with clicks from the error region; the prompted ones come first.
        correction_clicks (int): number of correction clicks in each corrected frame.
        ground_truth_clicks (float): probability that a correction click is sampled from the object instead of the error.
        fewest_correction_clicks (int or None): smallest number of correction clicks, which is then random for each frame; None
            for a fixed number.
        corrected_tracking (float): probability that 1 to max_corrected_frames tracked frames are corrected, too.
        corrected_masks (float): probability that frames whose masks were given are corrected, too.
        rough_masks (float): probability that an image is prompted by a mask full of errors.
        central_clicks (float): probability that a click is deep inside of the largest error instead of anywhere on the errors.
        forgetful (float): probability that the tracked frames of `corrected_tracking` are corrected without the memory.
        selected_memory (float): probability that a clip's memories are sampled by the network's selector.

    Raises:
        ValueError: a probability is outside of 0 to 1, or a number of frames or clicks is below 1.
    """

    mask: float = 0.5
    box: float = 0.5
    max_prompted_frames: int = 2
    max_corrected_frames: int = 2
    correction_clicks: int = 7
    ground_truth_clicks: float = 0.1
    fewest_correction_clicks: int | None = None
    corrected_tracking: float = 0.0
    corrected_masks: float = 0.0
    rough_masks: float = 0.0
    central_clicks: float = 0.0
    forgetful: float = 0.0
    selected_memory: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not 0 <= value <= 1:
                raise ValueError(f"prompts.{name} must be a probability from 0 to 1, not {value}")
            if isinstance(value, int) and type(getattr(type(self), name)) is not float and value < 1:
                raise ValueError(f"prompts.{name} must be at least 1, not {value}")
        if (self.fewest_correction_clicks or 1) > self.correction_clicks:
            raise ValueError(
                f"prompts.fewest_correction_clicks={self.fewest_correction_clicks} is more than "
                f"prompts.correction_clicks={self.correction_clicks}"
            )

    def sample(self, num_frames: int, generator: torch.Generator) -> PromptPlan:
        """Sample how a clip is prompted. An image is prompted by a click, a box or a rough mask, and corrected.

        Args:
            num_frames (int): number of frames of the clip.
            generator (torch.Generator): random generator, on the CPU.
        """

        def chance() -> float:
            return float(torch.rand((), generator=generator))

        def chance_of(probability: float) -> bool:
            return probability > 0 and chance() < probability  # no random number for a probability of 0

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        by_mask = num_frames > 1 and chance() < self.mask
        prompted = integer(1, min(self.max_prompted_frames, num_frames))
        corrected = integer(prompted, max(prompted, min(self.max_corrected_frames, num_frames)))
        frames = [0, *(1 + torch.randperm(num_frames - 1, generator=generator)).tolist()]
        if by_mask:
            plan = PromptPlan(dict.fromkeys(frames[:prompted], "mask"))
            to_correct = frames[:prompted] if chance_of(self.corrected_masks) else []
        else:
            plan = PromptPlan({frame: "box" if chance() < self.box else "click" for frame in frames[:prompted]})
            to_correct = frames[:corrected]
        if num_frames == 1 and chance_of(self.rough_masks):
            plan.first = {0: "rough"}
        tracked = [frame for frame in frames if frame not in plan.first and frame not in to_correct]
        if tracked and chance_of(self.corrected_tracking):
            to_correct = [*to_correct, *tracked[: integer(1, min(self.max_corrected_frames, len(tracked)))]]
            plan.forgetful = chance_of(self.forgetful)
        plan.selected_memory = num_frames > 1 and chance_of(self.selected_memory)
        fewest = self.fewest_correction_clicks
        plan.corrected = {
            frame: self.correction_clicks if fewest is None else integer(fewest, self.correction_clicks) for frame in to_correct
        }
        return plan

    def costliest(self, num_frames: int) -> PromptPlan:
        """The plan that takes the most memory, for a clip of `num_frames` frames."""
        most = self.max_corrected_frames + (self.max_corrected_frames if self.corrected_tracking else 0)
        corrected = range(min(max(most, self.max_prompted_frames), num_frames))
        prompted = corrected[: self.max_prompted_frames]
        return PromptPlan(dict.fromkeys(prompted, "click"), dict.fromkeys(corrected, self.correction_clicks))


@dataclass
class PromptedFrame:
    """What happened in a frame.

    Attributes:
        predictions (list[MaskPrediction]): one for the prompt or for tracking, unless the prompt is a rough mask, and one for
            each correction click.
        points (Tensor or None): (O, N, 2), all clicks and the corners of the box, (x, y) in pixels of the network's input;
            None without any.
        labels (Tensor or None): (O, N), as in `PromptEncoder`; None without any points.
    """

    predictions: list[MaskPrediction]
    points: Tensor | None = None
    labels: Tensor | None = None

    def add_points(self, points: Tensor, labels: Tensor) -> None:
        """Add a click, or a box, to each object."""
        self.points = points if self.points is None else torch.cat([self.points, points], dim=1)
        self.labels = labels if self.labels is None else torch.cat([self.labels, labels], dim=1)


@dataclass
class _Views:
    """What the rollout knows of a frame.

    Attributes:
        features (Tensor): (O, C, h, w), features of each object's clip.
        high_res (list[Tensor]): (O, C_l, h_l, w_l) for each level, high-resolution features.
        masks (Tensor): (O, S, S) bool, the true masks.
        video (Tensor): (O,), the index of each object's clip.
    """

    features: Tensor
    high_res: list[Tensor]
    masks: Tensor
    video: Tensor


class ClipRollout(nn.Module):
    """Runs the network over the frames of a clip like a session with a user, and keeps all predictions for the loss.

    Unless the plan says otherwise, the memory is that of SAM 2's training: all conditioning frames, the preceding frames, and
    pointers with signed distances.

    Args:
        model (SAMI2V): the network.
        prompts (PromptSampling): how prompts are sampled.

    Attributes:
        recomputed_steps (frozenset[str]): those of `RECOMPUTABLE_STEPS` whose activations are computed again in the backward
            pass; see `activation_checkpointing.recompute_activations`.
    """

    def __init__(self, model: SAMI2V, prompts: PromptSampling) -> None:
        super().__init__()
        self.model = model
        self.prompts = prompts
        self.recomputed_steps: frozenset[str] = frozenset()
        self.memory_selector = model.memory_selector.for_training()

    def forward(
        self,
        frames: Tensor,
        masks: Tensor,
        video: Tensor,
        generator: torch.Generator,
        plan: PromptPlan | None = None,
    ) -> list[PromptedFrame]:
        """Prompt and track all objects of B clips.

        Args:
            frames (Tensor): (B, T, 3, S, S) float32, RGB in [0, 1].
            masks (Tensor): (O, T, S, S) bool, the true masks.
            video (Tensor): (O,), the index of each object's clip.
            generator (torch.Generator): random generator of the prompts, on the frames' device.
            plan (PromptPlan or None): the prompts; sampled by default.

        Returns:
            What happened in each frame.
        """
        num_frames = frames.shape[1]
        if plan is None:
            plan = self.prompts.sample(num_frames, torch.Generator().manual_seed(generator.initial_seed()))
        features, high_res = self.model.image_encoder.encode_clip(frames)
        features = features[video]
        results: dict[int, PromptedFrame] = {}
        memories: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # features, foreground and pointers by frame
        conditioning: set[int] = set()
        order = [*plan.first, *(t for t in range(num_frames) if t not in plan.first)]
        for t in order:
            views = _Views(features[:, t], [level[video, t] for level in high_res], masks[:, t], video)
            if t in plan.first:
                results[t] = self._prompt(views, plan.first[t], plan.corrected.get(t, 0), generator)
            else:
                chosen = self._plan_memory(t, plan, features, memories.keys() - conditioning, conditioning, generator)
                memory = self._gather(chosen, memories)
                results[t] = self._track(views, memory, plan.corrected.get(t, 0), plan.forgetful, generator)
            if t in plan.first or t in plan.corrected:
                conditioning.add(t)
            if num_frames > 1:
                given = plan.first.get(t) == "mask" and t not in plan.corrected
                memories[t] = self._run("remember", self._remember, features[:, t], results[t].predictions[-1], given)
        return [results[t] for t in range(num_frames)]

    def _prompt(self, views: _Views, kind: str, num_clicks: int, generator: torch.Generator) -> PromptedFrame:
        """Prompt a frame, without memory, and correct it."""
        conditioned = self.model.condition(views.features, None, len(views.masks))
        frame = PromptedFrame([])
        former = None
        if kind == "mask":
            given = views.masks.unsqueeze(1).float()
            prediction = self._run("decode", self.model.use_mask, views.features, given, views.high_res)
            # The loss and the memory get the mask as it was given, at full size.
            frame.predictions.append(replace(prediction, all_masks=given * MASK_SCALE + MASK_BIAS))
        elif kind == "rough":
            former = roughen(views.masks, views.video, generator).unsqueeze(1).float() * MASK_SCALE + MASK_BIAS
        else:
            if kind == "box":
                frame.add_points(*sample_box(views.masks, generator))
            else:
                frame.add_points(*sample_click(views.masks, None, generator, self._is_central(generator)))
            frame.predictions.append(self._decode(views, conditioned, frame, None))
        self._correct(views, conditioned, frame, former, num_clicks, generator)
        return frame

    def _track(
        self, views: _Views, memory: ObjectMemory, num_clicks: int, forgetful: bool, generator: torch.Generator
    ) -> PromptedFrame:
        """Predict a frame from the memory, and correct it if `num_clicks` is not 0."""
        batch = len(views.masks)
        conditioned = self.model.condition(views.features, memory, batch)
        frame = PromptedFrame([])
        frame.predictions.append(self._decode(views, conditioned, frame, None))
        if num_clicks and forgetful:
            conditioned = self.model.condition(views.features, None, batch)
        self._correct(views, conditioned, frame, None, num_clicks, generator)
        return frame

    def _correct(
        self,
        views: _Views,
        conditioned: tuple[Tensor, Tensor | None],
        frame: PromptedFrame,
        former: Tensor | None,
        num_clicks: int,
        generator: torch.Generator,
    ) -> None:
        """Click on the errors of the frame's last prediction, or of `former` if there is none yet, and predict again."""
        for _ in range(num_clicks):
            former = frame.predictions[-1].masks if frame.predictions else former
            from_object = torch.rand((), generator=generator, device=generator.device) < self.prompts.ground_truth_clicks
            shown = None
            if not from_object:
                assert former is not None  # a frame that is corrected has a prediction or a rough mask
                shown = self.model.upsample(former)[:, 0] > 0
            frame.add_points(*sample_click(views.masks, shown, generator, self._is_central(generator)))
            frame.predictions.append(self._decode(views, conditioned, frame, former))

    def _decode(
        self, views: _Views, conditioned: tuple[Tensor, Tensor | None], frame: PromptedFrame, former: Tensor | None
    ) -> MaskPrediction:
        if former is not None:
            former = former.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)  # as at inference
        batch, points, labels = len(views.masks), frame.points, frame.labels
        return self._run("decode", self.model.decode, *conditioned, batch, points, labels, former, None, views.high_res)

    def _is_central(self, generator: torch.Generator) -> bool:
        probability = self.prompts.central_clicks
        return probability > 0 and bool(torch.rand((), generator=generator, device=generator.device) < probability)

    def _plan_memory(
        self,
        t: int,
        plan: PromptPlan,
        features: Tensor,
        tracked: set[int],
        conditioning: set[int],
        generator: torch.Generator,
    ) -> MemoryPlan:
        num_frames = features.shape[1]
        if not plan.selected_memory:
            return self.memory_selector.plan(t, History(conditioning, tracked, num_frames=num_frames))

        def similarity(times: Sequence[int]) -> Tensor:
            """Cosine similarity (len(times),) to the frames at these times, as a mean over objects: the batch has one plan."""
            flat = features.detach().flatten(2).float()
            return torch.cosine_similarity(flat[:, t, None], flat[:, list(times)], dim=-1).mean(dim=0)

        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        return self.model.memory_selector.plan(t, History(conditioning, tracked, similarity, seed, num_frames))

    def _run(self, step: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if step in self.recomputed_steps and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _remember(self, features: Tensor, prediction: MaskPrediction, given: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The features, foreground and pointers of a frame's memory, for a given or a predicted mask."""
        probabilities = (prediction.all_masks if given else self.model.upsample(prediction.masks)).sigmoid()
        encoded = self.model.encode_memory(features, probabilities, prediction.object_score_logits)
        return encoded, self.model.foreground(prediction.masks), prediction.pointers

    def _gather(self, plan: MemoryPlan, memories: dict[int, tuple[Tensor, Tensor, Tensor]]) -> ObjectMemory:
        return ObjectMemory.of_plan(
            plan,
            features=torch.stack([memories[memory.time][0] for memory in plan.memories], dim=1),
            foreground=torch.stack([memories[memory.time][1] for memory in plan.memories], dim=1),
            pointers=torch.stack([memories[pointer.time][2] for pointer in plan.pointers], dim=1),
        )
