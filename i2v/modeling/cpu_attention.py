"""Attention, and the shortcuts that make it faster on a CPU.

Everything here equals `scaled_dot_product_attention` up to rounding; tests/modeling/test_layers.py proves it, and
`tools/benchmark.py --attention` measures what it saves.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Tile of `tiled_attention`, queries x keys: its scores (2 MB in float32) stay in the cache, and the matrix products are large
# enough to run at full speed.
_TILE = (1024, 512)
# Below this many scores, PyTorch's attention is as fast.
_TILED_FROM = 1 << 20


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute softmax(q k' / sqrt(D) + bias) v.

    Args:
        q (Tensor): (B or 1, heads, L, D) queries; a batch of 1 is shared by all.
        k (Tensor): (B, heads, S, D) keys.
        v (Tensor): (B, heads, S, E) values.
        bias (Tensor or None): (B, S) added to the scores, finite; or None.
        dropout (float): probability with which a weight is dropped.

    Returns:
        (B, heads, L, E).
    """
    q = q.expand(k.shape[0], -1, -1, -1)
    if _tiles_are_faster(q, k, v):
        return tiled_attention(q[:, 0], k[:, 0], v[:, 0].to(q.dtype), bias).unsqueeze(1)
    mask = None if bias is None else bias[:, None, None, :].to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, dropout_p=dropout)


def averages_before_projecting(q: Tensor, v: Tensor, projection: nn.Linear, dropout: float) -> bool:
    """Return whether it is cheaper to average values before they are projected than after.

    The weights sum to one, so both give the same. With 64 channels in place of 256, a third of the products is saved; fused
    kernels of GPUs, however, want values as wide as keys.

    Args:
        q (Tensor): (B, heads, L, D) queries.
        v (Tensor): (B, S, C) values before their projection.
        projection (nn.Linear): the projection of the values.
        dropout (float): probability with which a weight is dropped, after which weights do not sum to one.
    """
    return q.shape[1] == 1 and v.shape[-1] < projection.out_features and not dropout and q.device.type not in ("cuda", "mps")


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute attention without gradients, tile by tile with a running softmax (as in FlashAttention).

    On a CPU it takes less time than PyTorch's for long sequences: values may be narrower than keys, and the products run at
    the speed of the matrix library, in bfloat16 too.

    Args:
        q (Tensor): (B, L, D) queries.
        k (Tensor): (B, S, D) keys.
        v (Tensor): (B, S, E) values.
        bias (Tensor or None): (B, S) added to the scores, finite; or None.

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


def _tiles_are_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    if q.device.type != "cpu" or q.shape[1] != 1 or torch.is_grad_enabled() or q.shape[2] * k.shape[2] < _TILED_FROM:
        return False
    # In float32 PyTorch's is faster where values are as wide as keys.
    return v.shape[-1] < q.shape[-1] or q.dtype != torch.float32
