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
    assert not [output for cell in code for output in cell.outputs if output.output_type in ("error", "stream")][1:]


def test_it_shows_today_what_it_showed(kept) -> None:
    today = nbformat.from_dict(kept)
    NotebookClient(today, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(PROJECT / "docs")}}).execute()
    then, now = pictures(kept), pictures(today)
    assert [picture.shape for picture in now] == [picture.shape for picture in then]
    for i, (a, b) in enumerate(zip(then, now, strict=True)):
        # Masks may differ by some pixels on another processor, and with them the few colours of a picture.
        differs = (np.abs(a.astype(int) - b).max(axis=-1) > 80).mean()
        assert differs < 0.02, f"picture {i}: {100 * differs:.1f} % of its pixels are others than those that were kept"
