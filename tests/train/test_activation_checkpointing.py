"""Activation checkpointing, applied from outside of the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from i2v.modeling.sam_i2v import SAMI2V
from tests.train.helpers import same
from tests.train.test_losses import disc, make_prediction
from tests.train.test_rollout import gradients_of
from train.losses import ClipLoss
from train.model.activation_checkpointing import original_name, recompute_activations
from train.model.rollout import ClipRollout, PromptPlan, PromptSampling
from train.trainer import Trainer

NAMES = ["image_encoder.trunk_image.*blocks.*", "TemporalNet", "memory_attention.layers.*", "decode", "remember"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "click"])
def test_gradients_names_and_running_statistics_stay(make_model: Callable[..., SAMI2V], kind: str) -> None:
    plan = PromptPlan({0: kind}, {0: 2, 2: 2} if kind == "click" else {})
    rollouts = [ClipRollout(make_model(), PromptSampling(correction_clicks=2)).train() for _ in range(2)]
    state = {name: value.clone() for name, value in rollouts[0].model.state_dict().items()}
    recompute_activations(rollouts[1], ClipLoss(), NAMES)
    wrapped = [name for name, _ in rollouts[1].model.named_modules() if name.endswith("_checkpoint_wrapped_module")]
    assert len(wrapped) > 6
    assert not any(name.count("_checkpoint_wrapped_module") > 1 for name in wrapped)
    plain, recomputed = (gradients_of(rollout, plan) for rollout in rollouts)
    recomputed = {original_name(name): gradient for name, gradient in recomputed.items()}
    assert list(plain) == list(recomputed)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, recomputed[name], rtol=1e-3, atol=1e-4 * gradient.abs().max().item()), name
    ours, theirs = (rollout.model.state_dict() for rollout in rollouts)
    assert list(ours) == list(theirs) == list(state)
    assert same(dict(ours), dict(theirs))
    changed = {name.rpartition(".")[2] for name, value in theirs.items() if not torch.equal(value, state[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    rollouts[1].model.load_state_dict(state)
    assert same(dict(rollouts[1].model.state_dict()), state)


@pytest.mark.slow
def test_wrapped_blocks_are_really_computed_twice(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling()).train()
    calls = dict.fromkeys(("MBConv", "TemporalNet", "Fuse"), 0)

    def count(module: nn.Module, *_: object) -> None:
        calls[type(module).__name__] += 1

    for module in rollout.modules():
        if type(module).__name__ in calls:
            module.register_forward_pre_hook(count)
    gradients_of(rollout, PromptPlan({0: "mask"}))
    once = dict(calls)
    recompute_activations(rollout, ClipLoss(), ["MBConv", "TemporalNet"])
    gradients_of(rollout, PromptPlan({0: "mask"}))
    counts = {name: calls[name] / once[name] for name in calls}
    assert counts == {"MBConv": 3, "TemporalNet": 3, "Fuse": 2}


@pytest.mark.slow
def test_loss_of_a_recomputed_prediction_stays(make_model: Callable[..., SAMI2V]) -> None:
    masks = torch.stack([disc(32, 10, 10, 6), disc(32, 20, 15, 8)]).unsqueeze(1)
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    gradients, values = [], []
    for names in ([], ["PredictionLoss"]):
        leaf = logits.clone().requires_grad_()
        loss = ClipLoss()
        recompute_activations(ClipRollout(make_model(), PromptSampling()), loss, names)
        total = loss([[make_prediction(leaf, torch.rand(2, 3).sigmoid() * 0, torch.ones(2, 1))]], masks, 2)["total"]
        total.backward()
        gradients.append(leaf.grad)
        values.append(total.detach())
    assert torch.equal(*gradients)
    assert torch.equal(*values)
    assert gradients[0].abs().sum() > 0


@pytest.mark.slow
def test_any_module_with_batch_normalisation_can_be_recomputed(make_model: Callable[..., SAMI2V]) -> None:
    """A trunk needs no code for it. Statistics of every kind are those of one pass, bit for bit."""
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4).eval())
    model = make_model()
    model.image_encoder.trunk_image = nn.Module()
    model.image_encoder.trunk_image.stage = trunk
    state = {name: value.clone() for name, value in trunk.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    trunk(images).square().sum().backward()
    expected = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.load_state_dict(state)
    recompute_activations(ClipRollout(model, PromptSampling()), None, ["image_encoder.trunk_image.stage"])
    wrapped = model.image_encoder.trunk_image.stage
    assert wrapped is not trunk
    wrapped(images).square().sum().backward()
    assert same(dict(wrapped.state_dict()), expected)


@pytest.mark.slow
def test_unknown_names_are_errors(make_model: Callable[..., SAMI2V]) -> None:
    rollout = ClipRollout(make_model(), PromptSampling())
    for name, near in (("TinyVitBlock", "TinyViTBlock"), ("memory_encodr", "memory_encoder"), ("decoder", "decode")):
        with pytest.raises(ValueError, match=f"{name!r} is neither a module.*did you mean {near}?"):
            recompute_activations(rollout, ClipLoss(), [name])


@pytest.mark.slow
def test_checkpoints_fit_a_training_without_it(make_trainer: Callable[..., Trainer]) -> None:
    """Also those of its optimizer and averaged weights: a run is stopped, and resumed with other settings."""
    names = f"+activation_checkpointing=[{','.join([*NAMES, 'PredictionLoss'])}]"
    settings = ("trainer.average_decay=0.9", "trainer.epochs=1", "data.steps_per_epoch=2")
    plain = make_trainer(*settings)
    assert plain.run() is None
    recomputing = make_trainer(*settings, "trainer.epochs=2", names)
    assert recomputing.step == 2
    assert recomputing.run() is None
    resumed = make_trainer(*settings, "trainer.epochs=3")
    assert resumed.step == 4
    assert list(resumed.model.state_dict()) == list(recomputing.model.state_dict())
