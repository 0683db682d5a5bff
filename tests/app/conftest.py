"""A server of the page with a tiny network, driven over HTTP without a socket."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason='needs the extra: pip install -e ".[app]"')

from page_client import Page, PageSession

from i2v import I2VVideoPredictor
from i2v.app.workspace import Workspace


@pytest.fixture
def videos(png_folder: Path, tmp_path: Path) -> Path:
    """The server's root: a folder with the tiny video as a folder of images."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copytree(png_folder, folder / "disc")
    return folder


@pytest.fixture
def make_page(videos: Path, tmp_path: Path, tiny_predictor: I2VVideoPredictor) -> Iterator[Callable[..., Page]]:
    """Starts servers on the same sessions folder; options are those of `Workspace`, and the predictor."""
    running: list[Page] = []

    def make(predictor: I2VVideoPredictor = tiny_predictor, folder: Path = tmp_path / "sessions", **options: Any) -> Page:
        root = options.pop("root", videos)
        only = options.pop("only", None)
        page = Page(lambda notify: Workspace(root, only, folder, predictor, notify, **options))
        page.__enter__()
        running.append(page)
        return page

    yield make
    for page in running:
        if page.portal is not None:
            page.__exit__(None, None, None)


@pytest.fixture
def page(make_page: Callable[..., Page]) -> Page:
    """A running server."""
    return make_page()


@pytest.fixture
def session(page: Page) -> PageSession:
    """A new session of the tiny video: 12 frames of 64x48 pixels, a disc that moves right from (16, 24)."""
    return page.open_video("disc")
