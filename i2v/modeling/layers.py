"""Building blocks that several parts of the network share."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tile of `tiled_attention`, queries x keys: its scores (2 MB in float32) stay in the cache, and the matrix products are large
# enough to run at full speed.
_TILE = (1024, 512)
# Below this many scores the scaled-dot-product attention of PyTorch is as fast.
_TILED_FROM = 1 << 20


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast_bf16() -> bool:
    """Whether products in bfloat16 are not emulated on this CPU (175 times slower than float32 on one with AVX2 alone)."""
    return torch.backends.cpu.get_cpu_capability() not in ("NO AVX", "AVX2")


def usual_precision(device: torch.device) -> str:
    """What users of a device expect: bf16 on a GPU that has it."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Matrix products and convolutions in a precision: a key of `PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast on x's device: for the few sums whose rounding errors reach the mask."""
    if not torch.amp.is_autocast_available(x.device.type):  # such as the meta device
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a map (B, C, *spatial), one mean and variance per position."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


class MapLayerNorm(nn.LayerNorm):
    """`LayerNorm2d` as a kind of `nn.LayerNorm`, which tells the optimizer that its scale does not decay."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


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

    In evaluation the normalisation is folded into the weights, which saves a pass over the map. The fold is made anew in
    every call (a few thousand multiplications), so that there is nothing to invalidate when weights are loaded.
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
        scale = self.bn.weight * torch.rsqrt(self.bn.running_var + self.bn.eps)
        weight = self.c.weight * scale[:, None, None, None]
        bias = self.bn.bias - self.bn.running_mean * scale
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention for inference on the CPU, tile by tile with a running softmax (as in FlashAttention).

    The same result as `scaled_dot_product_attention`, and on the CPU it takes less time for long sequences: values may be
    narrower than keys, and the products run at the speed of the matrix library, in bfloat16 too (tools/benchmark.py
    --attention).

    Args:
        q: (B, L, D) queries. k: (B, S, D) keys. v: (B, S, E) values. bias: (B, S) added to the scores, finite, or None.

    Returns:
        (B, L, E).
    """
    rows, columns = _TILE
    q = q * (1.0 / math.sqrt(q.shape[-1]))
    output = q.new_empty(*q.shape[:2], v.shape[-1])
    score_buffer = q.new_empty(rows * columns)
    value_buffer = q.new_empty(rows, v.shape[-1])
    for b in range(q.shape[0]):
        for queries, result in zip(q[b].split(rows), output[b].split(rows), strict=True):
            n = len(queries)
            largest = q.new_full((n, 1), -torch.inf)
            total = q.new_zeros(n, 1, dtype=torch.float32)
            average = q.new_zeros(n, v.shape[-1], dtype=torch.float32)
            for start in range(0, k.shape[1], columns):
                keys, values = k[b, start : start + columns], v[b, start : start + columns]
                scores = score_buffer[: n * len(keys)].view(n, len(keys))
                torch.mm(queries, keys.T, out=scores)
                if bias is not None:
                    scores += bias[b, start : start + columns]
                former, largest = largest, torch.maximum(largest, scores.amax(dim=1, keepdim=True))
                scores.sub_(largest).exp_()
                shrink = (former - largest).float().exp_()
                total.mul_(shrink).add_(scores.sum(dim=1, keepdim=True, dtype=torch.float32))
                average.mul_(shrink).add_(torch.mm(scores, values, out=value_buffer[:n]))
            result.copy_(average / total)
    return output


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax(q k' / sqrt(D) + bias) v.

    Args:
        q: (B or 1, heads, L, D) queries; a batch of 1 is shared by all. k: (B, heads, S, D) keys.
        v: (B, heads, S, E) values. bias: (B, S) added to the scores, finite.
        dropout: probability with which a weight is dropped.

    Returns:
        (B, heads, L, E).
    """
    q = q.expand(k.shape[0], -1, -1, -1)
    long = q.shape[2] * k.shape[2] >= _TILED_FROM
    # In float32 PyTorch's is faster where values are as wide as keys.
    tiled_is_faster = long and (v.shape[-1] < q.shape[-1] or q.dtype != torch.float32)
    if q.device.type == "cpu" and q.shape[1] == 1 and tiled_is_faster and not torch.is_grad_enabled():
        return tiled_attention(q[:, 0], k[:, 0], v[:, 0].to(q.dtype), bias).unsqueeze(1)
    mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, dropout_p=dropout)


class Attention(nn.Module):
    """Multi-head attention with projections, optionally with rotary position encoding.

    Serves the mask decoder (several heads, no rotation), the memory attention and the memory prompt generator (one head,
    rotation, keys and values narrower than the queries).
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
        """
        Args:
            q: (B or 1, L, embedding_dim). k, v: (B, S, kv_in_dim).
            q_rotation: (L', embed_dim / 2, 2) as `axial_rotation` makes it, for the first L tokens, repeated as often as it
                fits; None for no rotation. k_rotation: likewise for the keys; tokens beyond the repeats are not rotated.
            bias: (B, S) added to the scores, finite.

        Returns:
            (B, L, embedding_dim).
        """
        dropout = self.dropout if self.training else 0.0
        q = rotate(self._heads(self.q_proj(q)), q_rotation)
        k = rotate(self._heads(self.k_proj(k)), k_rotation)
        narrow = self.num_heads == 1 and v.shape[-1] < self.v_proj.out_features
        # Fused kernels of GPUs want values as wide as keys.
        if narrow and not dropout and q.device.type not in ("cuda", "mps"):
            # The weights sum to one, so that projecting their average of the values is averaging projected values:
            # with 64 channels in place of 256 a third of the products is saved.
            out = self.v_proj(attend(q, k, v.unsqueeze(1), bias)[:, 0])
        else:
            out = attend(q, k, self._heads(self.v_proj(v)), bias, dropout).transpose(1, 2).flatten(2)
        return self.out_proj(out)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def rotate(x: Tensor, rotation: Tensor | None) -> Tensor:
    """Rotary position encoding (RoFormer; axial as in SAM 2).

    Args:
        x: (..., L, D). rotation: (n, D / 2, 2), cosine and sine per token and pair of channels, used for the first
            floor(L / n) * n tokens in turn; the tokens after them stay as they are. None for no rotation.

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
