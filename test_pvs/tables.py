"""Tables in the layout of the paper: a row per system, columns by prompt and data set, averages, and what the system costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from test_pvs.finished_runs import SEMI_SUPERVISED, FinishedRun, dataset_names
from test_pvs.quotes import AVERAGE, COST, NO_SETTING, OVERALL, PARAMETERS, Quote

# Names of the paper's data sets in its tables, in their order.
PAPER_NAMES = {"esd": "ES", "pumavos": "PU", "lvvis": "LV", "sav": "SV"}
NOTHING = "-"
_FACT_TITLES = {PARAMETERS: "parameters, M", COST: "cost, GB hours"}

Column = tuple[str, str]  # setting and data set


@dataclass(frozen=True)
class Layout:
    """A table of the paper, or a figure that shows the numbers of one.

    Attributes:
        key (str): number of the table, or figure-NUMBER.
        title (str): title of the table.
        protocol (str): protocol of its runs.
        settings (tuple of str): prompts of the objects. With several, the columns are grouped by them and followed by averages,
            and runs with other settings get columns of their own.
        quoted (str): number of the table whose published numbers are shown.
        facts (tuple of str): what is shown of the systems: `PARAMETERS`, `COST`.
        datasets (tuple of str): the data sets of the paper's table. OA, their mean, is left out of a table with only one.
    """

    key: str
    title: str
    protocol: str
    settings: tuple[str, ...]
    quoted: str
    facts: tuple[str, ...] = ()
    datasets: tuple[str, ...] = tuple(PAPER_NAMES)

    @property
    def heading(self) -> str:
        """What the paper calls it."""
        return self.key.capitalize().replace("-", " ") if self.key.startswith("figure") else f"Table {self.key}"

    @property
    def stem(self) -> str:
        """Start of the names of its files."""
        return self.heading.lower().replace(" ", "_")

    @property
    def paper_names(self) -> set[str]:
        """The data sets of the paper's table, as the paper calls them."""
        return {PAPER_NAMES[name] for name in self.datasets}

    def takes(self, run: FinishedRun) -> bool:
        """Whether a run has a place in the table."""
        return run.protocol == self.protocol and (len(self.settings) > 1 or run.setting in self.settings)


_CLICKS, _THREE, _FACTS = ("1c", "3c", "5c"), ("3c",), (PARAMETERS, COST)
LAYOUTS = {
    layout.key: layout
    for layout in (
        Layout("1", "Online interactive", "online", _CLICKS, "1", _FACTS),
        Layout("2", "Offline interactive", "offline", _CLICKS, "2", _FACTS),
        Layout("3", "Image SAMs, online, 3 clicks", "online", _THREE, "3"),
        Layout("4", "Temporal feature integrator, online, 3 clicks", "online", _THREE, "4"),
        Layout("5", "Memory selective associator, online, 3 clicks", "online", _THREE, "5"),
        Layout("6", "Memory prompt generator, online, 3 clicks", "online", _THREE, "6"),
        Layout("7", "Semi-supervised", SEMI_SUPERVISED, ("3c", "bb", "gm"), "7", _FACTS),
        # The paper does not name the prompt. Its row (a) has the number that Table 7 has for the mask.
        Layout("10", "Scalability, semi-supervised from a mask", SEMI_SUPERVISED, ("gm",), "10", (COST,), ("sav",)),
        Layout("figure-6", "More image SAMs, online, 3 clicks", "online", _THREE, "3"),
    )
}
# The settings of each table that can be quoted. Tables 8 and 9, which tools/count_flops.py prints, have no J&F and no settings.
TABLE_SETTINGS: dict[str, tuple[str, ...]] = {
    str(number): LAYOUTS[str(number)].settings if str(number) in LAYOUTS else () for number in range(1, 11)
}


@dataclass(frozen=True)
class Cell:
    """A number in a table.

    Attributes:
        value (float or None): J&F in percent; None if nothing is scored.
        note (str): what a reader must know about it, such as an average over less than in the paper; often empty.
    """

    value: float | None
    note: str = ""

    def __str__(self) -> str:
        number = NOTHING if self.value is None else f"{self.value:.1f}"
        return f"{number} ({self.note})" if self.note else number


@dataclass(frozen=True)
class Row:
    """A system in a table.

    Attributes:
        name (str): name of the system.
        source (str): where its numbers were published; empty for those of runs.
        cells (dict[Column, Cell]): J&F by setting and data set; averages have the setting `AVERAGE`, and OA is
            (`NO_SETTING`, `OVERALL`).
        parameters (float or None): number of parameters in millions; None if unknown.
        cost (float or None): cost of the training in GPUs x GB x hours; None without a training, or if unknown.
    """

    name: str
    source: str
    cells: dict[Column, Cell]
    parameters: float | None = None
    cost: float | None = None

    @property
    def overall(self) -> Cell | None:
        """OA: the mean over the averages of the data sets."""
        return self.cells.get((NO_SETTING, OVERALL))

    def text(self, column: Column) -> str:
        """Return what stands in a column."""
        if column[1] == PARAMETERS:
            return NOTHING if self.parameters is None else f"{self.parameters:.1f}"
        if column[1] == COST:
            # Runs do not measure it. Quoted rows are marked as a whole.
            return NOTHING if self.cost is None else short_number(self.cost) + ("" if self.source else " (quoted)")
        return str(self.cells.get(column, NOTHING))


