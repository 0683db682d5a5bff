"""tools/count_flops.py --tables: Tables 8 and 9 of the paper."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from i2v.modeling.memory.selector import ConsecutiveSelector, EvenlySpacedSelector, MemorySelector, SampledSelector
from test_pvs.paper.registry import read_registry
from test_pvs.quotes import PAPER_QUOTES, PARAMETERS, read_quotes
from test_pvs.tables import TABLE_SETTINGS


@pytest.fixture
def count_flops(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("count_flops")


def test_quoted_sums_are_those_of_the_quoted_parts(count_flops: ModuleType) -> None:
    table = count_flops.read_table("9")
    assert list(table) == list(count_flops.TABLE_9.values())
    overall = table.pop(count_flops.TABLE_9[count_flops.OVERALL])
    assert overall == pytest.approx([sum(numbers) for numbers in zip(*table.values(), strict=True)])


def test_quoted_numbers_are_read_when_they_are_needed(
    count_flops: ModuleType, load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, count_flops.__name__)  # and is put back after the test
    monkeypatch.setattr("test_pvs.quotes.PAPER_QUOTES", tmp_path / "nowhere.csv")
    imported = load_tool("count_flops")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        imported.quoted_components()


def test_what_is_known_of_the_components(count_flops: ModuleType) -> None:
    quoted = count_flops.quoted_components()
    assert quoted["TFI, window 3"] == "3.7 M, 26.3 G"
    assert quoted["memory attention"] == "2.8 M, 14.6 G; products 275 G *"


def test_quoted_parameters_are_those_of_table_1(count_flops: ModuleType) -> None:
    quotes = read_quotes(PAPER_QUOTES, TABLE_SETTINGS)
    parameters = {quote.system: quote.value for quote in quotes if (quote.table, quote.dataset) == ("1", PARAMETERS)}
    assert {name: numbers[0] for name, numbers in count_flops.read_table("8").items()} == parameters


@pytest.mark.slow
def test_table_9(count_flops: ModuleType) -> None:
    ours = read_registry().systems["sam-i2v"]
    rows = {name: [float(text) for text in texts] for name, *texts in count_flops.table_9(ours)}
    assert list(rows) == list(count_flops.TABLE_9)
    for parameters, quoted_parameters, flops, quoted_flops in rows.values():
        assert parameters == pytest.approx(quoted_parameters, abs=0.1)
        assert flops == pytest.approx(quoted_flops, abs=0.11)
    assert rows[count_flops.SELECTOR][2] == 0.107
    model = ours.meta_model()
    assert 2 * count_flops.selector_bytes(model) == 160 * 2**20  # 158 MB in the paper


@pytest.mark.slow
def test_table_8(count_flops: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert count_flops.main(["--tables"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| TinySAM \+ TA +\| +17\.78 \| +17\.8 \| +71\.1 \| +72\.9 \| +-14\.4 \| +-14\.5 \|", printed)
    assert re.search(r"\| SAM 2\.1 +\| +- \| +38\.9 \| +- \| +139\.9 \|", printed)
    assert "80 MiB in float32" in printed
    # With XMem++'s 62.2 M parameters, the paper's 157.0 and 72.3 M.
    assert re.search(r"\| SAM alone, one image +\| +93\.\d+ \| +- \| +\d+\.\d \|", printed)
    assert re.search(r"\| TinySAM alone, one image +\| +10\.\d+ \| +- \| +\d+\.\d \|", printed)


@pytest.mark.parametrize(
    ("selector", "compared"),
    [
        (SampledSelector(), 20),
        (SampledSelector(0, 6, local_reach=7), 7),
        (EvenlySpacedSelector(), 0),
        (ConsecutiveSelector(6), 0),
    ],
)
def test_frames_that_a_selector_compares(count_flops: ModuleType, selector: MemorySelector, compared: int) -> None:
    assert count_flops.compared_frames(selector) == compared


def test_tables_are_of_the_papers_systems(count_flops: ModuleType, outcome: Callable[..., tuple[int, str]]) -> None:
    status, said = outcome(count_flops.main, "--tables", "model.image_size=512")
    assert (status, "leave out --config and overrides" in said) == (2, True)
