"""results.csv: its established format, and names that need quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2v.data.scores import ALL_FRAMES, format_scores, read_j_and_f

MEAN = ("Global score", "", 50.0, 40.0, 60.0)


def test_plain_names_are_not_quoted() -> None:
    table = format_scores([MEAN, ("bear", "001", 50.0, 40.25, 100.0)], decimals=1)
    assert (
        table == "sequence    ,obj,  J&F,    J,    F\nGlobal score,   , 50.0, 40.0, 60.0\nbear        ,001, 50.0, 40.2,100.0\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "bear",
        "a,b",
        'a "b"',
        '"',
        "a\nb",
        "\n",
        "a;b|c",
        "Global score",
        "'",
        "ä,\N{SNOWMAN}",
        "x" * 300,
        "b ",
        " b",
        " ",
        "  a  ",
        '"a"',
        '" a "',
        '"a',
        'a"',
        ' "',
        "\tb\t",
    ],
)
def test_names_survive(name: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(format_scores([MEAN, (name, "001", 12.5, 0.0, 25.0), ("b", "001", 3.0, 0.0, 6.0)], 8), encoding="utf-8")
    assert read_j_and_f(path) == {name: [12.5], "b": [3.0]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        ("nonsense\n1\n", "it has no column sequence, obj, J&F"),
        ("sequence,obj,J&F\na,001\n", "ValueError"),
        ("sequence,obj,J&F\na,001,x\n", "could not convert string to float: 'x'"),
        ("sequence,obj,J&F\na,001,nan\n", "line 2.*the J&F of a is nan, not from 0 to 100"),
        ("sequence,obj,J&F\na,001,1\na,002,-50\n", "line 3.*the J&F of a is -50.0, not from 0 to 100"),
        ("sequence,obj,J&F\na,001,1e308\n", "line 2.*the J&F of a is 1e.308, not from 0 to 100"),
        ("sequence,sequence,obj,J&F\na,b,001,1\n", "it has no column sequence, or several of that name"),
        (f"sequence,obj,J&F\nGlobal score,{ALL_FRAMES},1\n", "the first and last frame are scored too"),
        ("sequence,obj,J&F\n" + "a" * 200_000, "field larger than field limit"),
        ("\x00", "it has no column"),
    ],
)
def test_broken_tables_are_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_j_and_f(path)
    assert str(path) in str(error.value)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_j_and_f(tmp_path / "results.csv")
