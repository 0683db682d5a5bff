"""TinyViT in training."""

from __future__ import annotations

import torch

from i2v.modeling.backbones.tiny_vit import TinyViT


def test_activation_checkpointing_changes_neither_gradients_nor_running_statistics() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    trunks = []
    for checkpointing in (False, True):
        settings = {
            "embed_dims": (8, 8, 16, 16),
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
            "window_sizes": (3, 3, 3, 3),
        }
        trunk = TinyViT(16, **settings, activation_checkpointing=checkpointing)
        trunk.load_state_dict(trunks[0][1] if trunks else trunk.state_dict())
        before = {name: value.clone() for name, value in trunk.state_dict().items()}
        trunk.train()(images)[-1].square().mean().backward()
        trunks.append((trunk, before))
    (plain, before), (checkpointed, _) = trunks
    for name, value in plain.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(checkpointed.state_dict()[name], value, msg=name)
            assert not torch.equal(value, before[name])
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, msg=name)
