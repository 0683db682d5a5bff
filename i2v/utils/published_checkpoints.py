"""Web addresses of the published checkpoints, which are not in this repository."""

from __future__ import annotations

from pathlib import Path

_SAM_I2V = "https://drive.google.com/drive/folders/1sRvmBf_QwCwyxppuB_5-9IMcAHcUK_K7?usp=sharing"
# Page of each file.
PAGES = {
    "sam-i2v_8gpu.pt": _SAM_I2V,
    "sam-i2v_32gpu.pt": _SAM_I2V,
    "tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/tree/main",
}
# Addresses from which a program can download.
FILES = {"tinysam.pth": "https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth"}


def advice(path: Path) -> str:
    """Where to download a missing file, for a message; empty if it is not a published one."""
    if path.name in FILES:
        return f"; python tools/download_checkpoints.py fetches it from {PAGES[path.name]}"
    return f"; download it from {PAGES[path.name]}" if path.name in PAGES else ""
