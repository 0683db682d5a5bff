"""Command lines report errors in one line, show the traceback of bugs, and refuse wrong arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from i2v.utils.command_line import command_line, fraction, given_path, make_room_for, picture_path, whole_number
from i2v.utils.json_form import NUMBER, require_form
from i2v.utils.processes import WorkerDiedError


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (ValueError("a.txt is\n  broken\n"), 1, "error: a.txt is; broken"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "error: a.txt: no such file or directory"),
        (OSError("a.txt cannot be used"), 1, "error: a.txt cannot be used"),
        (ImportError("it needs scipy"), 1, "error: it needs scipy"),
        (MemoryError(), 1, "error: out of memory"),
        (WorkerDiedError("a worker died"), 1, "error: a worker died"),
        (ValueError(), 1, "error: ValueError"),
        pytest.param(ValueError("a.txt: " + "b" * 5_000_000), 1, f"error: a.txt: {'b' * 993} ... {'b' * 1000}", id="long"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors(raised: BaseException, status: int, message: str, outcome: Callable) -> None:
    @command_line
    def main(arguments: list[str] | None = None) -> None:
        raise raised

    found, text = outcome(main)
    assert found == status
    assert text.splitlines() == [message]


def test_bugs_keep_their_traceback() -> None:
    @command_line
    def main(arguments: list[str] | None = None) -> None:
        raise AttributeError("a mistake")

    with pytest.raises(AttributeError):
        main([])


@pytest.mark.parametrize("status", [None, 0, 1, 3])
def test_status(status: int | None) -> None:
    assert command_line(lambda arguments: status)([]) == (status or 0)


@pytest.mark.parametrize("text", ["1", "7", "10"])
def test_numbers(text: str) -> None:
    assert whole_number(1, 10)(text) == int(text)


@pytest.mark.parametrize("text", ["0", "11", "-1", "", "x", "1.0", "1e3", "²", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 5000, " 1"])
def test_wrong_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 10"):
        whole_number(1, 10)(text)


def test_other_arguments() -> None:
    assert (fraction("0.5"), given_path("a b"), picture_path("a.JPG")) == (0.5, Path("a b"), Path("a.JPG"))
    for kind, texts in ((fraction, ("nan", "-0.1", "inf", "")), (given_path, ("", " ")), (picture_path, ("", "a", "a.mp4"))):
        for text in texts:
            with pytest.raises(argparse.ArgumentTypeError):
                kind(text)


def test_room_for_a_file(tmp_path: Path) -> None:
    make_room_for(tmp_path / "a/b/c.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]
    (tmp_path / "file").touch()
    for path, message in ((tmp_path / "a", "is not a file"), (tmp_path / "file/c.json", "is a file, or below one")):
        with pytest.raises(OSError, match=message):
            make_room_for(path)


def test_forms() -> None:
    form = {"a": int, "b": [{"c": NUMBER}], "d": {str: (str, type(None))}}
    good = {"a": 1, "b": [{"c": 1}, {"c": 0.5, "more": 3}], "d": {"x": None, "y": "z"}, "more": []}
    require_form(good, form, "it")
    for change, message in (
        ({"a": True}, "it: 'a' is true or false, expected a whole number"),
        ({"a": 1.5}, "it: 'a' is a number, expected a whole number"),
        ({"b": {}}, "it: 'b' is an object, expected a list"),
        ({"b": [{"c": 1}, {}]}, "it: 'b', entry 1 lacks 'c'"),
        ({"d": {"x": 3}}, "it: 'd': 'x' is a whole number, expected a text or null"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            require_form(good | change, form, "it")
