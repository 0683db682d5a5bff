"""Makes a small file for users of a training's checkpoint: the weights alone, in half precision.

python tools/export_checkpoint.py runs/lite-video/best.pt checkpoints/sam-i2v_lite.pt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from i2v.utils.checkpoints import read_weights, save_checkpoint
from i2v.utils.command_line import command_line, given_path, make_room_for


def export(source: Path, target: Path) -> int:
    """Write the weights of `source` to `target`. Returns the number of bytes.

    Raises:
        FileNotFoundError, ValueError: see `read_weights`.
    """
    weights = read_weights(source)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    infinite = [name for name, value in halves.items() if value.is_floating_point() and not value.isfinite().all()]
    if infinite:
        raise ValueError(f"{source}: {infinite[0]} does not fit into half precision")
    save_checkpoint(target, {"model": halves})
    return target.stat().st_size


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=given_path, help="a checkpoint of a training")
    parser.add_argument("target", type=given_path, help="the file to write")
    args = parser.parse_args(arguments)
    make_room_for(args.target)
    print(f"{args.target}: {export(args.source, args.target) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
