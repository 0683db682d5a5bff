"""The Memory Prompt Generator (SAM-I2V, section 3.4): the object's memory becomes prompt tokens for the mask decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.layers import Attention
from i2v.modeling.position_encoding import axial_rotation

# Added to the score of what must not be seen: the softmax makes it zero. Finite, as the tiled attention needs it.
_HIDDEN = -1e4


class MemoryPromptGenerator(nn.Module):
    """Learned tokens read the foreground of the memories and are handed to the mask decoder like prompts.

    Args:
        embed_dim: of the tokens. memory_channels: of the memories. num_tokens: of memory prompts.
        masked_attention: look at the foreground of the memories only; False looks at all of them (ablation).
    """

    def __init__(
        self,
        embed_dim: int = 256,
        memory_channels: int = 64,
        num_tokens: int = 3,
        hidden: int | None = None,
        masked_attention: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        hidden = hidden or embed_dim
        self.num_tokens = num_tokens
        self.masked_attention = masked_attention
        self.query_embedding_fg = nn.Embedding(num_tokens, embed_dim)
        self.no_memory_prompt_embeddings_fg = nn.Embedding(1, embed_dim)
        self.cross_attn = Attention(embed_dim, num_heads=1, kv_in_dim=memory_channels, dropout=dropout)
        self.self_attn = Attention(embed_dim, num_heads=1, dropout=dropout)
        self.linear1 = nn.Linear(embed_dim, hidden)
        self.linear2 = nn.Linear(hidden, embed_dim)
        self.norm_fg_ca = nn.LayerNorm(embed_dim)
        self.norm_fg_sa = nn.LayerNorm(embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def no_memory(self, batch_size: int) -> Tensor:
        """The tokens where there is no memory: (batch_size, num_tokens, embed_dim)."""
        return self.no_memory_prompt_embeddings_fg.weight.expand(batch_size, self.num_tokens, -1)

    def forward(
        self, memory: Tensor, memory_position: Tensor, foreground: Tensor, rotation: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            memory, memory_position: (B, S, memory_channels); frames first, each h*w tokens, then object pointers.
            foreground: (B, S) bool, where the object is in the memories; true for pointers.
            rotation: (h*w, embed_dim / 2, 2) from `axial_rotation`, for the memories.
            bias: (B, S) added to the attention's scores, or None.

        Returns:
            (B, num_tokens, embed_dim) memory prompts.
        """
        if self.masked_attention:
            # An object that was nowhere yet and has no pointer leaves nothing to look at: then everything is looked at.
            hidden = ~foreground & foreground.any(dim=1, keepdim=True)
            bias = (memory.new_zeros(hidden.shape) if bias is None else bias).masked_fill(hidden, _HIDDEN)
        tokens = self.query_embedding_fg.weight.expand(memory.shape[0], -1, -1)
        own_rotation = axial_rotation(tokens.shape[-1], 1, self.num_tokens, tokens.device)
        x = tokens + self.dropout(
            self.cross_attn(
                self.norm_fg_ca(tokens),
                memory + memory_position,
                memory,
                q_rotation=own_rotation,
                k_rotation=rotation,
                bias=bias,
            )
        )
        y = self.norm_fg_sa(x)
        x = x + self.dropout(self.self_attn(y, y, y, q_rotation=own_rotation, k_rotation=own_rotation))
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm1(x))))))
