"""Building blocks that several parts of the network share."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling import cpu_attention


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a map (B, C, *spatial), with one mean and variance per position."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class MapLayerNorm(nn.LayerNorm):
    """`LayerNorm2d` as a subclass of `nn.LayerNorm`, to whose scale the optimizer applies no weight decay."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def segmenter_neck(in_channels: int, out_channels: int) -> nn.Sequential:
    """The neck of SAM's trunk: (B, in_channels, h, w) -> (B, out_channels, h, w)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), CLIP's approximation of the GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """Linear layers with ReLU between them: (..., input_dim) -> (..., output_dim)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, sigmoid_output: bool = False) -> None:
        super().__init__()
        dims = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return x.sigmoid() if self.sigmoid_output else x


class Conv2dBN(nn.Module):
    """A convolution without bias and the batch normalisation after it.

    In evaluation the normalisation is folded into the weights, which saves a pass over the map. It is folded in every call (a
    few thousand multiplications), so that there is nothing to invalidate when weights are loaded.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn.training:
            return self.bn(self.c(x))
        assert self.bn.running_mean is not None and self.bn.running_var is not None  # they are tracked
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        weight = self.c.weight * scale[:, None, None, None]
        bias = self.bn.bias - self.bn.running_mean * scale
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class Attention(nn.Module):
    """Multi-head attention with projections, optionally with rotary position encoding.

    The mask decoder uses several heads and no rotation; the memory attention and the Memory Prompt Generator use one head,
    rotation, and keys and values with fewer channels than the queries.

    Args:
        embedding_dim (int): number of channels of the queries and of the output.
        num_heads (int): number of heads.
        downsample_rate (int): the heads have embedding_dim / downsample_rate channels together.
        kv_in_dim (int or None): number of channels of keys and values; None for `embedding_dim`.
        dropout (float): probability with which a weight is dropped in training.

    Raises:
        ValueError: the channels cannot be divided among the heads.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        downsample_rate: int = 1,
        kv_in_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        internal_dim = embedding_dim // downsample_rate
        if internal_dim % num_heads:
            raise ValueError(f"the attention's {internal_dim} channels must be a multiple of num_heads={num_heads}")
        kv_in_dim = kv_in_dim or embedding_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(kv_in_dim, internal_dim)
        self.v_proj = nn.Linear(kv_in_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        q_rotation: Tensor | None = None,
        k_rotation: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from queries to keys.

        Args:
            q (Tensor): (B or 1, L, embedding_dim) queries; a batch of 1 is shared by all.
            k (Tensor): (B, S, kv_in_dim) keys.
            v (Tensor): (B, S, kv_in_dim) values.
            q_rotation (Tensor or None): (n, channels / 2, 2) from `axial_rotation`, applied to each n tokens in turn; the
                remaining tokens are not rotated. None for no rotation.
            k_rotation (Tensor or None): likewise, for the keys.
            bias (Tensor or None): (B, S) added to the scores, finite; or None.

        Returns:
            (B, L, embedding_dim).
        """
        dropout = self.dropout if self.training else 0.0
        q = rotate(self._heads(self.q_proj(q)), q_rotation)
        k = rotate(self._heads(self.k_proj(k)), k_rotation)
        if cpu_attention.averages_before_projecting(q, v, self.v_proj, dropout):
            out = self.v_proj(cpu_attention.attend(q, k, v.unsqueeze(1), bias)[:, 0])
        else:
            out = cpu_attention.attend(q, k, self._heads(self.v_proj(v)), bias, dropout).transpose(1, 2).flatten(2)
        return self.out_proj(out)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def rotate(x: Tensor, rotation: Tensor | None) -> Tensor:
    """Apply rotary position encoding (RoFormer; axial as in SAM 2).

    Args:
        x (Tensor): (..., L, D).
        rotation (Tensor or None): (n, D / 2, 2), cosine and sine per token and pair of channels, applied to each n tokens in
            turn; the remaining tokens are not rotated. None for no rotation.

    Returns:
        (..., L, D), of x's dtype.
    """
    if rotation is None:
        return x
    n = rotation.shape[0]
    rotated = x.shape[-2] // n * n
    pairs = x[..., :rotated, :].unflatten(-2, (-1, n)).unflatten(-1, (-1, 2)).float().contiguous()
    out = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    out = out.flatten(-2).flatten(-3, -2).to(x.dtype)
    return out if rotated == x.shape[-2] else torch.cat([out, x[..., rotated:, :]], dim=-2)
