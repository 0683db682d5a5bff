"""Makes a small file for users of a training's checkpoint: the weights alone, in half precision.

    python tools/export_checkpoint.py runs/lite-video/best.pt checkpoints/sam-i2v_lite.pt
    python tools/export_checkpoint.py runs/lite-video/best.pt my-model --config i2v-lite

The second one writes a folder with the weights and the whole config, which `I2VVideoPredictor.from_pretrained` reads.
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
    """The weights of a checkpoint in half precision.

    Raises:
        FileNotFoundError, ValueError: see `read_weights`; or a number is too large.
    """
    weights = read_weights(source)
    halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    infinite = [name for name, value in halves.items() if value.is_floating_point() and not value.isfinite().all()]
    if infinite:
        raise ValueError(f"{source}: {infinite[0]} does not fit into half precision")
    return halves


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=given_path, help="a checkpoint of a training")
    parser.add_argument("target", type=given_path, help="the file to write, or with --config the folder")
    parser.add_argument("--config", type=given_text, help="of the model: write a folder with it and the weights")
    parser.add_argument("--overrides", nargs="*", default=(), metavar="KEY=VALUE", help="overrides for the config")
    args = parser.parse_args(arguments)
    if args.config is None:
        make_room_for(args.target)
        weights, file = half_weights(args.source), args.target
        save_checkpoint(file, {"model": weights})
    else:
        build_i2v(args.config, args.source, "cpu", hydra_overrides_extra=args.overrides)  # they belong together
        weights, file = half_weights(args.source), args.target / WEIGHTS_NAME
        write_pretrained(args.target, weights, args.config, args.overrides)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
