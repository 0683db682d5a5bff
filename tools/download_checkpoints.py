"""Download published checkpoints, and print the download pages of those that a program cannot download.

    python tools/download_checkpoints.py [tinysam.pth ...] [--output checkpoints]

Prints the SHA-256 of each file. Existing files are not downloaded again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

import torch

from i2v.utils.checkpoints import read_checkpoint
from i2v.utils.command_line import command_line, given_path, make_output_folder
from i2v.utils.files import atomic_write, sha256
from i2v.utils.published_checkpoints import FILES, PAGES


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"file names out of {', '.join(PAGES)} (default: all)")
    default = Path(__file__).resolve().parents[1] / "checkpoints"
    parser.add_argument("--output", type=given_path, default=default, help="folder of the checkpoints (default: checkpoints)")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.names if name not in PAGES]:
        parser.error(f"unknown checkpoint {unknown[0]!r}; known are {', '.join(PAGES)}")
    make_output_folder(args.output)
    failed = []
    for name in args.names or PAGES:
        path = args.output / name
        if not path.exists() and name in FILES:
            try:
                with atomic_write(path) as temporary:
                    torch.hub.download_url_to_file(FILES[name], str(temporary))
                    read_checkpoint(temporary)  # PyTorch does not notice that a connection ended early
            except (OSError, ValueError, HTTPException) as error:
                failed.append(f"{FILES[name]}: {error}; download it manually from {PAGES[name]} to {path}")
        if path.exists():
            print(f"{path}: SHA-256 {sha256(path)}")
        elif name not in FILES:
            print(f"{path}: cannot be downloaded automatically. Download it manually from {PAGES[name]}")
    if failed:
        raise OSError("\n".join(failed))


if __name__ == "__main__":
    sys.exit(main())
