"""Reading and writing weights."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2v.utils.files import atomic_write, require_regular_file
from i2v.utils.messages import shortened
from i2v.utils.published_checkpoints import advice, resemblance
from i2v.utils.torch_files import BombError, check_torch_file

# Prefixes of names in a segment-anything style checkpoint, and in this project.
_ENCODER_PREFIX = "image_encoder."
_TRUNK_PREFIX = f"{_ENCODER_PREFIX}trunk_image."
_IMAGE_SEGMENTER_PREFIXES = {
    _ENCODER_PREFIX: _TRUNK_PREFIX,
    "prompt_encoder.": "sam_prompt_encoder.",
    "mask_decoder.": "sam_mask_decoder.",
}
# In this order, because the later checks assume that the earlier ones do not apply.
_FLAWS: dict[str, Callable[[Tensor], bool]] = {
    "is quantized": lambda value: value.is_quantized,
    "is sparse": lambda value: value.layout != torch.strided,
    "is nested": lambda value: value.is_nested,
    "is of complex numbers": lambda value: value.is_complex(),
    "has no numbers (device meta)": lambda value: value.is_meta,
    # A view can claim to have billions of elements.
    "has fewer numbers than elements": lambda value: value.untyped_storage().nbytes() < value.numel() * value.element_size(),
    # Checked as float32, in which weights are used, and in which numbers of wider types may be infinite.
    "contains NaN or infinity": lambda value: value.is_floating_point() and not bool(value.float().isfinite().all()),
}
# Errors of torch.load for damaged files.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError, OverflowError),
    *(MemoryError, struct.error, zipfile.BadZipFile),
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file of `torch.save` without running code in it.

    Args:
        path (str or Path): the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a regular file, is truncated or not a checkpoint, does not contain a dictionary, contains code
            (which is not run), or would unpack to far more than its size.
    """
    if not str(path):
        raise FileNotFoundError("no such checkpoint: its name is empty")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}{advice(path)}")
    require_regular_file(path)
    try:
        check_torch_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it is not a checkpoint of plain tensors. A file with other Python objects can run code when "
            "it is loaded; ask its author for the weights alone"
        ) from error
    except BombError as error:
        raise ValueError(f"{path} was refused: it {error}. Ask its author for a torch.save file of the weights") from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a readable checkpoint: {_why_unreadable(path, error)}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} contains a {type(checkpoint).__name__}, not a dictionary of weights")
    return checkpoint


def _why_unreadable(path: Path, error: BaseException) -> str:
    """What helps a user; most messages of PyTorch and Python are about internals of the format.

    Args:
        path (Path): the file.
        error (BaseException): the error of loading it.
    """
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "there is not enough memory for it"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    with path.open("rb") as file:
        start = file.read(40)
    if start and start.isascii() and all(byte >= ord(" ") or byte in b"\t\r\n" for byte in start):
        return f"it is a text that begins with {start.decode()!r}, such as the page of a download; get the file itself"
    return f"it has {path.stat().st_size:,} bytes, and is truncated, damaged or of another format; download or save it again"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a checkpoint, under the key "model" or at the top level, as float32 (int64 for counters).

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    weights = checkpoint.get("model", checkpoint)
    return {
        name: value.float() if value.is_floating_point() else value for name, value in checked_weights(weights, path).items()
    }


def checked_weights(weights: Any, path: str | Path) -> dict[str, Tensor]:
    """Check that the weights in a file are usable.

    Args:
        weights: the content of the file.
        path (str or Path): the file, for messages.

    Returns:
        The weights, unchanged.

    Raises:
        ValueError: they are not a dictionary of tensors by name, or a tensor is not plain (but sparse, quantized, complex or
            without data), contains NaN or infinity, or holds a negative variance. The message names the file and the parameter.
    """
    if not isinstance(weights, dict):
        raise ValueError(f"{path} contains a {type(weights).__name__}, not a dictionary of weights")
    if not weights:
        raise ValueError(f"{path} contains no weights: the dictionary is empty")
    for name, value in weights.items():
        if not isinstance(name, str):
            raise ValueError(
                f"{path} does not contain a dictionary of weights: the name {shortened(repr(name))} in it is not text"
            )
        shown = shortened(name)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path} does not contain a dictionary of weights, neither at the top level nor under the key 'model': "
                f"{shown!r} is a {type(value).__name__}, not a tensor"
            )
        if flaw := _flaw(value):
            raise ValueError(f"{path}: the tensor {shown} {flaw}; it must be plain, with finite real numbers")
        if name.endswith("running_var") and bool((value.float() < 0).any()):  # its root is NaN
            raise ValueError(f"{path}: the tensor {shown} has negative values, but contains variances")
    return weights


