"""SAM-I2V: the network. One class, for inference and for training.

It sees only tensors: no videos, no files, no users. A frame passes through these steps, in this order: `image_encoder`
(features), `condition` (on the memory), `decode` or `use_mask` (mask and object pointer), `encode_memory`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.backbones.image_encoder import ImageEncoder
from i2v.modeling.layers import MLP
from i2v.modeling.memory.attention import MemoryAttention
from i2v.modeling.memory.encoder import MemoryEncoder
from i2v.modeling.memory.prompt_generator import MemoryPromptGenerator
from i2v.modeling.memory.selector import MemoryPlan, MemorySelector
from i2v.modeling.position_encoding import axial_rotation, sine_encoding_1d, sine_encoding_2d
from i2v.modeling.sam.dense_prompts import DensePromptEncoder
from i2v.modeling.sam.mask_decoder import MaskDecoder
from i2v.modeling.sam.prompt_encoder import NOT_A_POINT, PromptEncoder

# The logit of every cell of the mask of an object that is not in the frame.
NO_OBJECT_LOGIT = -1024.0
# Masks enter the memory encoder, and mask prompts become logits, as mask * 20 - 10 (SAM 2).
MASK_SCALE, MASK_BIAS = 20.0, -10.0
# Logits of an earlier prediction that a click refines are clamped to this, as in SAM 2.
PREVIOUS_LOGIT_LIMIT = 32.0


@dataclass
class ObjectMemory:
    """What B objects remember: N frames and P object pointers each.

    Attributes:
        features (Tensor): (B, N, memory_channels, h, w) from `SAMI2V.encode_memory`.
        foreground (Tensor): (B, N, h, w) bool, from `SAMI2V.foreground`.
        positions (Tensor): (N,) int64, temporal position of each frame.
        repeats (Tensor): (N,) int64, how many times each frame counts.
        pointers (Tensor): (B, P, embed_dim) object pointers.
        distances (Tensor): (P,) float32, relative distance in time of each pointer.
        pointer_repeats (Tensor): (P,) int64, how many times each pointer counts.
    """

    features: Tensor
    foreground: Tensor
    positions: Tensor
    repeats: Tensor
    pointers: Tensor
    distances: Tensor
    pointer_repeats: Tensor

    @classmethod
    def of_plan(cls, plan: MemoryPlan, features: Tensor, foreground: Tensor, pointers: Tensor) -> ObjectMemory:
        """Combine a plan with its memories and pointers, which are given in the plan's order."""

        def numbers(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=features.device)

        return cls(
            features=features,
            foreground=foreground,
            positions=numbers([memory.position for memory in plan.memories], torch.long),
            repeats=numbers([memory.repeats for memory in plan.memories], torch.long),
            pointers=pointers,
            distances=numbers([pointer.distance for pointer in plan.pointers], torch.float32),
            pointer_repeats=numbers([pointer.repeats for pointer in plan.pointers], torch.long),
        )


@dataclass
class MaskPrediction:
    """Masks of B objects in one frame.

    Attributes:
        masks (Tensor): (B, 1, mask_size, mask_size) logits of the best mask; -1024 everywhere if the object is absent.
        all_masks (Tensor): (B, M, mask_size, mask_size) logits of all masks.
        ious (Tensor): (B, M) predicted IoUs of all masks, in [0, 1].
        pointers (Tensor): (B, embed_dim) object pointers.
        object_score_logits (Tensor): (B, 1), positive if the object is in the frame.
    """

    masks: Tensor
    all_masks: Tensor
    ious: Tensor
    pointers: Tensor
    object_score_logits: Tensor


