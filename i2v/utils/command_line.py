"""Shared by all command lines: types of arguments, and errors in one line."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from i2v.data.images import kind_of
from i2v.utils.messages import shortened
from i2v.utils.processes import WorkerDiedError

log = logging.getLogger(__name__)

# Errors caused by files, values and the environment. All others are bugs, whose traceback is needed.
EXPECTED_ERRORS = (OSError, ValueError, ImportError, MemoryError, WorkerDiedError)

# Longest side of a picture, in pixels.
MAX_SIDE = 10_000


def command_line(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """Decorate the `main` of a program.

    Args:
        main (Callable[[Sequence or None], int or None]): function from the arguments, by default those of the process, to the
            exit status; None is 0.

    Returns:
        The function with errors that a user can fix logged in one line, with status 1; after Ctrl-C the status is 130.
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
    """An error or message in one line of limited length; a system error as its file and reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}".replace("\n", " ")
    text = shortened("; ".join(line.strip() for line in str(error).splitlines() if line.strip()))
    return f"out of memory: {text}".rstrip(": ") if isinstance(error, MemoryError) else text or type(error).__name__


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Argument type: an integer from `least`, which is not negative, to `most`; None for no upper limit."""

    def parse(text: str) -> int:
        # Nothing is counted beyond 18 digits, and Python refuses to convert thousands of them.
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) < least or (most and int(text) > most):
            end = "on" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} {end}, got {text!r}")
        return int(text)

    return parse


# Argument type: a label in images. 0 is background, never an object or void.
label = whole_number(1, 2**16 - 1)


def fraction(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def given_text(text: str) -> str:
    """Argument type: text that is not empty, as an unset variable in a script would be."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave the option out")
    return text


def given_path(text: str) -> Path:
    """Argument type: a path. An empty one, which Python takes for the working directory, is refused."""
    return Path(given_text(text))


def picture_path(text: str) -> Path:
    """Argument type: the path of a picture to write, in the format of its suffix."""
    path = given_path(text)
    if kind_of(path) is None:
        raise argparse.ArgumentTypeError(f"expected a picture file, such as {path.stem}.png, got {text!r}")
    return path


def make_output_folder(path: Path) -> None:
    """Create a folder for results, with its parents.

    Raises:
        OSError: the path is a file or below one, or the folder is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"{path} is a file, or below one: give a folder for the results") from error
    with tempfile.TemporaryFile(dir=path):
        pass


def make_room_for(path: Path) -> None:
    """Create the folder of a file that will be written at the end, so that errors show before the work.

    Raises:
        OSError: the path is a folder, a device or the like, or below a file, or the folder is not writable.
    """
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file: give the name of a file for the results")
    make_output_folder(path.parent)
