"""Trains and evaluates the rows of the paper's Tables 3 to 6 at Lite scale, one after the other.

    python tools/run_lite_paper.py [ROW ...] [--shared ../shared/data] [--output runs/lite-paper]

Every row upgrades an image segmenter with the same budget, configs/i2v-lite-paper.yaml: that of the bundled Lite model, or, for
Table 3, one with a small trunk of another kind, which is trained first (configs/i2v-lite-image-sams.yaml). It is then evaluated
online with 3 clicks on davis2016-dev, which no row is trained on. The rows of Table 5 are other selectors of the row "base".

A row takes about 10 minutes on 2 idle cores. Rerun the command to resume: finished rows are skipped. All finished rows are
printed at the end, in the layout of the paper's tables.

The baselines are smaller than those of `python -m test_pvs.paper TABLE --config i2v-lite`, which keep the hidden channels of
the published ones: the weights of the one do not fit the other.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# For the package test_pvs, which is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2v.utils.command_line import command_line, given_path, make_output_folder
from test_pvs.finished_runs import SystemLabel, read_runs
from test_pvs.tables import LAYOUTS, make_table

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
# Two processes with one thread each, as all trainings of the Lite model. malloc keeps freed memory; see the Makefile.
PROCESSES = 2
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "10000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
}
# As in the published networks, the feed-forward layers of + TA are four times as wide as those of SAM-I2V (2048 and 512; 1024
# and 256 in the Lite model).
_HIDDEN = "model.memory_attention.hidden=1024"
# The share of the parameters that the paper's adapters have, 5 %.
_ADAPTERS = "model.image_encoder.adapters.hidden=128"
_NO_MPG = "model.memory_prompt_generator=null"


@dataclass(frozen=True)
class Row:
    """A row of one or more tables.

    Attributes:
        labels (Mapping[str, str]): what the paper calls the row, by the number of its table.
        model (tuple[str, ...]): overrides of the model, in training and evaluation.
        training (tuple[str, ...]): further overrides of the training.
        weights (str or None): name of the row whose weights are evaluated; None for a training of its own.
        image_segmenter (str or None): name of one of `TRUNKS`, which is trained on images first; None for the bundled one.
    """

    labels: Mapping[str, str]
    model: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    weights: str | None = None
    image_segmenter: str | None = None


_TRUNK = "model.image_encoder.trunk_image"
_SMALL_VIT = (
    "model/trunk=vit_base",
    *(f"{_TRUNK}.{key}={value}" for key, value in (("depth", 6), ("num_heads", 6), ("window_size", 8), ("image_size", 384))),
    f"{_TRUNK}.global_blocks=[1,3,4,5]",
)
# A small trunk of each image SAM's kind, with random weights. MobileSAM and TinySAM share one.
TRUNKS = {
    "TinySAM": (
        "model/trunk=tiny_vit",
        f"{_TRUNK}.embed_dims=[32,64,96,128]",
        f"{_TRUNK}.depths=[1,1,2,1]",
        f"{_TRUNK}.num_heads=[1,2,3,4]",
        f"{_TRUNK}.window_sizes=[7,7,12,7]",
    ),
    "EdgeSAM": ("model/trunk=rep_vit", f"{_TRUNK}.embed_dims=[24,48,96,192]", f"{_TRUNK}.depths=[1,1,3,1]"),
    "SlimSAM": (*_SMALL_VIT, f"{_TRUNK}.embed_dim=96", f"{_TRUNK}.mlp_dim=384"),
    "SAM-Base": (*_SMALL_VIT, f"{_TRUNK}.embed_dim=192", f"{_TRUNK}.mlp_dim=768"),
}
# Channels of the maps that the TFI uses, where the config does not know them.
_LEVELS = {"TinySAM": "[96,128,128]", "EdgeSAM": "[96,192,128]"}
# Not every one of these trunks has maps at high resolution.
_LOW_RESOLUTION = (
    "model.image_encoder.high_res_levels=[]",
    "model.image_encoder.high_res_channels=[]",
    "model.dense_prompt_encoder=null",
)


def _family(segmenter: str) -> dict[str, Row]:
    """The rows of Table 3 with an image segmenter."""
    trunk = (*TRUNKS[segmenter], *_LOW_RESOLUTION)
    levels = (f"model.image_encoder.trunk_video.in_channels={_LEVELS[segmenter]}",) if segmenter in _LEVELS else ()
    name = segmenter.lower()
    return {
        f"{name}-ta": Row({"3": f"{segmenter} + TA"}, (*trunk, "model/upgrade=ta", _HIDDEN), image_segmenter=segmenter),
        name: Row({"3": f"{segmenter} + SAM-I2V"}, (*trunk, *levels), image_segmenter=segmenter),
    }


def _selector(num_global: int, num_local: int, mode: str = "sample") -> tuple[str, ...]:
    reach = max(num_local, 4)  # of the local pool, which must hold the local frames
    numbers = {"num_global": num_global, "num_local": num_local, "local_reach": reach}
    return (f"model/memory_selector={mode}", *(f"model.memory_selector.{key}={value}" for key, value in numbers.items()))


ROWS = {
    "base": Row({"4": "SAM-I2V", "6": "w/ MPG-3"}),
    "base-seed-1": Row({"4": "SAM-I2V, another seed", "6": "w/ MPG-3, another seed"}, training=("seed=1",)),
    "ta": Row({"4": "Base"}, ("model/upgrade=ta", _HIDDEN)),
    "st-adapter-ta": Row({"4": "Base + ST-Adapter"}, ("model/upgrade=st_adapter_ta", _HIDDEN)),
    "sa-ta": Row({"4": "Base + Parallel Adapter"}, ("model/upgrade=sa_ta", _HIDDEN, _ADAPTERS)),
    "tfi": Row({"4": "Base + TFI"}, (_NO_MPG, "model/memory_selector=consecutive", _HIDDEN)),
    "no-mpg": Row({"6": "w/o MPG"}, (_NO_MPG,)),
    "mpg-1": Row({"6": "w/ MPG-1"}, ("model.memory_prompt_generator.num_tokens=1",)),
    "mpg-5": Row({"6": "w/ MPG-5"}, ("model.memory_prompt_generator.num_tokens=5",)),
    "no-mca": Row({"6": "w/ MPG-3 (w/o MCA)"}, ("model.memory_prompt_generator.masked_attention=false",)),
    "msa-0-6": Row({"5": "w/o MSA (x=0, y=6)"}, _selector(0, 6), weights="base"),
    "msa-1-5": Row({"5": "w/ MSA (x=1, y=5)"}, _selector(1, 5), weights="base"),
    "msa-2-4": Row({"5": "w/ MSA (x=2, y=4)"}, _selector(2, 4), weights="base"),
    "msa-3-3": Row({"5": "w/ MSA (x=3, y=3)"}, _selector(3, 3), weights="base"),
    "ufs-3-3": Row({"5": "w/ MSA (x=3, y=3) w/ UFS"}, _selector(3, 3, "evenly_spaced"), weights="base"),
    **{name: row for segmenter in TRUNKS for name, row in _family(segmenter).items()},
}


def commands(name: str, shared: Path, output: Path) -> list[list[str]]:
    """The commands of a row: its trainings, if it has any, and its evaluation. A finished training ends at once.

    Args:
        name (str): the row, a key of `ROWS`.
        shared (Path): folder of the data sets; see tools/prepare_lite_data.py.
        output (Path): folder with a folder per row.
    """
    row, python = ROWS[name], sys.executable
    launcher = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    train = [*launcher, "train/train.py", f"shared={shared}", "-c"]
    upgrade = [*train, "i2v-lite-paper", f"output={output / name}", *row.model, *row.training]
    trainings = [upgrade]
    if row.image_segmenter:
        images = output / f"images-{row.image_segmenter.lower()}"
        trainings.insert(0, [*train, "i2v-lite-image-sams", f"output={images}", *TRUNKS[row.image_segmenter]])
        parts = "[image_encoder.trunk_image,sam_prompt_encoder,sam_mask_decoder]"
        upgrade += [f"initial_weights.path={images / 'last.pt'}", f"initial_weights.prefixes={parts}", "frozen=[]"]
    evaluate = [python, "-m", "test_pvs.interactive", "online", "davis2016", str(shared / "davis2016-dev"), "--clicks", "3"]
    evaluate += ["--output", str(output / name / "online"), "--checkpoint", str(output / (row.weights or name) / "last.pt")]
    evaluate += ["--devices", f"cpu:{PROCESSES}", *(["--overrides", *row.model] if row.model else [])]
    return [evaluate] if row.weights else [*trainings, evaluate]


def run_row(name: str, shared: Path, output: Path) -> None:
    """Train and evaluate a row, or what is left of it.

    Raises:
        OSError: a command failed; its own output says why.
    """
    if is_finished(output / name):
        return
    for command in commands(name, shared, output):
        log.info("%s: %s", name, " ".join(command[1:]))
        if status := subprocess.run(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, check=False).returncode:
            raise OSError(f"row {name} stopped with status {status}: rerun the command to resume")


def is_finished(folder: Path) -> bool:
    """Whether a row was evaluated."""
    return (folder / "online" / "results.json").is_file()


def tables(output: Path) -> Iterator[str]:
    """The tables of the finished rows, in the report's layout.

    Args:
        output (Path): folder with a folder per row.

    Raises:
        ValueError: see `read_runs`.
    """
    for key in dict.fromkeys(key for row in ROWS.values() for key in row.labels):
        rows = {name: row.labels[key] for name, row in ROWS.items() if key in row.labels and is_finished(output / name)}
        labels = {output / name / "online": SystemLabel(label) for name, label in rows.items()}
        runs, problems = read_runs(list(labels), labels)
        for problem in problems:
            log.error("left out: %s", problem)
        if table := make_table(LAYOUTS[key], runs, ()):
            yield table.markdown()


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)} (default: all, in this order)")
    parser.add_argument("--shared", type=given_path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--output", type=given_path, default=ROOT / "runs" / "lite-paper", help="folder of the results")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"unknown row {unknown[0]}: choose among {', '.join(ROWS)}")
    shared, output = args.shared.resolve(), args.output.resolve()
    if not (shared / "davis2016-dev").is_dir():
        parser.error(f"{shared} has no davis2016-dev: give the folder of the data sets as --shared")
    rows = args.rows or list(ROWS)
    for i, name in enumerate(rows):
        source = ROWS[name].weights
        if source and source not in rows[:i] and not is_finished(output / source):
            parser.error(f"row {name} uses the weights of {source}: run that first")
    for name in rows:
        make_output_folder(output / name)
        run_row(name, shared, output)
    for table in tables(output):
        print(table)


if __name__ == "__main__":
    sys.exit(main())
