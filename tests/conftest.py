"""What all tests share: a tiny predictor with the same weights everywhere, a tiny video, and the fixtures of ../shared."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

# Threads that wait for work sleep instead of spinning: a tiny network on a shared machine is thirty times slower otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2v import I2VVideoPredictor, build_i2v_video_predictor
from i2v.modeling.sam_i2v import SAMI2V, MaskPrediction

# Python ignores Ctrl-C where its parent does, as in the background of a script, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

PROJECT = Path(__file__).parents[1]
TINY_CONFIG = PROJECT / "tests" / "configs" / "tiny.yaml"
# The bias of the object score: large enough that objects count as present, or untrained weights would make empty masks.
_PRESENT = 6.0
# Where masks come back as memory. Damped, or an untrained network lets rounding errors grow from frame to frame.
_FEEDBACK = (".cross_attn_image.out_proj.weight", "memory_prompt_generator.cross_attn.out_proj.weight")


def fixed_weight(name: str, value: torch.Tensor) -> torch.Tensor:
    """A value for a parameter or buffer that depends on its name and shape only."""
    if not value.is_floating_point():
        return value
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        noise = noise * 0 + _PRESENT
    elif name.endswith("running_var"):
        noise = 1 + 0.1 * np.abs(noise)
    elif name.endswith(("bias", "attention_biases", "running_mean")):
        noise = 0.02 * noise
    elif name.endswith("gamma"):
        noise = 0.3 * noise
    elif value.ndim == 1:  # the scale of a normalisation
        noise = 1 + 0.1 * noise
    elif value.ndim > 2 or min(value.shape) > 4:  # matrices and kernels; what is left are embeddings
        noise = noise / np.sqrt(np.prod(value.shape[1:])) * (0.3 if name.endswith(_FEEDBACK) else 1)
    return torch.as_tensor(noise, dtype=value.dtype)


# Small versions of the trunks for tests/configs/tiny.yaml: keys of its TinyViT that they lack, and values.
_SMALL_TRUNKS = {
    "vit_base": (
        ("embed_dims", "depths", "window_sizes"),
        {
            "trunk_image.embed_dim": 16,
            "trunk_image.mlp_dim": 24,
            "trunk_image.depth": 4,
            "trunk_image.num_heads": 2,
            "trunk_image.window_size": 3,
            "trunk_image.global_blocks": [0, 1, 3],
            "trunk_image.image_size": 96,
            "levels": [0, 1, 3],
            "trunk_video.in_channels": [16, 16, 32],
        },
    ),
    "rep_vit": (
        ("num_heads", "window_sizes"),
        {
            "trunk_image.embed_dims": [8, 8, 16, 24],
            "trunk_image.depths": [2, 1, 2, 1],
            "trunk_video.in_channels": [16, 24, 32],
        },
    ),
}


def small_trunk(name: str, *removed: str) -> list[str]:
    """Overrides that put a small version of a trunk into the tiny model.

    Args:
        name (str): name of the trunk's config.
        removed (str): keys of the trunk in a config built on tests/configs/tiny.yaml that this trunk lacks.
    """
    lacking, values = _SMALL_TRUNKS[name]
    return [
        f"model/trunk={name}",
        *(f"~model.image_encoder.trunk_image.{key}" for key in (*lacking, *removed)),
        *(f"model.image_encoder.{key}={value}".replace(" ", "") for key, value in values.items()),
    ]


def examples_of_extending() -> dict[str, str]:
    """The files on the page docs/extending.md by name."""
    page = (PROJECT / "docs" / "extending.md").read_text()
    return dict(re.findall(r"^`([\w./-]+)`\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


@contextmanager
def recorded_ious() -> Iterator[list[torch.Tensor]]:
    """A list of the predicted IoUs (M,) of the first object in each prediction; a mask prompt makes two, the last its own."""
    ious = []

    def recorded(method: Callable[..., MaskPrediction]) -> Callable[..., MaskPrediction]:
        def call(*arguments, **options):
            prediction = method(*arguments, **options)
            ious.append(prediction.ious[0].float())
            return prediction

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("decode", "use_mask"):
            patch.setattr(SAMI2V, name, recorded(getattr(SAMI2V, name)))
        yield ious


@pytest.fixture
def load_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports tools/NAME.py."""
    monkeypatch.syspath_prepend(PROJECT / "tools")
    return importlib.import_module


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_predictor: I2VVideoPredictor) -> Path:
    """The weights of `tiny_predictor`."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny weights.pt"
    torch.save({"model": tiny_predictor.model.state_dict()}, path)
    return path


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs `sbatch` and `srun` that do nothing but keep what is submitted, one script after another; returns the file."""
    programs, submitted = tmp_path / "bin", tmp_path / "submitted.sh"
    programs.mkdir()
    for name, content in {
        "sbatch": f'cat "$1" >> {submitted}; echo "Submitted batch job $((16 + $(grep -c ^#!/ {submitted})))"',
        "srun": "true",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{content}\n")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return submitted


@pytest.fixture
def outcome(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Calls the `main` of a command line with arguments: returns its status, and what it says on stderr."""

    def run(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
        caplog.clear()
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            status = stopped.code
        return status, "\n".join([*caplog.messages, capsys.readouterr().err])

    return run


def seeded_predictor(*overrides: str, apply_postprocessing: bool = True, config: Path = TINY_CONFIG) -> I2VVideoPredictor:
    """A new predictor of tests/configs/tiny.yaml, or another config, on the CPU, always with the same weights."""
    with torch.random.fork_rng(devices=[]):  # building draws initial weights
        predictor = build_i2v_video_predictor(
            config, device="cpu", hydra_overrides_extra=overrides, apply_postprocessing=apply_postprocessing
        )
    state = predictor.model.state_dict()
    predictor.model.load_state_dict({name: fixed_weight(name, value) for name, value in state.items()})
    return predictor


@pytest.fixture(scope="session")
def make_tiny_predictor() -> Callable[..., I2VVideoPredictor]:
    """The function `seeded_predictor`."""
    return seeded_predictor


@pytest.fixture(scope="session")
def tiny_predictor(make_tiny_predictor: Callable[..., I2VVideoPredictor]) -> I2VVideoPredictor:
    """One predictor for all tests that do not change it."""
    return make_tiny_predictor()


def moving_disc(num_frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright disc that crosses a noisy background to the right: (T, H, W, 3) uint8 RGB."""
    video = np.random.RandomState(0).randint(0, 60, (num_frames, height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    for t, frame in enumerate(video):
        centre = width * (0.25 + 0.5 * t / num_frames)
        frame[(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2] = (230, 180, 40)
    return video


@pytest.fixture(scope="session")
def tiny_video() -> np.ndarray:
    """12 frames of 64x48 pixels with a moving disc, (T, H, W, 3) uint8 RGB; read-only."""
    video = moving_disc()
    video.setflags(write=False)
    return video


@pytest.fixture(scope="session")
def png_folder(tiny_video: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny video as a folder of PNG frames; tests that damage it copy it first."""
    folder = tmp_path_factory.mktemp("png")
    for i, frame in enumerate(tiny_video):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture
def broken_folder(png_folder: Path, tmp_path: Path) -> Path:
    """A copy of the PNG folder; frame 6 has a good header and a good end, so that only decoding shows that it is broken."""
    folder = shutil.copytree(png_folder, tmp_path / "broken")
    data = (folder / "00006.png").read_bytes()
    middle = len(data) // 2
    (folder / "00006.png").write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    return folder


@pytest.fixture(scope="session")
def make_video() -> Callable[[Path, np.ndarray], Path]:
    """A function: path, frames (T, H, W, 3) RGB -> the path of a video file. AVI is motion JPEG, all else VP9."""

    def make(path: Path, frames: np.ndarray) -> Path:
        codec = cv2.VideoWriter_fourcc(*("MJPG" if path.suffix == ".avi" else "vp09"))
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 10, frames.shape[2:0:-1])
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return path

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared with fixtures and data."""
    path = PROJECT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs the fixtures of {path}, which is not here")
    return path