def _flaw(value: Tensor) -> str | None:
    """The reason why a tensor is unusable, or None."""
    return next((flaw for flaw, applies in _FLAWS.items() if applies(value)), None)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of exactly this model.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; or names, shapes or types differ.
    """
    weights = read_weights(path)
    own = model.state_dict()
    likeness = resemblance(_below(_ENCODER_PREFIX, weights), _below(_ENCODER_PREFIX, own))
    check_names(own, weights, f"{path} is not a checkpoint of this config's model{likeness}")
    model.load_state_dict(weights, strict=True)


def load_image_segmenter(model: nn.Module, path: str | Path) -> None:
    """Initialise trunk, prompt encoder and mask decoder from the published checkpoint of an image segmenter.

    The rest is unchanged. The checkpoint is that of TinySAM, MobileSAM, EdgeSAM, SlimSAM or SAM-Base, depending on the trunk.

    Args:
        model (nn.Module): the network: a `SAMI2V`, or an `ImageSegmenter`, whose parts have the same names.
        path (str or Path): the checkpoint.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; or names are unknown, missing or of another shape. If the
            checkpoint looks like that of another image segmenter, the message says which.
    """
    weights = {}
    for name, value in read_weights(path).items():
        if name.startswith("mask_decoder."):
            name = name.replace("mlp.lin1.", "mlp.layers.0.").replace("mlp.lin2.", "mlp.layers.1.")
        for prefix, target in _IMAGE_SEGMENTER_PREFIXES.items():
            if name.startswith(prefix):
                name = target + name.removeprefix(prefix)
                break
        weights[name] = value
    own = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(tuple(_IMAGE_SEGMENTER_PREFIXES.values()))
        # SAM 2 added the object score to the decoder; image segmenters have none.
        and "obj_score" not in name
    }
    likeness = resemblance(_below(_TRUNK_PREFIX, weights), _below(_TRUNK_PREFIX, own))
    check_names(own, weights, f"{path} is not a checkpoint of this model's image segmenter{likeness}")
    model.load_state_dict(weights, strict=False)


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def load_matching_weights(model: nn.Module, path: str | Path, prefixes: Sequence[str] = ("",)) -> None:
    """Load the weights that a checkpoint of a variant of this model has in common with it; the rest is unchanged.

    Args:
        model (nn.Module): the network.
        path (str or Path): the checkpoint.
        prefixes (Sequence[str]): load only parameters and buffers whose names start with one of these.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; or `prefixes` is not a list or empty, nothing matches one of them,
            or a name has another shape.
    """
    if isinstance(prefixes, str) or not prefixes:
        raise ValueError(f"prefixes must be a list of prefixes of names, not {prefixes!r}")
    own = model.state_dict()
    stored = {name: value for name, value in read_weights(path).items() if name in own}
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in stored):
            which = f" whose names begin with {prefix}" if prefix else ""
            raise ValueError(f"{path} contains no weights of this model{which}")
    weights = {name: value for name, value in stored.items() if name.startswith(tuple(prefixes))}
    check_names({name: own[name] for name in weights}, weights, f"{path} is not a checkpoint of a variant of this model")
    model.load_state_dict(weights, strict=False)


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: the file is never incomplete.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save(dict(checkpoint), temporary)
        except RuntimeError as error:  # PyTorch's writer raises it on a full disk
            previous = "; the previous one is untouched" if Path(path).exists() else ""
            raise OSError(f"cannot write {path}{previous}. Is the disk full, or the size of files limited?") from error


def check_names(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], message: str) -> None:
    """Raise a ValueError that lists the names, shapes or kinds of numbers that differ; their precision may differ."""
    differences = {
        "missing": [name for name in expected if name not in given],
        "unknown": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
            for name, value in expected.items()
            if name in given and given[name].shape != value.shape
        ],
        "of another type": [
            f"{name} {given[name].dtype} instead of {value.dtype}"
            for name, value in expected.items()
            if name in given and _kind(given[name]) != _kind(value)
        ],
    }
    found = [
        f"{len(names)} {kind}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for kind, names in differences.items()
        if names
    ]
    if found:
        raise ValueError(shortened(f"{message}; {'; '.join(found)}"))


def _kind(value: Tensor) -> str:
    """Kind of a tensor's numbers, regardless of their precision."""
    if value.dtype == torch.bool:
        return "booleans"
    return "real numbers" if value.is_floating_point() else "integers"
