"""A server of the page with a tiny network, driven over HTTP without a socket."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from page_client import Page, PageSession

from i2v import I2VVideoPredictor
from i2v.app.guard import Guard
from i2v.app.server import Events, create_app
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


@pytest.fixture
def live(videos, tmp_path, tiny_predictor):
    """A server with a socket: its workspace, its events, and a client."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    events = Events()
    workspace = Workspace(videos, None, tmp_path / "live", tiny_predictor, events.publish)
    app = Guard(create_app(workspace, events, {}), "127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    with httpx2.Client(base_url=address, headers={"Origin": address}, timeout=30) as client:
        yield workspace, events, client, port
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
