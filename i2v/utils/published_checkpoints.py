"""Where the published checkpoints are, which are not in this repository."""

from __future__ import annotations

from pathlib import Path

_SAM_I2V = "https://drive.google.com/drive/folders/1sRvmBf_QwCwyxppuB_5-9IMcAHcUK_K7?usp=sharing"
# The page of each file, by its name.
PAGES = {
    "sam-i2v_8gpu.pt": _SAM_I2V,
    "sam-i2v_32gpu.pt": _SAM_I2V,
    "tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/tree/main",
}
# Those that a program can fetch.
FILES = {"tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth"}


def advice(path: Path) -> str:
    """What to do about a missing file, for a message; empty if it is none of the published ones."""
    if path.name in FILES:
        return f"; python tools/download_checkpoints.py fetches it from {PAGES[path.name]}"
    return f"; download it from {PAGES[path.name]}" if path.name in PAGES else ""
