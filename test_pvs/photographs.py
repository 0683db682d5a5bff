"""Interactive segmentation of photographs: the IoU after one, two, ... clicks, and from a box.

    python -m test_pvs.photographs /data/photographs --output results/photographs.json

Photographs have masks in SA-1B's format: NAME.jpg and NAME.json below the folder. A photograph is a video of one frame.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from i2v.data.files import expected_file, find_samples, named_errors
from i2v.data.images import IMAGE_SUFFIXES, upright_size
from i2v.data.instances import instance_file, read_instances
from i2v.data.rle import decode_mask
from i2v.prompt import Prompt
from i2v.utils.command_line import command_line, fraction, given_path, make_room_for, one_line, whole_number
from i2v.utils.files import atomic_write
from test_pvs.clicks import SimulatedUser, box_around
from test_pvs.prompting import click_object, rounded_iou
from test_pvs.runner import add_system_arguments, parse_devices, system_settings
from test_pvs.systems import VideoSystem, build_system, recorded_settings

log = logging.getLogger("test_pvs.photographs")

_SUFFIXES = IMAGE_SUFFIXES["JPEG"]


def instance_masks(path: Path, min_share: float, most: int | None) -> list[np.ndarray]:
    """Read the masks (H, W) bool of the instances in a photograph, largest first.

    Args:
        path (Path): the photograph; its JSON is next to it.
        min_share (float): minimum area of an instance as a share of the photograph, from 0 to 1.
        most (int or None): maximum number of instances; None for all.

    Raises:
        FileNotFoundError: the photograph is missing.
        ValueError: the JSON is missing or not in SA-1B's format; the message names it.
    """
    width, height = upright_size(path)
    annotations = instance_file(path)
    with named_errors(annotations):
        masks = [decode_mask(rle, (height, width)) for rle in read_instances(annotations)]
    masks = sorted((mask for mask in masks if mask.mean() >= min_share), key=np.sum, reverse=True)
    return masks[:most]


def segment(system: VideoSystem, path: Path, masks: Sequence[np.ndarray], num_clicks: int) -> list[dict[str, Any]]:
    """Segment instances in one photograph from clicks, and from a box.

    Args:
        system (VideoSystem): the system.
        path (Path): the photograph.
        masks (Sequence[np.ndarray]): (H, W) bool, the instances.
        num_clicks (int): maximum number of clicks on each instance.

    Returns:
        {"clicks": list of IoUs after each click, "box": IoU} per instance.
    """
    user = SimulatedUser()
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / f"00000{path.suffix}"
        frame.symlink_to(path.resolve())
        session = system.start(Path(folder))
        for mask in masks:
            ious = click_object(session, mask, 0, 0, num_clicks, user).ious
            ious += ious[-1:] * (num_clicks - len(ious))  # no error was left to click on
            session.reset()
            box = rounded_iou(mask, session.prompt(0, 0, Prompt(box=box_around(mask))) > 0)
            session.reset()
            entries.append({"clicks": ious, "box": box})
    return entries


def photograph_paths(folder: Path, file_list: Path | None) -> list[Path]:
    """Find the photographs in a folder that have a JSON, or those in a list.

    Args:
        folder (Path): the folder.
        file_list (Path or None): text file with paths below the folder without suffix, one per line.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: see `find_samples`; or no photograph has a JSON.
    """
    paths = [expected_file(folder / name, _SUFFIXES) for name in find_samples(folder, _SUFFIXES, file_list)]
    with_masks = [path for path in paths if file_list is not None or instance_file(path).exists()]
    if not with_masks:
        raise ValueError(f"{folder} has no photographs with a JSON next to them")
    return with_masks


def summarise(entries: Sequence[dict[str, Any]], counts: Sequence[int] = (1, 3, 5)) -> str:
    """Summarise the mean IoUs over all instances.

    Args:
        entries (Sequence[dict[str, Any]]): results of `segment` for all photographs.
        counts (Sequence[int]): numbers of clicks to report.
    """
    clicks = 100 * np.mean([entry["clicks"] for entry in entries], axis=0)
    after = ", ".join(f"{clicks[n - 1]:.1f} after {n}" for n in counts if n <= len(clicks))
    return f"{len(entries)} instances, mean IoU: {after} clicks; {100 * np.mean([e['box'] for e in entries]):.1f} from a box"


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error or if a photograph failed."""
    args = _parser().parse_args(arguments)
    results: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    paths = photograph_paths(args.folder, args.file_list)
    settings = replace(system_settings(args), device=parse_devices(args.device)[0])
    make_room_for(args.output)
    system = build_system(settings)
    recorded = recorded_settings(settings) | {"clicks": args.clicks, "min_share": args.min_share, "most": args.most}
    for path in tqdm(paths, unit="photograph"):
        name = path.relative_to(args.folder).as_posix()
        try:
            results[name] = segment(system, path, instance_masks(path, args.min_share, args.most), args.clicks)
        except (OSError, ValueError) as error:
            failures[name] = one_line(error)
            log.error("failed: %s: %s", name, failures[name])
    content = {"settings": recorded, "photographs": results, "failures": failures}
    with atomic_write(args.output) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    entries = [entry for photograph in results.values() for entry in photograph]
    print(summarise(entries) if entries else f"no instance of at least {args.min_share} of its photograph")  # noqa: T201
    print(f"The results are in {args.output}; {len(failures)} photographs failed")  # noqa: T201
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Segment photographs with instance masks from clicks and boxes. Prints IoUs.")
    parser.add_argument("folder", type=given_path, help="folder of photographs NAME.jpg with NAME.json as in SA-1B")
    parser.add_argument(
        "--file-list",
        type=given_path,
        help="text file of paths below the folder without suffix, one per line (default: all photographs)",
    )
    parser.add_argument("--output", type=given_path, required=True, help="JSON file for the results")
    parser.add_argument(
        "--clicks", type=whole_number(1), default=5, help="maximum number of clicks on each instance (default: 5)"
    )
    parser.add_argument(
        "--min-share",
        type=fraction,
        default=0.01,
        help="minimum area of an instance as a share of the photograph (default: 0.01)",
    )
    parser.add_argument(
        "--most", type=whole_number(1), help="maximum number of instances per photograph, largest first (default: all)"
    )
    add_system_arguments(parser)
    parser.add_argument("--device", default="", help="device (default: the first GPU, or the CPU)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
