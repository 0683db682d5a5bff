"""What all command lines share: arguments that are checked where they are given, and errors that are one line."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from i2v.data.images import MAX_PIXELS, kind_of
from i2v.utils.messages import shortened
from i2v.utils.processes import WorkerDiedError

log = logging.getLogger(__name__)

# What wrong files, values and surroundings raise. Everything else is a mistake in the program, whose traceback is needed.
EXPECTED_ERRORS = (OSError, ValueError, ImportError, MemoryError, WorkerDiedError)

# Of a picture, in pixels.
MAX_SIDE = 10_000
# Of a picture of several, in pixels: by its format, and of the others.
_LONGEST, _LONGEST_OTHER = {"WebP": 16_383, "JPEG": 65_500}, 100_000


def command_line(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Decorate the `main` of a program.

    Args:
        main: takes the arguments, by default those of the process, and returns the exit status; None is 0.

    Returns:
        The same, but that an error which the user can mend is logged as one line, and the status is 1; after Ctrl-C it is 130.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        try:
            return main(arguments) or 0
        except EXPECTED_ERRORS as error:
            log.error("error: %s", one_line(error))
            return 1
        except KeyboardInterrupt:
            log.error("interrupted")
            return 128 + signal.SIGINT

    return run


def one_line(error: BaseException | str) -> str:
    """What an error or a message says, in one line that is not too long; of an error that the system raised the file and the
    reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}".replace("\n", " ")
    text = shortened("; ".join(line.strip() for line in str(error).splitlines() if line.strip()))
    return f"out of memory: {text}".rstrip(": ") if isinstance(error, MemoryError) else text or type(error).__name__


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of an argument: a whole number from `least`, which is not negative, to `most`; None for no end."""

    def parse(text: str) -> int:
        # Beyond 18 digits nothing is counted, and Python refuses to convert thousands of them.
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) < least or (most and int(text) > most):
            end = "on" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} {end}, got {text!r}")
        return int(text)

    return parse


# The type of an argument: a label in images. 0 is background, never an object and never void.
label = whole_number(1, 2**16 - 1)


def fraction(text: str) -> float:
    """The type of an argument: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def given_text(text: str) -> str:
    """The type of an argument that must not be empty: an empty variable of a script would mean something else."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave the option out")
    return text


def given_path(text: str) -> Path:
    """The type of an argument: a path. An empty one, which Python takes for the working directory, is refused."""
    return Path(given_text(text))


def picture_path(text: str) -> Path:
    """The type of an argument: the file of a picture, which is written in the format of its suffix."""
    path = given_path(text)
    if kind_of(path) is None:
        raise argparse.ArgumentTypeError(f"expected the file of a picture, such as {path.stem}.png, got {text!r}")
    return path


def check_picture_size(path: Path, width: int, height: int) -> None:
    """Raise a ValueError if a picture would be too large for the format of its file, or for the memory."""
    longest = _LONGEST.get(kind_of(path) or "", _LONGEST_OTHER)
    if max(width, height) > longest or width * height > MAX_PIXELS:
        raise ValueError(
            f"{path} would have {width}x{height} pixels: at most {longest} a side are possible there, and {MAX_PIXELS:,} in all"
        )


def make_output_folder(path: Path) -> None:
    """Make a folder for results, and those that it is in.

    Raises:
        OSError: it is a file or below one, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path} is a file, or below one: give a folder for the results") from error
    with tempfile.TemporaryFile(dir=path):
        pass


def make_room_for(path: Path) -> None:
    """Make the folder of a file that is written at the end: what is wrong with it shows before the work.

    Raises:
        OSError: the path is a folder, a device or the like, or below a file, or the folder cannot be written to.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file: give the name of a file for the results")
    make_output_folder(path.parent)
