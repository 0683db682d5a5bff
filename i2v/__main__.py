"""The command `i2v`, and `python -m i2v`: one entry point for all command lines."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

# Module and help of each command; modules outside of i2v are only in the repository.
COMMANDS = {
    "segment": ("i2v.segment", "segment objects in a video from clicks, boxes and masks"),
    "app": ("i2v.app.__main__", "the same on a page in the browser: click, track, correct, export"),
    "train": ("train.cli", "train a model"),
    "evaluate": ("test_pvs.semi_supervised", "segment the videos of a benchmark from a prompt in the first frame"),
    "interact": ("test_pvs.interactive", "run the interactive benchmarks: a simulated user corrects the masks"),
    "score": ("sav_dataset.sav_evaluator", "compute J&F of predicted masks"),
    "report": ("test_pvs.report", "make tables and plots of finished benchmarks"),
    "paper": ("test_pvs.paper.__main__", "make a table of the paper: run what is missing of it, then the report"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with the remaining arguments. Returns its exit status, 2 for an unknown command."""
    parser = argparse.ArgumentParser(
        prog="i2v",
        usage="i2v COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:<10}{text}" for name, (_, text) in COMMANDS.items())
        + "\n\nRun i2v COMMAND --help for its arguments.",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the command")
    args = parser.parse_args(arguments)
    module, _ = COMMANDS[args.command]
    root = Path(__file__).resolve().parents[1]
    if not module.startswith("i2v."):
        if not (root / module.replace(".", "/")).with_suffix(".py").is_file():
            parser.error(f"{args.command} needs the repository: clone it, and pip install -e . there")
        sys.path.insert(0, str(root))
    return importlib.import_module(module).main(args.arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
