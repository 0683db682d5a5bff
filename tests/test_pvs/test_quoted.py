"""test_pvs/paper/quoted.csv: the paper's numbers agree with each other, and with its text."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from test_pvs.quotes import AVERAGE, COST, NO_SETTING, OVERALL, PAPER_QUOTES, PARAMETERS, read_quotes
from test_pvs.tables import LAYOUTS, PAPER_NAMES, TABLE_SETTINGS, make_table

DATASETS = tuple(PAPER_NAMES.values())
OA = (NO_SETTING, OVERALL)
ROUNDING = 0.0501  # numbers have one decimal
# Where the paper contradicts itself: the quoted number, and what its own cells give.
EXCEPTIONS = {
    ("1", "SAM 2.1", (AVERAGE, "LV")): (74.9, 73.9),  # (59.3 + 79.5 + 82.8) / 3: a misprint, as OA fits the cells
    ("1", "SAM 2.1", OA): (71.9, 72.1),  # the mean of the averages with the misprint
    ("1", "TinySAM + TA", (AVERAGE, "LV")): (68.4, 68.3),
    ("3", "EdgeSAM + SAM-I2V", OA): (65.1, 65.3),
}


def quoted_rows() -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    rows: defaultdict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for quote in read_quotes(PAPER_QUOTES, TABLE_SETTINGS):
        if not TABLE_SETTINGS[quote.table]:  # no J&F
            continue
        rows[quote.table, quote.system][quote.setting, quote.dataset] = quote.value
    return rows


def test_every_row_has_every_column() -> None:
    rows = quoted_rows()
    assert [sum(table == str(number) for table, _ in rows) for number in range(1, 11)] == [8, 6, 4, 4, 5, 5, 8, 0, 0, 4]
    for (table, _), row in rows.items():
        settings = TABLE_SETTINGS[table]
        if table == "10":
            assert set(row) == {(NO_SETTING, COST), ("gm", "SV")}
            continue
        several = len(settings) > 1
        columns = {(setting, name) for setting in (*settings, *([AVERAGE] if several else [])) for name in DATASETS}
        facts = {(NO_SETTING, PARAMETERS), (NO_SETTING, COST)} if several else set()
        # Combinations of published models have no cost.
        assert columns | {OA} <= set(row) <= columns | {OA} | facts
        assert ((NO_SETTING, PARAMETERS) in row) == several


def test_averages_agree_with_the_cells() -> None:
    found = {}
    for (table, system), row in quoted_rows().items():
        if OA not in row:
            continue
        settings = TABLE_SETTINGS[table]
        last = AVERAGE if len(settings) > 1 else settings[0]
        expected = {OA: sum(row[last, name] for name in DATASETS) / len(DATASETS)}
        if last == AVERAGE:
            expected |= {(AVERAGE, name): sum(row[setting, name] for setting in settings) / len(settings) for name in DATASETS}
        for column, value in expected.items():
            if abs(row[column] - value) > ROUNDING:
                found[table, system, column] = (row[column], pytest.approx(value, abs=ROUNDING))
    assert found == EXCEPTIONS


def test_the_overall_accuracy_is_that_of_the_cells() -> None:
    for (table, _), row in quoted_rows().items():
        if len(TABLE_SETTINGS[table]) > 1:
            cells = [row[setting, name] for setting in TABLE_SETTINGS[table] for name in DATASETS]
            assert sum(cells) / len(cells) == pytest.approx(row[OA], abs=ROUNDING)


def test_tables_agree_with_each_other() -> None:
    rows = quoted_rows()
    same = {
        "TinySAM + TA": [("3", "TinySAM + TA"), ("4", "Base")],
        "TinySAM + SA + TA": [("4", "Base + Parallel Adapter")],
        "TinySAM + SAM-I2V": [("3", "TinySAM + SAM-I2V"), ("5", "w/ MSA (x=3, y=3)"), ("6", "w/ MPG-3")],
    }
    for system, others in same.items():
        for other in others:
            for name in DATASETS:
                assert rows[other]["3c", name] == rows["1", system]["3c", name]
    for (table, system), row in rows.items():
        if table in ("2", "7"):
            assert row[NO_SETTING, PARAMETERS] == rows["1", system][NO_SETTING, PARAMETERS]
            assert row.get((NO_SETTING, COST)) == rows["1", system].get((NO_SETTING, COST))
    ours = rows["7", "TinySAM + SAM-I2V"]
    first = rows["10", "(a) 8 x 24 G x 24 hours"]
    assert first == {column: ours[column] for column in ((NO_SETTING, COST), ("gm", "SV"))}


def test_numbers_are_those_of_the_text(shared: Path) -> None:
    text = re.sub(r"\s*\[\d+\]", "", (shared / "paper/paper.txt").read_text(encoding="utf-8"))
    text = re.sub(r"\S\\times\S", "x", text)
    blocks = dict(
        re.findall(r"\n((?:Methods|SAM-I2V Training Configuration|TinySAM \+ SAM-I2V) .*?)\nTable (\d+): ", text, re.DOTALL)
    )
    lines = {number: block.splitlines() for block, number in blocks.items()}
    quotes = read_quotes(PAPER_QUOTES, TABLE_SETTINGS)
    for key, layout in LAYOUTS.items():
        table = make_table(layout, (), quotes)
        if table is None or key != layout.quoted:
            continue
        for row in table.rows:
            numbers = " ".join(row.text(column) for column in table.columns)
            [line] = [line for line in lines[key] if line.replace(" (Ours)", "").startswith(f"{row.name} {numbers[:4]}")]
            assert line.replace(" (Ours)", "") == f"{row.name} {numbers}"
    for number in ("8", "9"):
        values: defaultdict[str, list[float]] = defaultdict(list)
        for quote in quotes:
            if quote.table == number:
                values[quote.system].append(quote.value)
        for name, (parameters, flops) in values.items():
            assert re.search(rf"\n{re.escape(name)}(?: \(Ours\))? {parameters} {flops}\n", text), name


def test_a_folder_of_a_run_is_not_a_file_of_quotes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="but a folder: give --quoted after the folders of the runs"):
        read_quotes(tmp_path, TABLE_SETTINGS)