class SAMI2V(nn.Module):
    """The SAM-I2V network.

    Args:
        image_encoder (ImageEncoder): computes features of frames.
        memory_attention (MemoryAttention): conditions features on memories.
        memory_encoder (MemoryEncoder): computes memories from features and masks.
        memory_selector (MemorySelector): chooses the frames that an object remembers.
        sam_prompt_encoder (PromptEncoder): turns prompts into tokens.
        sam_mask_decoder (MaskDecoder): decodes masks from features and tokens.
        memory_prompt_generator (MemoryPromptGenerator or None): the MPG; None for the ablation without it.
        dense_prompt_encoder (DensePromptEncoder or None): encodes clicks, boxes and masks as maps; the published model has
            none.
        image_size (int): side of the input, in pixels.
        feature_stride (int): pixels per feature; divides `image_size`.
        embed_dim (int): number of channels of the features and tokens.
        memory_channels (int): number of channels of the memories; divides `embed_dim`.
        num_maskmem (int): number of temporal positions of memories, one of them for conditioning frames.
        max_points_for_multimask (int): for at most this many points, several masks are decoded and the best is taken.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        memory_selector: MemorySelector,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: MaskDecoder,
        memory_prompt_generator: MemoryPromptGenerator | None = None,
        dense_prompt_encoder: DensePromptEncoder | None = None,
        image_size: int = 1024,
        feature_stride: int = 16,
        embed_dim: int = 256,
        memory_channels: int = 64,
        num_maskmem: int = 7,
        max_points_for_multimask: int = 1,
    ) -> None:
        super().__init__()
        if image_size < 1 or feature_stride < 1 or image_size % feature_stride:
            raise ValueError(f"image_size={image_size} must be a multiple of feature_stride={feature_stride}, both above 0")
        if embed_dim % memory_channels:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of memory_channels={memory_channels}")
        if memory_selector.num_tracked >= num_maskmem:
            raise ValueError(
                f"memory_selector remembers up to {memory_selector.num_tracked} tracked frames, num_maskmem={num_maskmem} has "
                f"temporal positions for {num_maskmem - 1}: raise num_maskmem or remember fewer"
            )
        _check_features(image_encoder, image_size, embed_dim, feature_stride)
        _check_high_resolution(image_encoder, sam_mask_decoder, dense_prompt_encoder)
        self.image_size = image_size
        self.feature_size = image_size // feature_stride
        self.embed_dim = embed_dim
        self.memory_channels = memory_channels
        self.max_points_for_multimask = max_points_for_multimask

        self.image_encoder = image_encoder
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        self.memory_selector = memory_selector
        self.memory_prompt_generator = memory_prompt_generator
        self.sam_prompt_encoder = sam_prompt_encoder
        self.dense_prompt_encoder = dense_prompt_encoder
        self.sam_mask_decoder = sam_mask_decoder

        downsample = image_size // sam_prompt_encoder.mask_size
        self.mask_downsample = nn.Conv2d(1, 1, downsample, stride=downsample)
        self.obj_ptr_proj = MLP(embed_dim, embed_dim, embed_dim, 3)
        self.obj_ptr_tpos_proj = nn.Linear(embed_dim, memory_channels)
        self.maskmem_tpos_enc = _parameter(num_maskmem, 1, 1, memory_channels)
        self.no_mem_embed = _parameter(1, 1, embed_dim)
        # Unused, as SAM 2 adds `no_mem_embed` to the features directly; kept frozen for checkpoint compatibility.
        self.no_mem_pos_enc = _parameter(1, 1, embed_dim).requires_grad_(False)
        self.no_obj_ptr = _parameter(1, embed_dim)
        self.no_obj_embed_spatial = _parameter(1, memory_channels)

        # Constants, which published checkpoints do not have.
        size = self.feature_size
        self.feature_position: Tensor
        self.memory_position: Tensor
        self.rotation: Tensor
        self.register_buffer("feature_position", _to_tokens(sine_encoding_2d(embed_dim, size, size)), persistent=False)
        self.register_buffer("memory_position", _to_tokens(sine_encoding_2d(memory_channels, size, size)), persistent=False)
        self.register_buffer("rotation", axial_rotation(embed_dim, size, size), persistent=False)

    @property
    def mask_size(self) -> int:
        """Side of the decoded masks, in cells."""
        return self.sam_mask_decoder.upscaling * self.feature_size

    def condition(self, features: Tensor, memory: ObjectMemory | None, batch_size: int = 1) -> tuple[Tensor, Tensor | None]:
        """Condition a frame's features on what the objects remember.

        Args:
            features (Tensor): (B, embed_dim, h, w), or (1, embed_dim, h, w) for objects of one frame.
            memory (ObjectMemory or None): memory of B objects; None if they have none.
            batch_size (int): B, if there is no memory.

        Returns:
            Conditioned features (B or 1, embed_dim, h, w), and memory prompts (B, K, embed_dim) or None without an MPG.
        """
        generator = self.memory_prompt_generator
        if memory is None:
            conditioned = features + self.no_mem_embed.view(1, -1, 1, 1)
            return conditioned, None if generator is None else generator.no_memory(batch_size)
        height, width = features.shape[-2:]
        tokens, position, foreground, bias = self._memory_tokens(memory)
        conditioned = self.memory_attention(_to_tokens(features), self.feature_position, tokens, position, self.rotation, bias)
        conditioned = conditioned.transpose(1, 2).unflatten(2, (height, width))
        if generator is None:
            return conditioned, None
        return conditioned, generator(tokens, position, foreground, self.rotation, bias)

    def decode(
        self,
        conditioned: Tensor,
        memory_prompts: Tensor | None,
        batch_size: int,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool | None = None,
        high_res_features: Sequence[Tensor] = (),
        drawn_mask: Tensor | None = None,
    ) -> MaskPrediction:
        """Decode the masks of B objects.

        Args:
            conditioned (Tensor): (B or 1, embed_dim, h, w) features from `condition`.
            memory_prompts (Tensor or None): (B, K, embed_dim) from `condition`, or None.
            batch_size (int): B.
            points (Tensor or None): (B, N, 2), (x, y) in pixels of the network's input; None for no points.
            labels (Tensor or None): (B, N) integers as in `PromptEncoder`.
            mask_logits (Tensor or None): (B, 1, H, W) of a mask to refine, resized to the size that the prompt encoders
                expect.
            multimask (bool or None): decode several masks and take the best; by default for few points
                (`max_points_for_multimask`).
            high_res_features (Sequence[Tensor]): (B or 1, C_l, h_l, w_l) of the frame per level, if the image encoder has any.
            drawn_mask (Tensor or None): (B, 1, H, W) logits for `dense_prompt_encoder`; by default `mask_logits`.
        """
        if multimask is None:
            multimask = points is None or points.shape[1] <= self.max_points_for_multimask
        is_prompted = points is not None or mask_logits is not None
        if points is None:  # SAM 2 gives the decoder a padding point then
            points = conditioned.new_zeros(batch_size, 1, 2, dtype=torch.float32)
            labels = torch.full((batch_size, 1), NOT_A_POINT, dtype=torch.int32, device=conditioned.device)
        mask = None if mask_logits is None else resize_masks(mask_logits, self.sam_prompt_encoder.mask_size)
        tokens, dense = self.sam_prompt_encoder(points, labels, mask)
        if self.dense_prompt_encoder is not None and is_prompted:
            drawn_mask = mask_logits if drawn_mask is None else drawn_mask
            mask = None if drawn_mask is None else resize_masks(drawn_mask, self.mask_size)
            drawn, levels = self.dense_prompt_encoder(points, labels, mask)
            dense = dense + drawn
            high_res_features = [x + y for x, y in zip(high_res_features, levels, strict=True)]
        decoded = self.sam_mask_decoder(
            conditioned,
            self.sam_prompt_encoder.image_position(),
            tokens,
            dense,
            memory_prompts,
            multimask,
            high_res_features,
        )
        present = decoded.object_score_logits > 0
        all_masks = torch.where(present[..., None, None], decoded.masks, NO_OBJECT_LOGIT)
        rows = torch.arange(batch_size, device=all_masks.device)
        best = decoded.ious.argmax(dim=1)
        pointers = self.obj_ptr_proj(decoded.tokens[rows, best if multimask else 0]).float()
        pointers = torch.where(present, pointers, self.no_obj_ptr)
        return MaskPrediction(
            all_masks[rows, best].unsqueeze(1), all_masks, decoded.ious, pointers, decoded.object_score_logits
        )

    def use_mask(self, features: Tensor, masks: Tensor, high_res_features: Sequence[Tensor] = ()) -> MaskPrediction:
        """Take given masks as the output, and compute their object pointers.

        Args:
            features (Tensor): (B or 1, embed_dim, h, w), not conditioned on memory.
            masks (Tensor): (B, 1, S, S) float in [0, 1].
            high_res_features (Sequence[Tensor]): as for `decode`.
        """
        batch_size = masks.shape[0]
        generator = self.memory_prompt_generator
        memory_prompts = None if generator is None else generator.no_memory(batch_size)
        low_res = resize_masks(masks.float() * MASK_SCALE + MASK_BIAS, self.mask_size)
        prediction = self.decode(
            features,
            memory_prompts,
            batch_size,
            mask_logits=self.mask_downsample(masks),
            multimask=False,
            high_res_features=high_res_features,
            drawn_mask=low_res,
        )
        present = (masks > 0).flatten(1).any(dim=1, keepdim=True)
        return MaskPrediction(
            masks=low_res,
            all_masks=low_res,
            ious=torch.ones(batch_size, 1, device=masks.device),
            pointers=torch.where(present, prediction.pointers, self.no_obj_ptr),
            object_score_logits=present.float() * MASK_SCALE + MASK_BIAS,
        )

    def encode_memory(self, features: Tensor, mask_probabilities: Tensor, object_score_logits: Tensor) -> Tensor:
        """Encode the memories of B objects in one frame.

        Args:
            features (Tensor): (B or 1, embed_dim, h, w), not conditioned on memory.
            mask_probabilities (Tensor): (B, 1, S, S) in [0, 1].
            object_score_logits (Tensor): (B, 1), positive if the object is in the frame.

        Returns:
            (B, memory_channels, h, w).
        """
        memory = self.memory_encoder(features, mask_probabilities * MASK_SCALE + MASK_BIAS)
        absent = (object_score_logits <= 0).to(memory.dtype)
        return memory + (absent * self.no_obj_embed_spatial)[..., None, None]

    def upsample(self, mask_logits: Tensor) -> Tensor:
        """Resize mask logits (B, 1, H, W) to the size of the network's input, (B, 1, S, S)."""
        size = (self.image_size, self.image_size)
        return F.interpolate(mask_logits.float(), size=size, mode="bilinear", align_corners=False)

    def foreground(self, mask_logits: Tensor) -> Tensor:
        """Return the cells that the MPG may attend to, (B, h, w) bool, for mask logits (B, 1, H, W)."""
        size = (self.feature_size, self.feature_size)
        mask = F.interpolate(mask_logits.float().sigmoid(), size=size, mode="bilinear", align_corners=False)
        return mask[:, 0] >= 0.5

    def _memory_tokens(self, memory: ObjectMemory) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Join memories and pointers to one sequence of S tokens.

        Returns:
            Tokens (B, S, memory_channels), their position encodings (B, S, memory_channels), foreground (B, S) bool, and
            log(repeats) (B, S), or None if all are 1.
        """
        batch, frames, channels, height, width = memory.features.shape
        split = self.embed_dim // channels
        dtype = self.maskmem_tpos_enc.dtype
        spatial = memory.features.to(dtype).flatten(3).transpose(2, 3).flatten(1, 2)
        pointers = memory.pointers.to(dtype).unflatten(2, (split, channels)).flatten(1, 2)

        time = self.maskmem_tpos_enc[len(self.maskmem_tpos_enc) - 1 - memory.positions].view(frames, 1, channels)
        distance = self.obj_ptr_tpos_proj(sine_encoding_1d(memory.distances, self.embed_dim))
        position = torch.cat([(self.memory_position + time).flatten(0, 1), distance.repeat_interleave(split, dim=0)])

        foreground = memory.foreground.flatten(1)
        foreground = torch.cat([foreground, foreground.new_ones(batch, pointers.shape[1])], dim=1)
        repeats = torch.cat(
            [
                memory.repeats.repeat_interleave(height * width),
                memory.pointer_repeats.repeat_interleave(split),
            ]
        )
        # Attending to n copies of a token equals attending to it once with log n added to its score.
        bias = repeats.to(dtype).log().expand(batch, -1) if bool((repeats > 1).any()) else None
        tokens = torch.cat([spatial, pointers], dim=1)
        return tokens, position.to(dtype).expand(batch, -1, -1), foreground, bias


def _check_features(encoder: ImageEncoder, image_size: int, embed_dim: int, feature_stride: int) -> None:
    """Raise a ValueError if the image encoder's features have other channels or another stride than the network.

    Or if the image size is not a multiple of the strides of all maps of the trunk.
    """
    if encoder.out_channels != embed_dim:
        raise ValueError(f"the image encoder's features have {encoder.out_channels} channels, not embed_dim={embed_dim}")
    if encoder.trunk_image.stride != feature_stride:
        raise ValueError(f"the trunk's stride is {encoder.trunk_image.stride} pixels, not feature_stride={feature_stride}")
    multiple = math.lcm(*encoder.trunk_image.strides)
    if image_size % multiple:
        below = image_size // multiple * multiple
        fitting = " or ".join(str(size) for size in (below, below + multiple) if size)
        raise ValueError(
            f"image_size={image_size} does not fit {type(encoder.trunk_image).__name__}, whose maps have up to {multiple} "
            f"pixels per cell: take a multiple of {multiple}, such as {fitting}"
        )


def _check_high_resolution(encoder: ImageEncoder, decoder: MaskDecoder, prompts: DensePromptEncoder | None) -> None:
    """Raise a ValueError if parts do not fit the levels of the decoder's upscaling."""
    given = [projection.out_channels for projection in encoder.high_res_projections]
    if given and given != decoder.level_channels:
        raise ValueError(
            f"image_encoder.high_res_channels={given} must equal those of the mask decoder's levels, {decoder.level_channels}"
        )
    if prompts is not None and (prompts.channels != decoder.level_channels or not given):
        raise ValueError(
            f"dense_prompt_encoder needs high_res_levels of the image encoder, and the channels of the mask decoder's levels, "
            f"{decoder.level_channels}, not {prompts.channels}"
        )


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """Resize masks (B, 1, H, W) to (B, 1, size, size) float32."""
    if masks.shape[-2:] == (size, size):
        return masks
    return F.interpolate(masks.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(shape), std=0.02))


def _to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
