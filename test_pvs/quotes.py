"""Published numbers, quoted from a CSV: those of the paper's Tables 1 to 10 are in paper/quoted.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from i2v.data.files import named_errors

PAPER_QUOTES = Path(__file__).parent / "paper" / "quoted.csv"
COLUMNS = ("table", "system", "dataset", "setting", "value", "source")
# What stands in the place of a data set: the mean over the data sets, and what a row says about its system.
OVERALL, PARAMETERS, COST, FLOPS = "OA", "parameters", "cost", "FLOPs"
_EFFICIENCY = (PARAMETERS, FLOPS)  # all that tables without J&F have
# What stands in the place of a setting: the average over the settings, and that there is none.
AVERAGE, NO_SETTING = "average", "-"


@dataclass(frozen=True)
class Quote:
    """A published number.

    Attributes:
        table (str): number of the table.
        system (str): name of the row.
        dataset (str): name of the data set, `OVERALL`, `PARAMETERS`, `COST` or `FLOPS`.
        setting (str): prompt of the objects, such as 3c, or `AVERAGE`; `NO_SETTING` for the last four.
        value (float): J&F in percent; parameters in millions; cost in GPUs x GB x hours; FLOPs in G.
        source (str): where the number was published.
    """

    table: str
    system: str
    dataset: str
    setting: str
    value: float
    source: str


def read_quotes(path: Path, settings: Mapping[str, Sequence[str]]) -> list[Quote]:
    """Read published numbers from a CSV with the columns `COLUMNS`.

    Args:
        path (Path): the CSV.
        settings (Mapping[str, Sequence[str]]): the settings of each table that can be quoted, by its number; none for tables of
            parameters and FLOPs.

    Raises:
        ValueError: the columns differ, or a line cannot be used.
        OSError: the file cannot be read.
    """
    if not path.is_file():  # opening a FIFO would block
        advice = ", but a folder: give --quoted after the folders of the runs" if path.is_dir() else ""
        raise FileNotFoundError(f"no such file: {path}{advice}")
    with named_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        try:
            columns, lines = tuple(reader.fieldnames or ()), [(reader.line_num, line) for line in reader]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num + 1}: {error}") from error
        if columns != COLUMNS:
            found = f"has the columns {', '.join(columns)}" if columns else "is empty"
            raise ValueError(f"{path} {found}, expected the columns {', '.join(COLUMNS)}")
        quotes: dict[Quote, Quote] = {}  # by the quote without its value
        for number, line in lines:
            quote = _parse(line, f"{path}, line {number}", settings)
            key = replace(quote, value=0.0)
            if key in quotes:
                raise ValueError(f"{path}, line {number}: duplicate row")
            quotes[key] = quote
    return list(quotes.values())


def _parse(line: dict[str, str], where: str, settings: Mapping[str, Sequence[str]]) -> Quote:
    """Parse a line of a CSV.

    Args:
        line (dict[str, str]): values by column.
        where (str): place of the line, for error messages.
        settings (Mapping[str, Sequence[str]]): see `read_quotes`.
    """
    if None in line or not all(line.values()):
        raise ValueError(f"{where}: expected {len(COLUMNS)} values, none of them empty")
    table = line["table"]
    if table not in settings:
        raise ValueError(f"{where}: no table {table}; expected one of {', '.join(settings)}")
    if not settings[table] and line["dataset"] not in _EFFICIENCY:
        raise ValueError(f"{where}: no {line['dataset']} in this table; expected one of {', '.join(_EFFICIENCY)}")
    if not settings[table] or line["dataset"] in (OVERALL, PARAMETERS, COST):
        expected = [NO_SETTING]
    else:
        expected = [*settings[table], *([AVERAGE] if len(settings[table]) > 1 else [])]
    if line["setting"] not in expected:
        what = f"no setting {line['setting']} in this table"
        raise ValueError(f"{where}: {what} for {line['dataset']}; expected one of {', '.join(expected)}")
    try:
        value = float(line["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {line['value']!r} is not a number")
    if line["dataset"] == COST and value <= 0:
        raise ValueError(f"{where}: a cost of {line['value']}; leave the line out if there was no training")
    return Quote(table, line["system"], line["dataset"], line["setting"], value, line["source"])
