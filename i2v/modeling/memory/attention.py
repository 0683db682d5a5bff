"""Memory attention: the features of the current frame look at the memories (SAM 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.layers import Attention


class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to the memory, and a perceptron with ReLU."""

    def __init__(self, width: int, memory_channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, num_heads=1, dropout=dropout)
        self.cross_attn_image = Attention(width, num_heads=1, kv_in_dim=memory_channels, dropout=dropout)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, rotation: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, q_rotation=rotation, k_rotation=rotation))
        y = self.cross_attn_image(self.norm2(x), keys, values, q_rotation=rotation, k_rotation=rotation, bias=bias)
        x = x + self.dropout(y)
        y = self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x)))))
        return x + self.dropout(y)


class MemoryAttention(nn.Module):
    """A stack of memory attention layers.

    Args:
        width: of the image features. memory_channels: of the memories. hidden: of the perceptrons.
    """

    def __init__(
        self,
        width: int = 256,
        memory_channels: int = 64,
        hidden: int = 512,
        num_layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(width, memory_channels, hidden, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        features: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        rotation: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            features, position: (B, h*w, width), the current frame and its position encoding. A batch of 1 with a memory of
                B objects is computed once as far as it is the same for all (up to the first cross-attention).
            memory, memory_position: (B, S, memory_channels); frames first, each h*w tokens, then object pointers.
            rotation: (h*w, width / 2, 2) from `axial_rotation`.
            bias: (B, S) added to the attention's scores, or None.

        Returns:
            (B, h*w, width).
        """
        keys = memory + memory_position
        x = features + 0.1 * position
        for layer in self.layers:
            x = layer(x, keys, memory, rotation, bias)
        return self.norm(x)