@dataclass(frozen=True)
class Table:
    """A table with its numbers.

    Attributes:
        layout (Layout): the layout.
        columns (list of Column): setting and data set of each column.
        rows (list of Row): the systems, measured ones first.
    """

    layout: Layout
    columns: list[Column]
    rows: list[Row]

    def header(self) -> list[str]:
        """Return the titles of all columns."""
        return ["system", "quoted", *map(self.column_title, self.columns)]

    def column_title(self, column: Column) -> str:
        """Return the title of a column; in tables with one setting only the data set."""
        setting, dataset = column
        alone = setting == NO_SETTING or len(self.layout.settings) == 1
        return _FACT_TITLES.get(dataset, dataset) if alone else f"{setting} {dataset}"

    def markdown(self) -> str:
        """Format the table as Markdown, with a title."""
        lines = [f"## {self.layout.heading}: {self.layout.title}, J&F", "", _line(self.header())]
        lines.append(_line(["---", "---", *["---:"] * len(self.columns)]))
        lines += [
            _line([row.name, f"quoted: {row.source}" if row.source else "", *map(row.text, self.columns)]) for row in self.rows
        ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Format the table as CSV; the column "quoted" has the source of quoted rows."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header())
        writer.writerows([row.name, row.source, *map(row.text, self.columns)] for row in self.rows)
        return text.getvalue()


def make_table(layout: Layout, runs: Sequence[FinishedRun], quotes: Sequence[Quote]) -> Table | None:
    """Fill a table.

    Args:
        layout (Layout): the table.
        runs (Sequence[FinishedRun]): runs of all tables.
        quotes (Sequence[Quote]): quotes of all tables.

    Returns:
        The table; None if it has neither runs nor quotes.
    """
    names = _table_names(runs)
    several = len(layout.settings) > 1
    runs = [run for run in runs if layout.takes(run)]
    quotes = [quote for quote in quotes if quote.table == layout.quoted]
    if not runs and not quotes:
        return None
    rows = [
        _measured_row([run for run in runs if run.system == system], names, layout)
        for system in dict.fromkeys(run.system for run in runs)
    ]
    rows += [
        _quoted_row([quote for quote in quotes if (quote.system, quote.source) == key])
        for key in dict.fromkeys((quote.system, quote.source) for quote in quotes)
    ]
    found = dict.fromkeys(dataset for row in rows for _, dataset in row.cells if dataset != OVERALL)
    datasets = sorted(found, key=lambda name: [*PAPER_NAMES.values(), name].index(name))
    settings = [*layout.settings, *sorted({run.setting for run in runs} - set(layout.settings))]
    facts = [name for name in layout.facts if any(getattr(row, name) is not None for row in rows)]
    columns = [(NO_SETTING, name) for name in facts]
    columns += [(setting, dataset) for setting in [*settings, *([AVERAGE] if several else [])] for dataset in datasets]
    columns += [(NO_SETTING, OVERALL)] if len(layout.paper_names | set(datasets)) > 1 else []
    return Table(layout, columns, rows)


def short_number(number: float) -> str:
    """Format a cost as the paper does: 4608 is 4.6k, 2211840 is 2.2m."""
    for size, unit in ((1e6, "m"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _table_names(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Name the data set of every run, by "data" of its settings, as the paper does where it has the data set."""
    known = {run.settings["data"]: run.settings["dataset"] for run in runs}
    names = dataset_names(runs)
    return {data: PAPER_NAMES.get(name, name) if name == known[data] else name for data, name in names.items()}


def _measured_row(runs: Sequence[FinishedRun], names: dict[str, str], layout: Layout) -> Row:
    """Make the row of a system from its runs.

    The average of a data set is that over the table's settings, and OA the mean of these averages, without incomplete runs. An
    average over less than in the paper has a note that says over what.
    """
    by_column = {(run.setting, names[run.settings["data"]]): run for run in runs}
    cells = {
        column: Cell(run.j_and_f, f"incomplete: {run.missing}" if run.missing else "") for column, run in by_column.items()
    }
    averages: dict[str, float] = {}
    parts = []  # the data sets of OA, with their settings where some are missing
    for dataset in dict.fromkeys(dataset for _, dataset in by_column):
        found = {setting: by_column.get((setting, dataset)) for setting in layout.settings}
        scores = {setting: run.j_and_f for setting, run in found.items() if run and not run.missing and run.j_and_f is not None}
        if not scores:
            continue
        averages[dataset] = float(np.mean(list(scores.values())))
        over = "" if len(scores) == len(layout.settings) else " ".join(scores)
        parts.append(f"{dataset} {over}".rstrip())
        if len(layout.settings) > 1:
            cells[AVERAGE, dataset] = Cell(averages[dataset], over and f"over {over}")
    if averages:
        whole = set(parts) == layout.paper_names
        cells[NO_SETTING, OVERALL] = Cell(
            float(np.mean(list(averages.values()))), "" if whole else f"over {', '.join(sorted(parts))}"
        )
    label = runs[0].label
    return Row(runs[0].system, "", cells, label.parameters if label else None, label.cost if label else None)


def _quoted_row(quotes: Sequence[Quote]) -> Row:
    facts = {quote.dataset: quote.value for quote in quotes if quote.dataset in _FACT_TITLES}
    cells = {(quote.setting, quote.dataset): Cell(quote.value) for quote in quotes if quote.dataset not in _FACT_TITLES}
    return Row(quotes[0].system, quotes[0].source, cells, facts.get(PARAMETERS), facts.get(COST))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Replace line breaks, which names may have, in a line of Markdown."""
    return "<br>".join(text.splitlines())
