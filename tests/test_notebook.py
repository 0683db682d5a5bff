"""The notebook in docs runs, and shows what it says."""

from __future__ import annotations

import base64
import io

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.conftest import PROJECT

# Of the pixels of a picture, how many may change by more than 40 of 255: masks may differ by some pixels on another processor,
# and with them the few colours of the picture.
LIMIT = 0.003
NOTEBOOK = PROJECT / "docs" / "segment_a_video.ipynb"


def pictures(notebook: nbformat.NotebookNode) -> list[np.ndarray]:
    """What its cells show, (H, W, 3) uint8 each."""
    encoded = [
        output.data["image/png"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in encoded]


@pytest.fixture(scope="module")
def kept() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_was_executed_from_top_to_bottom(kept) -> None:
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    other = [output for cell in code for output in cell.outputs if "image/png" not in output.get("data", {})]
    assert [output.get("text") for output in other] == ["48 frames of 640x360 pixels\n"]


def changed(a: np.ndarray, b: np.ndarray) -> float:
    """The share of the pixels that differ between two pictures of the same size."""
    return float((np.abs(a.astype(int) - b).max(axis=-1) > 40).mean())


def test_every_step_changes_what_is_shown(kept) -> None:
    _, click, clicks, box, tracked, correction, corrected = pictures(kept)
    before, after = np.split(correction, 2, axis=1)
    for earlier, later in [(click, clicks), (clicks, box), (tracked, corrected), (before, after)]:
        assert changed(earlier, later) > LIMIT


@pytest.mark.slow
def test_it_shows_today_what_it_showed(kept) -> None:
    today = nbformat.from_dict(kept)
    NotebookClient(today, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(PROJECT / "docs")}}).execute()
    then, now = pictures(kept), pictures(today)
    assert [picture.shape for picture in now] == [picture.shape for picture in then]
    for i, (a, b) in enumerate(zip(then, now, strict=True)):
        assert changed(a, b) < LIMIT, f"picture {i}: {100 * changed(a, b):.1f} % of its pixels differ from those that were kept"
