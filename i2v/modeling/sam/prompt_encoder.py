"""SAM's prompt encoder: points, boxes (as two points) and masks become tokens and a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2v.modeling.layers import LayerNorm2d
from i2v.modeling.position_encoding import RandomPositionEncoding

NOT_A_POINT, NEGATIVE, POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


class PromptEncoder(nn.Module):
    """Encodes points and boxes as tokens, and a mask as a map.

    Args:
        embed_dim (int): number of channels of the tokens.
        image_size (int): side of the network's input, in pixels.
        feature_stride (int): pixels per feature.
        mask_channels (int): number of hidden channels of the mask branch.
    """

    def __init__(self, embed_dim: int = 256, image_size: int = 1024, feature_stride: int = 16, mask_channels: int = 16) -> None:
        super().__init__()
        self.image_size = image_size
        self.feature_size = image_size // feature_stride
        self.pe_layer = RandomPositionEncoding(embed_dim)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    @property
    def mask_size(self) -> int:
        """Side of a mask prompt, in cells: four per feature."""
        return 4 * self.feature_size

    def image_position(self) -> Tensor:
        """Return the position encoding of the feature map, (1, embed_dim, feature_size, feature_size)."""
        return self.pe_layer(self.feature_size, self.feature_size).unsqueeze(0)

    def forward(
        self, points: Tensor, labels: Tensor, mask_logits: Tensor | None = None, pad: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of B objects.

        Args:
            points (Tensor): (B, N, 2), (x, y) in pixels of the network's input; N may be 0.
            labels (Tensor): (B, N) integers: 1 foreground, 0 background, 2 and 3 the corners of a box, -1 padding.
            mask_logits (Tensor or None): (B, 1, mask_size, mask_size) of a mask to refine, or None.
            pad (bool): append a padding token, as SAM 2 always does.

        Returns:
            Tokens (B, N + pad, embed_dim), and a map (B, embed_dim, feature_size, feature_size).
        """
        batch = points.shape[0]
        if pad:
            points = torch.cat([points, points.new_zeros(batch, 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((batch, 1), NOT_A_POINT)], dim=1)
        tokens = self.pe_layer.encode((points + 0.5) / self.image_size)
        padding = (labels == NOT_A_POINT).unsqueeze(-1)
        kinds = torch.cat([embedding.get_parameter("weight") for embedding in self.point_embeddings])
        tokens = torch.where(padding, self.not_a_point_embed.weight, tokens + kinds[labels.clamp(min=0)])
        if mask_logits is None:
            dense = self.no_mask_embed.weight[..., None, None]
            return tokens, dense.expand(batch, -1, self.feature_size, self.feature_size)
        return tokens, self.mask_downscaling(mask_logits)
