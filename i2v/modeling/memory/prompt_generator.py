"""The Memory Prompt Generator (SAM-I2V, section 3.4): the object's memory becomes prompt tokens for the mask decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from i2v.modeling.layers import Attention
from i2v.modeling.position_encoding import axial_rotation

# Added to the scores of masked tokens, whose weights become zero in the softmax. Finite, as `attend` requires.
_MASKED_SCORE = -1e4


class MemoryPromptGenerator(nn.Module):
    """Learned tokens attend to the foreground of the memories and become prompts of the mask decoder.

    Args:
        embed_dim (int): number of channels of the tokens.
        memory_channels (int): number of channels of the memories.
        num_tokens (int): number of memory prompts.
        masked_attention (bool): attend to the foreground of the memories only; False attends to all of them (ablation).
        dropout (float): probability of dropout in training.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        memory_channels: int = 64,
        num_tokens: int = 3,
        masked_attention: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.masked_attention = masked_attention
        self.query_embedding_fg = nn.Embedding(num_tokens, embed_dim)
        self.no_memory_prompt_embeddings_fg = nn.Embedding(1, embed_dim)
        self.cross_attn = Attention(embed_dim, num_heads=1, kv_in_dim=memory_channels, dropout=dropout)
        self.self_attn = Attention(embed_dim, num_heads=1, dropout=dropout)
        self.linear1 = nn.Linear(embed_dim, embed_dim)
        self.linear2 = nn.Linear(embed_dim, embed_dim)
        self.norm_fg_ca = nn.LayerNorm(embed_dim)
        self.norm_fg_sa = nn.LayerNorm(embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        # A constant, which published checkpoints do not have.
        self.rotation: Tensor
        self.register_buffer("rotation", axial_rotation(embed_dim, 1, num_tokens), persistent=False)

    def no_memory(self, batch_size: int) -> Tensor:
        """Return the tokens of objects without a memory, (batch_size, num_tokens, embed_dim)."""
        return self.no_memory_prompt_embeddings_fg.weight.expand(batch_size, self.num_tokens, -1)

    def forward(
        self, memory: Tensor, memory_position: Tensor, foreground: Tensor, rotation: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Generate the memory prompts of B objects.

        Args:
            memory (Tensor): (B, S, memory_channels); first the frames, h*w tokens each, then the object pointers.
            memory_position (Tensor): (B, S, memory_channels) position encoding of the memory.
            foreground (Tensor): (B, S) bool, true where the object is in a memory, and for pointers.
            rotation (Tensor): (h*w, embed_dim / 2, 2) from `axial_rotation`, for the memories.
            bias (Tensor or None): (B, S) added to the attention's scores, or None.

        Returns:
            (B, num_tokens, embed_dim) memory prompts.
        """
        if self.masked_attention:
            # Without any foreground there is nothing to attend to; then nothing is masked.
            masked = ~foreground & foreground.any(dim=1, keepdim=True)
            bias = (memory.new_zeros(masked.shape) if bias is None else bias).masked_fill(masked, _MASKED_SCORE)
        tokens = self.query_embedding_fg.weight.expand(memory.shape[0], -1, -1)
        x = tokens + self.dropout(
            self.cross_attn(
                self.norm_fg_ca(tokens),
                memory + memory_position,
                memory,
                q_rotation=self.rotation,
                k_rotation=rotation,
                bias=bias,
            )
        )
        y = self.norm_fg_sa(x)
        x = x + self.dropout(self.self_attn(y, y, y, q_rotation=self.rotation, k_rotation=self.rotation))
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm1(x))))))
