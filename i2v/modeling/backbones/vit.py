"""SAM's ViT with windowed attention (Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022).

The trunk of SAM-Base and, with fewer channels, of SlimSAM (Chen et al., "SlimSAM: 0.1% Data Makes Segment Anything Slim",
NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.backbones.trunk import Trunk
from i2v.modeling.layers import segmenter_neck


class PatchEmbedding(nn.Module):
    """One linear layer per patch: (B, 3, H, W) -> (B, H / patch_size, W / patch_size, channels)."""

    def __init__(self, channels: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class RelativeAttention(nn.Module):
    """Multi-head attention over a map whose scores depend on the offset of rows and on that of columns.

    Args:
        channels (int): number of channels.
        num_heads (int): number of heads.
        size (int): side of the map in cells that the tables of offsets are for. For other sizes they are interpolated.
    """

    def __init__(self, channels: int, num_heads: int, size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, channels // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, channels // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same."""
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (height, width))
        rows = torch.einsum("bnyxc,yzc->bnyxz", grid, _by_offset(self.rel_pos_h, height).to(q.dtype))
        columns = torch.einsum("bnyxc,xzc->bnyxz", grid, _by_offset(self.rel_pos_w, width).to(q.dtype))
        bias = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2)).unflatten(1, (height, width))


def _by_offset(table: Tensor, size: int) -> Tensor:
    """Look up the embedding of each pair of positions: (2 n - 1, C) -> (size, size, C), query first."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T.unsqueeze(0), size=2 * size - 1, mode="linear", align_corners=False)[0].T
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position + size - 1]


class MLPBlock(nn.Module):
    """Two linear layers with GELU: (..., C) -> the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP with residuals: (B, h, w, C) -> the same.

    Args:
        channels (int): number of channels.
        num_heads (int): number of attention heads.
        hidden (int): number of channels between the two layers of the MLP.
        window_size (int or None): side of the attention windows, in cells; None for attention over the whole map.
        map_size (int): side of the map, in cells.
    """

    def __init__(self, channels: int, num_heads: int, hidden: int, window_size: int | None, map_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = RelativeAttention(channels, num_heads, window_size or map_size)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLPBlock(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        attend = self.attn if self.window_size is None else self._attend_in_windows
        x = x + attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend_in_windows(self, x: Tensor) -> Tensor:
        """As in SAM, cells that fill the last windows are zeros, and are attended to."""
        size = self.window_size
        assert size is not None
        batch, height, width, _ = x.shape
        padded = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        windows = padded.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
        attended = self.attn(windows.flatten(0, 2)).unflatten(0, (batch, *windows.shape[1:3]))
        return attended.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class ViT(Trunk):
    """SAM's ViT with its neck.

    Every map has the stride `patch_size`. The paper (Figure 6, Table 3) does not say which maps of a ViT the TFI uses. The
    configs here choose the outputs of the second and third global block, and the neck's.

    Args:
        out_channels (int): number of channels of the neck.
        embed_dim (int): number of channels of the blocks.
        mlp_dim (int): number of channels between the two layers of each MLP.
        depth (int): number of blocks.
        num_heads (int): number of attention heads; divides `embed_dim`.
        window_size (int): side of the attention windows, in cells.
        global_blocks (Sequence[int]): indices of the blocks that attend to the whole map, whose outputs are maps of the trunk.
        patch_size (int): side of a patch, in pixels.
        image_size (int): side of the images, in pixels, that the position embeddings are for, as in the checkpoint. For images
            of other sizes, they are interpolated.

    Raises:
        ValueError: `embed_dim` cannot be divided among the heads, or `global_blocks` are not increasing indices of blocks.
    """

    def __init__(
        self,
        out_channels: int = 256,
        embed_dim: int = 768,
        mlp_dim: int = 3072,
        depth: int = 12,
        num_heads: int = 12,
        window_size: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        patch_size: int = 16,
        image_size: int = 1024,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} of the ViT must be a multiple of num_heads={num_heads}")
        if sorted({*global_blocks} & {*range(depth)}) != [*global_blocks]:
            raise ValueError(f"global_blocks={list(global_blocks)} must be increasing indices of the {depth} blocks")
        size = image_size // patch_size
        self.global_blocks = list(global_blocks)
        self.patch_embed = PatchEmbedding(embed_dim, patch_size)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, size, size, embed_dim), std=0.02))
        self.blocks = nn.ModuleList(
            ViTBlock(embed_dim, num_heads, mlp_dim, None if i in global_blocks else window_size, size) for i in range(depth)
        )
        self.neck = segmenter_neck(embed_dim, out_channels)
        self.channels = [*[embed_dim] * len(global_blocks), out_channels]
        self.strides = [patch_size] * len(self.channels)

    def depth_groups(self) -> list[list[nn.Module]]:
        """See `Trunk`: the patch and position embeddings, each block, and the neck."""
        embeddings: list[nn.Module] = [self.patch_embed, nn.ParameterList([self.pos_embed])]
        return [embeddings, *([block] for block in self.blocks), [self.neck]]

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`.

        Returns:
            list[Tensor]: the output of each global block, `embed_dim` channels, and the neck's, all at 1/patch_size.
        """
        x = self.patch_embed(images)
        position: Tensor = self.pos_embed
        if position.shape[1:3] != x.shape[1:3]:
            position = F.interpolate(position.permute(0, 3, 1, 2), size=x.shape[1:3], mode="bicubic", align_corners=False)
            position = position.permute(0, 2, 3, 1)
        x = x + position
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.global_blocks:
                maps.append(x.permute(0, 3, 1, 2))
        return [*maps, self.neck(x.permute(0, 3, 1, 2))]
