"""TinyViT, the image trunk of MobileSAM and TinySAM (Wu et al., "TinyViT", ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.backbones.trunk import AdapterPlace, Trunk
from i2v.modeling.layers import Conv2dBN, segmenter_neck
from i2v.modeling.precision import full_precision


class PatchEmbedding(nn.Module):
    """Two convolutions of stride 2: (B, 3, H, W) -> (B, channels, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            Conv2dBN(3, channels // 2, 3, stride=2, padding=1),
            nn.GELU(),
            Conv2dBN(channels // 2, channels, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck with a depthwise convolution and a residual: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.conv1 = Conv2dBN(channels, hidden, 1)
        self.conv2 = Conv2dBN(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv3 = Conv2dBN(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Changes the channels and, with stride 2, halves the resolution: (B, C, H, W) -> (B, D, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv2dBN(in_channels, out_channels, 1)
        self.conv2 = Conv2dBN(out_channels, out_channels, 3, stride=stride, padding=1, groups=out_channels)
        self.conv3 = Conv2dBN(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Multi-head attention inside one window, with a learned bias per head and absolute offset."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.offset: Tensor
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
        y, x = y.flatten(), x.flatten()
        offset = (y[:, None] - y).abs() * window_size + (x[:, None] - x).abs()
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, tokens, C) -> the same."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        bias = self.attention_biases[:, self.offset].to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        return self.proj(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm MLP of two layers with GELU: (..., C) -> the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise convolution and an MLP: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = WindowAttention(channels, num_heads, window_size)
        self.mlp = FeedForward(channels, 4 * channels)
        self.local_conv = Conv2dBN(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        size = self.window_size
        tokens = x.permute(0, 2, 3, 1)
        padded = F.pad(tokens, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = padded.shape[1] // size, padded.shape[2] // size
        windows = padded.reshape(b, rows, size, columns, size, c).transpose(2, 3).reshape(-1, size * size, c)
        attended = self.attn(windows).reshape(b, rows, columns, size, size, c).transpose(2, 3)
        attended = attended.reshape(b, rows * size, columns * size, c)[:, :height, :width]
        x = self.local_conv((tokens + attended).permute(0, 3, 1, 2))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one resolution and the downsampling after them."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(Trunk):
    """TinyViT with SAM's neck.

    Args:
        out_channels (int): number of channels of the neck.
        embed_dims (Sequence[int]): number of channels of each stage.
        depths (Sequence[int]): number of blocks of each stage.
        num_heads (Sequence[int]): number of attention heads of each stage; the first stage has no attention.
        window_sizes (Sequence[int]): side of the attention windows of each stage, in cells.
        strides (Sequence[int]): strides of the downsamplings between the stages; (2, 2, 1) ends at 1/16 of the image.
    """

    def __init__(
        self,
        out_channels: int = 256,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        window_sizes: Sequence[int] = (7, 7, 14, 7),
        strides: Sequence[int] = (2, 2, 1),
    ) -> None:
        super().__init__()
        if not len(embed_dims) == len(depths) == len(num_heads) == len(window_sizes) == len(strides) + 1:
            raise ValueError("embed_dims, depths, num_heads and window_sizes must have one value per stage, strides one less")
        self.patch_embed = PatchEmbedding(embed_dims[0])
        self.layers = nn.ModuleList()
        for i, dim in enumerate(embed_dims):
            blocks: Sequence[nn.Module]
            if i == 0:
                blocks = [MBConv(dim) for _ in range(depths[i])]
            else:
                blocks = [TinyViTBlock(dim, num_heads[i], window_sizes[i]) for _ in range(depths[i])]
            last = i == len(embed_dims) - 1
            downsample = None if last else PatchMerging(dim, embed_dims[i + 1], strides[i])
            self.layers.append(Stage(blocks, downsample))
        # The ImageNet head is unused; it is kept frozen for checkpoint compatibility.
        self.norm_head = nn.LayerNorm(embed_dims[-1]).requires_grad_(False)
        self.head = nn.Linear(embed_dims[-1], 1000).requires_grad_(False)
        self.neck = segmenter_neck(embed_dims[-1], out_channels)
        self.channels = [embed_dims[0], *embed_dims[1:], out_channels]
        self.tail_channels = [embed_dims[-1]] * depths[-1]
        self.strides = [4, *(4 * math.prod(strides[:i]) for i in range(1, len(strides) + 1)), 4 * math.prod(strides)]

    def depth_groups(self) -> list[list[nn.Module]]:
        """See `Trunk`. As published, the downsampling after a stage belongs to the group of the stage's last block."""
        groups: list[list[nn.Module]] = [[self.patch_embed]]
        for stage in self.layers:
            assert isinstance(stage, Stage)
            groups += [[block] for block in stage.blocks]
            if stage.downsample is not None:
                groups[-1].append(stage.downsample)
        return [*groups, [self.neck]]

    def adapter_places(self) -> list[AdapterPlace]:
        """See `Trunk`: the MLP of each transformer block."""
        return [
            AdapterPlace(block.mlp, block.mlp.fc1.in_features, channel_dim=-1)
            for block in self.modules()
            if isinstance(block, TinyViTBlock)
        ]

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`.

        Returns:
            list[Tensor]: five maps: the patch embedding, the outputs of the first three stages, and the neck. The published
            model has 64 channels at 1/4, 128 at 1/8, and 160, 320 and 256 at 1/16.
        """
        maps = self.before_tail(images)
        return self.tail(maps, maps[-1])

    def before_tail(self, images: Tensor) -> list[Tensor]:
        """See `Trunk`: everything before the last stage."""
        x = self.patch_embed(images)
        convolutions, *transformers, _ = self.layers
        maps = [x, convolutions(x)]
        with self._transformer_precision(x):
            x = maps[-1] if self.training else maps[-1].float()
            for stage in transformers:
                x = stage(x)
                maps.append(x)
        return maps

    def tail(
        self, maps: Sequence[Tensor], x: Tensor, before_block: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """See `Trunk`: the blocks of the last stage, and the neck."""
        last = self.layers[-1]
        assert isinstance(last, Stage)
        with self._transformer_precision(x):
            for i, block in enumerate(last.blocks):
                x = block(x if before_block is None else before_block(i, x))
            return [*maps, self.neck(x)]

    def _transformer_precision(self, x: Tensor) -> AbstractContextManager:
        # Rounding errors of the transformers reach the mask: with the random weights of the parity tests, bfloat16 costs up to
        # 3 % of its IoU and saves 6 % of a frame's time. In training they do not matter.
        return nullcontext() if self.training else full_precision(x)
