"""A predictor from a folder with config and weights, or from a repository of Hugging Face that has them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from i2v.build_i2v import build_i2v_video_predictor, load_config
from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.utils.checkpoints import save_checkpoint
from i2v.utils.command_line import make_output_folder, one_line
from i2v.utils.files import atomic_write

CONFIG_NAME, WEIGHTS_NAME = "config.yaml", "model.pt"
_WEIGHTS = (".pt", ".pth")
_REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+(?<!\.pt)(?<!\.pth)(?<!\.yaml)")


def from_pretrained(source: str | os.PathLike[str], **options: Any) -> I2VVideoPredictor:
    """Build a predictor from what somebody exported (`write_pretrained`, tools/export_checkpoint.py --config).

    The config is not trusted: it may build this project's network and nothing else.

    Args:
        source: a folder with config.yaml and one file of weights (.pt or .pth; or the one that the config names as
            "checkpoint"); the file of weights, with config.yaml beside it; or the name of a repository of Hugging Face
            (USER/NAME) with the same files, for which the package huggingface_hub must be installed.
        options: see `i2v.build_i2v.build_i2v_video_predictor`: device, mode, hydra_overrides_extra, apply_postprocessing.

    Raises:
        FileNotFoundError: there is no such folder, file or repository, or it lacks one of the files.
        ImportError: a repository, and huggingface_hub is not installed.
        ValueError: several files of weights; or see `build_i2v_video_predictor`.
    """
    path = Path(source)
    if not path.exists() and _REPOSITORY.fullmatch(str(source)):
        path = _download(str(source))
    if not path.exists():
        raise FileNotFoundError(f"{str(source)!r} is no folder, no file, and no name of a repository (USER/NAME)")
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG_NAME}: write both with tools/export_checkpoint.py --config")
    return build_i2v_video_predictor(config, _weights(folder) if path.is_dir() else path, trusted=False, **options)


def write_pretrained(folder: Path, weights: dict[str, Any], config: str | Path, overrides: Sequence[str] = ()) -> None:
    """Write what `from_pretrained` reads.

    Args:
        folder: is made if it is not there.
        weights: of the network, by name.
        config: see `i2v.build_i2v.load_config`.
        overrides: of the config, see there.

    Raises:
        ValueError: see `load_config`.
        OSError: a file cannot be written.
    """
    composed = OmegaConf.to_container(load_config(config, overrides), resolve=True)
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
            f"{repository!r} is no folder or file here; to get it from Hugging Face: pip install huggingface_hub"
        ) from error
    patterns = [CONFIG_NAME, *(f"*{suffix}" for suffix in _WEIGHTS)]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:  # there is no such repository, it is not public, or there is no network
        raise FileNotFoundError(f"cannot get {repository!r} from Hugging Face: {one_line(error)}") from error


def _weights(folder: Path) -> Path:
    """The file of weights in a folder."""
    named = load_config(folder / CONFIG_NAME, trusted=False).get("checkpoint")
    if named is not None:
        return folder / named
    found = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    if not found:
        raise FileNotFoundError(f"{folder} has no weights: no file in it ends in {' or '.join(_WEIGHTS)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several files of weights ({names}): give the path of one of them")
    return found[0]
