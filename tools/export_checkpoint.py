"""Export the weights of a training checkpoint in half precision, as a small file for users.

    python tools/export_checkpoint.py runs/lite-video/best.pt checkpoints/sam-i2v_lite.pt
    python tools/export_checkpoint.py runs/lite-video/best.pt my-model --config i2v-lite

The second command writes a folder with the weights and the whole config, which `I2VVideoPredictor.from_pretrained` reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from i2v.build_i2v import build_i2v
from i2v.pretrained import WEIGHTS_NAME, write_pretrained
from i2v.utils.checkpoints import read_weights, save_checkpoint
from i2v.utils.command_line import command_line, given_path, given_text, make_room_for


def half_weights(source: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint and convert them to half precision.

    Args:
        source (Path): path of the checkpoint.

    Returns:
        The weights by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_weights`; or a weight is too large for half precision.
    """
    weights = read_weights(source)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    infinite = [name for name, value in halves.items() if value.is_floating_point() and not value.isfinite().all()]
    if infinite:
        raise ValueError(f"{source}: {infinite[0]} does not fit into half precision")
    return halves


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=given_path, help="checkpoint written by a training")
    parser.add_argument("target", type=given_path, help="file to write, or folder with --config")
    parser.add_argument("--config", type=given_text, help="config of the model: write a folder with the config and the weights")
    parser.add_argument("--overrides", nargs="*", default=(), metavar="KEY=VALUE", help="overrides of the config")
    args = parser.parse_args(arguments)
    if args.config is None:
        make_room_for(args.target)
        weights, file = half_weights(args.source), args.target
        save_checkpoint(file, {"model": weights})
    else:
        build_i2v(args.config, args.source, "cpu", hydra_overrides_extra=args.overrides)  # checks that they match
        weights, file = half_weights(args.source), args.target / WEIGHTS_NAME
        write_pretrained(args.target, weights, args.config, args.overrides)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
