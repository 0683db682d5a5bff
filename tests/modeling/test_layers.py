"""The shared layers against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from i2v.modeling import cpu_attention
from i2v.modeling.cpu_attention import attend, tiled_attention
from i2v.modeling.layers import Attention, Conv2dBN, LayerNorm2d, rotate
from i2v.modeling.memory.prompt_generator import MemoryPromptGenerator
from i2v.modeling.position_encoding import axial_rotation


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
@pytest.mark.parametrize("with_bias", [False, True])
def test_tiled_attention_is_attention(with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_TILE", (16, 7))  # neither divides the lengths
    # Scores of up to 80 and growing along the keys: each tile raises the running maximum.
    q, k, v = 4 * normal(2, 37, 8), 4 * normal(2, 53, 8, seed=1), normal(2, 53, 5, seed=2)
    k = k * torch.linspace(0.2, 2, 53)[:, None]
    bias = normal(2, 53, seed=3) if with_bias else None
    mask = None if bias is None else bias[:, None]
    torch.testing.assert_close(tiled_attention(q, k, v, bias), F.scaled_dot_product_attention(q, k, v, mask))


@torch.inference_mode()
def test_attend_takes_the_tiles_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = normal(1, 1, 64, 8), normal(3, 1, 80, 8), normal(3, 1, 80, 4)
    plain = attend(q, k, v)
    monkeypatch.setattr(cpu_attention, "_TILED_FROM", 1)
    calls = []
    monkeypatch.setattr(cpu_attention, "tiled_attention", lambda *args: calls.append(args) or tiled_attention(*args))
    torch.testing.assert_close(attend(q, k, v), plain)
    assert calls and plain.shape == (3, 1, 64, 4)
    with torch.inference_mode(False), torch.enable_grad():
        attend(q.clone(), k.clone(), v.clone())
    assert len(calls) == 1, "training needs gradients, which the tiles do not have"


def test_rotation_is_relative_and_skips_the_rest() -> None:
    rotation = axial_rotation(16, 4, 6)
    q, k = normal(16), normal(16, seed=1)

    def score(a: int, b: int) -> torch.Tensor:
        rows = rotate(q.expand(24, 16), rotation), rotate(k.expand(24, 16), rotation)
        return rows[0][a] @ rows[1][b]

    # Row-major grid of width 6: the step from 1 to 8 is that from 9 to 16, (1, 1); the step from 1 to 7 is another.
    torch.testing.assert_close(score(1, 8), score(9, 16))
    assert not torch.isclose(score(1, 8), score(1, 7))
    x = normal(2, 3 * 24 + 5, 16)
    out = rotate(x, rotation)
    torch.testing.assert_close(out[:, 24:48], rotate(x[:, 24:48], rotation))
    assert torch.equal(out[:, 72:], x[:, 72:])


def test_values_are_averaged_before_they_are_projected() -> None:
    attention = Attention(32, num_heads=1, kv_in_dim=8)
    q, memory = normal(2, 6, 32), normal(2, 11, 8)
    expected = attention.out_proj(
        F.scaled_dot_product_attention(attention.q_proj(q), attention.k_proj(memory), attention.v_proj(memory))
    )
    torch.testing.assert_close(attention(q, memory, memory), expected)


def test_folded_normalisation_is_normalisation() -> None:
    layer = Conv2dBN(3, 6, 3, padding=1)
    for value in (layer.bn.running_mean, layer.bn.running_var, layer.bn.weight.data, layer.bn.bias.data):
        value.copy_(normal(6, seed=4).abs() + 0.5)
    x = normal(2, 3, 5, 5)
    layer.eval()
    torch.testing.assert_close(layer(x), layer.bn(layer.c(x)))


def test_layer_norm_2d_is_layer_norm_over_channels() -> None:
    norm = LayerNorm2d(6)
    x = normal(2, 6, 3, 4)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)


@torch.inference_mode()
def test_what_is_hidden_does_not_count_in_tiles_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_TILE", (4, 8))  # whole tiles are hidden
    generator = MemoryPromptGenerator(embed_dim=16, memory_channels=4, num_tokens=5, dropout=0.0).eval()
    memory, position = normal(2, 64, 4), normal(2, 64, 4, seed=1)
    foreground = torch.zeros(2, 64, dtype=torch.bool)
    foreground[:, 40:44] = True
    rotation = axial_rotation(16, 8, 8)
    plain = generator(memory, position, foreground, rotation)
    monkeypatch.setattr(cpu_attention, "_TILED_FROM", 1)
    memory[:, :40] = 1e3  # hidden
    torch.testing.assert_close(generator(memory, position, foreground, rotation), plain)
