"""A predictor from a folder with config and weights, or from a Hugging Face repository with the same files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from i2v.build_i2v import build_i2v_video_predictor
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.load_config import load_config
from i2v.utils.checkpoints import save_checkpoint
from i2v.utils.command_line import make_output_folder, one_line
from i2v.utils.files import atomic_write

CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.pt"
_WEIGHTS = (".pt", ".pth")
_REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.pt)(?<!\.pth)(?<!\.yaml)")


def from_pretrained(source: str | os.PathLike[str], **options: Any) -> I2VVideoPredictor:
    """Build a predictor from an exported model (`write_pretrained`, tools/export_checkpoint.py --config).

    The config is not trusted: it may only build this project's network.

    Args:
        source (str or os.PathLike[str]): a folder with config.yaml and one weights file (.pt or .pth, or the one that the
            config names as "checkpoint"); the weights file, with config.yaml beside it; or the name of a Hugging Face
            repository (USER/NAME) with the same files, which needs the package huggingface_hub.
        options: device, mode, hydra_overrides_extra or apply_postprocessing of `i2v.build_i2v.build_i2v_video_predictor`.

    Raises:
        FileNotFoundError: no such folder, file or repository, or it lacks one of the files.
        ImportError: `source` is a repository, and huggingface_hub is not installed.
        ValueError: several weights files; or see `build_i2v_video_predictor`.
    """
    path = Path(source)
    if not path.exists() and _REPOSITORY.fullmatch(str(source)):
        path = _download(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{str(source)!r} is not a folder, a file or the name of a repository (USER/NAME)")
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG_NAME}: write both with tools/export_checkpoint.py --config")
    return build_i2v_video_predictor(config, _weights(folder) if path.is_dir() else path, trusted=False, **options)


def write_pretrained(folder: Path, weights: dict[str, Any], config: str | Path, overrides: Sequence[str] = ()) -> None:
    """Export a model for `from_pretrained`.

    Args:
        folder (Path): folder to write to; created if necessary.
        weights (dict[str, Any]): the network's weights by name.
        config (str or Path): name or path of the config, see `i2v.load_config.load_config`.
        overrides (Sequence[str]): overrides of the config.

    Raises:
        ValueError: see `load_config`.
        OSError: a file cannot be written.
    """
    composed = OmegaConf.to_container(load_config(config, overrides), resolve=True)
    assert isinstance(composed, dict)  # configs are mappings
    parts = {name: composed[name] for name in ("model", "predictor") if name in composed}
    make_output_folder(folder)
    save_checkpoint(folder / WEIGHTS_NAME, {"model": weights})
    with atomic_write(folder / CONFIG_NAME) as temporary:
        OmegaConf.save(OmegaConf.create({"checkpoint": WEIGHTS_NAME, **parts}), temporary)


def _download(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{repository!r} is not a folder or file here; to download it from Hugging Face: pip install huggingface_hub"
        ) from error
    patterns = [CONFIG_NAME, *(f"*{suffix}" for suffix in _WEIGHTS)]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # no such repository, a private one, or no network
        raise FileNotFoundError(f"cannot download {repository!r} from Hugging Face: {one_line(error)}") from error


def _weights(folder: Path) -> Path:
    """The weights file of a folder."""
    named = load_config(folder / CONFIG_NAME, trusted=False).get("checkpoint")
    if named is not None:
        return folder / named
    found = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    if not found:
        raise FileNotFoundError(f"{folder} has no weights: no file ends in {' or '.join(_WEIGHTS)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several weights files ({names}): give the path of one of them")
    return found[0]
