"""The two-way transformer of SAM's mask decoder: tokens and image attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from i2v.modeling.layers import MLP, Attention


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of the tokens, attention from tokens to image, an MLP, and attention from image to tokens."""

    def __init__(self, embed_dim: int, num_heads: int, hidden: int, downsample_rate: int, skip_first_layer_pe: bool) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, num_heads)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn_token_to_image = Attention(embed_dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, hidden, embed_dim, num_layers=2)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.norm4 = nn.LayerNorm(embed_dim)
        self.cross_attn_image_to_token = Attention(embed_dim, num_heads, downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        if self.skip_first_layer_pe:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(keys, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """The transformer of SAM's mask decoder (Segment Anything, appendix A).

    Args:
        depth (int): number of blocks.
        embed_dim (int): number of channels of tokens and image.
        num_heads (int): number of attention heads.
        hidden (int): number of channels between the two layers of each MLP.
        downsample_rate (int): cross-attention works on embed_dim / downsample_rate channels.
    """

    def __init__(
        self, depth: int = 2, embed_dim: int = 256, num_heads: int = 8, hidden: int = 2048, downsample_rate: int = 2
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(embed_dim, num_heads, hidden, downsample_rate, skip_first_layer_pe=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embed_dim, num_heads, downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and image attend to each other.

        Args:
            image (Tensor): (B, h*w, C) features.
            image_pe (Tensor): (1, h*w, C) their position encoding.
            tokens (Tensor): (B, N, C) tokens, which are their own position encoding.

        Returns:
            Tokens (B, N, C) and image (B, h*w, C).
        """
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
