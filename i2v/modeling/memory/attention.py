"""Memory attention: the features of the current frame attend to the memories (SAM 2, section 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.layers import Attention


class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to the memory, and an MLP with ReLU."""

    def __init__(self, embed_dim: int, memory_channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, num_heads=1, dropout=dropout)
        self.cross_attn_image = Attention(embed_dim, num_heads=1, kv_in_dim=memory_channels, dropout=dropout)
        self.linear1 = nn.Linear(embed_dim, hidden)
        self.linear2 = nn.Linear(hidden, embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)
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
        embed_dim (int): number of channels of the image features.
        memory_channels (int): number of channels of the memories.
        hidden (int): number of channels between the two layers of each MLP.
        num_layers (int): number of layers.
        dropout (float): probability of dropout in training.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        memory_channels: int = 64,
        hidden: int = 512,
        num_layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(embed_dim, memory_channels, hidden, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self,
        features: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        rotation: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Condition the current frame on the memories.

        Args:
            features (Tensor): (B or 1, h*w, embed_dim), the current frame. With a batch of 1 and a memory of B objects, what
                is the same for all objects (up to the first cross-attention) is computed once.
            position (Tensor): (1, h*w, embed_dim) position encoding of the current frame.
            memory (Tensor): (B, S, memory_channels); first the frames, h*w tokens each, then the object pointers.
            memory_position (Tensor): (B, S, memory_channels) position encoding of the memory.
            rotation (Tensor): (h*w, embed_dim / 2, 2) from `axial_rotation`.
            bias (Tensor or None): (B, S) added to the attention's scores, or None.

        Returns:
            (B, h*w, embed_dim).
        """
        keys = memory + memory_position
        x = features + 0.1 * position  # SAM 2 weakens the position encoding by this factor
        for layer in self.layers:
            x = layer(x, keys, memory, rotation, bias)
        return self.norm(x)
