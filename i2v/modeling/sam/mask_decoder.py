"""SAM 2's mask decoder (SAM 2, section 4), extended by memory prompts (SAM-I2V, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from i2v.modeling.layers import MLP, LayerNorm2d
from i2v.modeling.sam.transformer import TwoWayTransformer


class DecodedMasks(NamedTuple):
    """What the decoder returns.

    Attributes:
        masks (Tensor): (B, M, upscaling * h, upscaling * w) logits; M is `num_multimask_outputs` for several masks, else 1.
        ious (Tensor): (B, M) predicted IoUs, in [0, 1]; without an object score, not confined to it.
        tokens (Tensor): (B, M, embed_dim) output token of each mask.
        object_score_logits (Tensor): (B, 1), positive if the object is in the frame; without an object score, always.
    """

    masks: Tensor
    ious: Tensor
    tokens: Tensor
    object_score_logits: Tensor


# The object score of a decoder without one, as in SAM 2.
_PRESENT = 10.0


class MaskDecoder(nn.Module):
    """Decodes masks from features and prompt tokens.

    Args:
        transformer (TwoWayTransformer): lets tokens and image attend to each other.
        embed_dim (int): number of channels of the features.
        num_multimask_outputs (int): number of masks for an ambiguous prompt.
        upscaling (int): cells of a mask per feature, in each direction: 4, as published, or 8.
        iou_head_hidden (int): number of channels between the layers of the MLP that predicts IoUs.
        dynamic_multimask_via_stability (bool): in evaluation, replace an unstable single mask with the best of the several
            masks.
        stability_delta (float): a mask's stability is the IoU of its logits thresholded at +stability_delta and at
            -stability_delta.
        stability_thresh (float): a mask is unstable if its stability is below this, in [0, 1].
        object_score (bool): predict whether the object is in the frame, and IoUs in [0, 1], as in SAM 2. Image segmenters such
            as SAM do neither.

    Raises:
        ValueError: another upscaling.
    """

    def __init__(
        self,
        transformer: TwoWayTransformer,
        embed_dim: int = 256,
        num_multimask_outputs: int = 3,
        upscaling: int = 4,
        iou_head_hidden: int = 256,
        dynamic_multimask_via_stability: bool = True,
        stability_delta: float = 0.05,
        stability_thresh: float = 0.98,
        object_score: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, embed_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, embed_dim)
        self.obj_score_token = nn.Embedding(1, embed_dim) if object_score else None
        if upscaling not in (4, 8):
            raise ValueError(f"upscaling must be 4 or 8, not {upscaling}")
        self.upscaling = upscaling
        self.level_channels = [embed_dim // 2 ** (level + 2) for level in range(int(math.log2(upscaling)))]
        layers: list[nn.Module] = []
        for before, after in pairwise([embed_dim, *self.level_channels]):
            layers += [nn.ConvTranspose2d(before, after, 2, stride=2), LayerNorm2d(after), nn.GELU()]
        del layers[-2]  # no normalisation before the product that makes masks
        self.output_upscaling = nn.Sequential(*layers)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(embed_dim, embed_dim, self.level_channels[-1], 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(embed_dim, iou_head_hidden, self.num_mask_tokens, 3, sigmoid_output=object_score)
        self.pred_obj_score_head = MLP(embed_dim, embed_dim, 1, 3) if object_score else None
        self.dynamic_multimask_via_stability = dynamic_multimask_via_stability
        self.stability_delta = stability_delta
        self.stability_thresh = stability_thresh

    def forward(
        self,
        features: Tensor,
        position: Tensor,
        prompt_tokens: Tensor,
        dense_prompt: Tensor,
        memory_prompts: Tensor | None,
        multimask: bool,
        high_res_features: Sequence[Tensor] = (),
    ) -> DecodedMasks:
        """Decode the masks of B objects.

        Args:
            features (Tensor): (B or 1, embed_dim, h, w) features of the frame.
            position (Tensor): (1, embed_dim, h, w) position encoding of the frame.
            prompt_tokens (Tensor): (B, N, embed_dim) from the prompt encoder.
            dense_prompt (Tensor): (B, embed_dim, h, w) from the prompt encoder, added to the features.
            memory_prompts (Tensor or None): (B, K, embed_dim) from the MPG, or None without one.
            multimask (bool): return several masks.
            high_res_features (Sequence[Tensor]): (B or 1, level_channels[l], h_l, w_l) added at each level of the upscaling,
                from coarse to fine; or none.
        """
        batch = prompt_tokens.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        if self.obj_score_token is not None:
            own = torch.cat([self.obj_score_token.weight, own])
        tokens = [own.expand(batch, -1, -1), prompt_tokens]
        if memory_prompts is not None:
            tokens.append(memory_prompts)
        image = features + dense_prompt
        height, width = image.shape[-2:]
        out, image = self.transformer(
            image.flatten(2).transpose(1, 2),
            position.flatten(2).transpose(1, 2),
            torch.cat([token.to(features.dtype) for token in tokens], dim=1),
        )
        object_score_logits = out.new_full((batch, 1), _PRESENT)
        if self.pred_obj_score_head is not None:
            object_score_logits, out = self.pred_obj_score_head(out[:, 0]), out[:, 1:]
        ious = self.iou_prediction_head(out[:, 0])
        mask_tokens = out[:, 1 : 1 + self.num_mask_tokens]

        upscaled = self._upscale(image.transpose(1, 2).unflatten(2, (height, width)), high_res_features)
        kernels = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])

        masks, ious = masks.float(), ious.float()
        several = DecodedMasks(masks[:, 1:], ious[:, 1:], mask_tokens[:, 1:], object_score_logits.float())
        if multimask:
            return several
        # The token of the single mask is always kept, as in SAM 2: it becomes the object pointer.
        single = DecodedMasks(masks[:, :1], ious[:, :1], mask_tokens[:, :1], object_score_logits.float())
        if self.training or not self.dynamic_multimask_via_stability:
            return single
        stable = self._stability(single.masks) >= self.stability_thresh
        rows = torch.arange(batch, device=masks.device)
        best = several.ious.argmax(dim=1)
        masks = torch.where(stable[..., None, None], single.masks, several.masks[rows, best].unsqueeze(1))
        ious = torch.where(stable, single.ious, several.ious[rows, best].unsqueeze(1))
        return single._replace(masks=masks, ious=ious)

    def _upscale(self, x: Tensor, high_res_features: Sequence[Tensor]) -> Tensor:
        levels = iter(high_res_features)
        for layer in self.output_upscaling:
            x = layer(x)
            if high_res_features and isinstance(layer, nn.ConvTranspose2d):
                x = x + next(levels)
        return x

    def _stability(self, masks: Tensor) -> Tensor:
        """Return the stability (B, M) of masks (B, M, H, W); 1 if they are empty at both thresholds."""
        inner = (masks > self.stability_delta).flatten(2).sum(-1).float()
        outer = (masks > -self.stability_delta).flatten(2).sum(-1).float()
        return torch.where(outer > 0, inner / outer, 1.0)
