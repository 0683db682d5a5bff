"""What a server has in memory and on disk: links, listings, sessions that are opened, evicted and removed, and its limits."""

from __future__ import annotations

import io
import logging
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from i2v.app import workspace as workspace_module
from i2v.app.session import AnnotationSession
from i2v.app.workspace import Workspace
from i2v.data import video_file

CLICK = (16.0, 24.0, 1)

pytestmark = pytest.mark.slow


# Links


@pytest.fixture
def secret(tmp_path, png_folder) -> Path:
    """A picture outside of the root."""
    folder = tmp_path / "secret"
    folder.mkdir()
    return shutil.copy(png_folder / "00003.png", folder / "secret.png")


def test_a_linked_image_in_a_folder(page, videos, secret, tmp_path):
    (videos / "disc" / "00003.png").unlink()
    (videos / "disc" / "00003.png").symlink_to(secret)
    status, message = page.refused("POST", "/api/sessions", {"path": "disc"})
    assert status == 409 and "00003.png is a link to a file outside" in message
    assert list((tmp_path / "sessions").iterdir()) == []
    (videos / "disc" / "00003.png").unlink()
    (videos / "disc" / "00003.png").symlink_to("00002.png")  # inside, it may be one
    page.open_video("disc")


@pytest.mark.parametrize("what", ["folder", "image"])
def test_a_video_that_becomes_a_link(session, make_page, videos, secret, png_folder, what):
    """A saved session does not open what is outside by now."""
    session.page.__exit__(None, None, None)
    if what == "image":
        (videos / "disc" / "00003.png").unlink()
        (videos / "disc" / "00003.png").symlink_to(secret)
    else:
        shutil.rmtree(videos / "disc")
        (videos / "disc").symlink_to(png_folder)
    status, message = make_page().refused("GET", session.address)
    assert status == 409 and "outside of the folder" in message


# The list of sessions


def test_lists_at_once(make_page, tmp_path):
    """Each of them is complete, and so nobody starts a new session beside a saved one."""
    first = make_page()
    for _ in range(3):
        first.open_video("disc").add()
    shutil.copytree(tmp_path / "sessions", tmp_path / "copy")  # with logs, as of a killed process
    page = make_page(folder=tmp_path / "copy")
    with ThreadPoolExecutor(8) as pool:
        lists = list(pool.map(lambda _: page.workspace.sessions(), range(100)))
    assert {len(found) for found in lists} == {3}
    assert {entry["num_objects"] for found in lists for entry in found} == {1}


def test_a_log_that_vanishes(session, monkeypatch):
    """SQLite removes it when it likes."""
    [before] = session.page.ok("GET", "/api/sessions")["sessions"]
    stat = Path.stat

    def vanished(path, **options):
        if path.name == "session.db-wal":
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanished)
    [entry] = session.page.ok("GET", "/api/sessions")["sessions"]
    assert entry["id"] == before["id"] and entry["changed"] > 0


def test_open_in_another_server(session, make_page):
    """It is listed, and so it is offered."""
    [entry] = make_page().ok("POST", "/api/sessions", {"path": "disc"})["existing"]
    assert entry["id"] == session.id and entry["is_open_elsewhere"] and not entry["is_open"]
    assert entry["num_objects"] is entry["num_masks"] is None
    [entry] = session.page.ok("GET", "/api/sessions")["sessions"]
    assert entry["is_open"] and not entry["is_open_elsewhere"]


# Opening


def test_an_opening_that_fails_leaves_nothing_locked(session, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    session.page.workspace._close(session.opened)
    with monkeypatch.context() as patch:
        patch.setattr(workspace_module, "Pictures", lambda frames: 1 / 0)
        assert session.refused("GET")[0] == 500
    assert session.add() == 1


def test_a_video_is_scanned_once(page, videos, make_video, tiny_video, monkeypatch):
    make_video(videos / "clip.avi", tiny_video)
    scans = []
    scan = video_file._scan
    monkeypatch.setattr(video_file, "_scan", lambda path: (scans.append(path), scan(path))[1])
    session = page.open_video("clip.avi")
    assert page.get(f"{session.address}/frames/3").status_code == 200 and len(scans) == 1
    page.workspace._close(session.opened)
    assert page.get(f"{session.address}/frames/4").status_code == 200 and len(scans) == 2


def test_a_slow_opening_stops_nothing_else(session, videos, monkeypatch):
    """Neither lists, nor other sessions, nor others that are opened."""
    shutil.copytree(videos / "disc", videos / "slow")
    page, reached, go = session.page, threading.Event(), threading.Event()
    open_frames = workspace_module.open_frames

    def slow(video):
        if video.name == "slow":
            reached.set()
            assert go.wait(60)
        return open_frames(video)

    monkeypatch.setattr(workspace_module, "open_frames", slow)
    with ThreadPoolExecutor(2) as pool:
        opening = pool.submit(page.open_video, "slow")
        try:
            assert reached.wait(10)
            assert len(page.ok("GET", "/api/sessions")["sessions"]) == 1
            assert session.add() == 1
            page.open_video("disc").add()
        finally:
            go.set()
        assert opening.result(60).ok("GET")["num_frames"] == 12


def test_many_openings_at_once(make_page):
    """With room for two sessions: no one is opened twice, none is left locked."""
    page = make_page(max_sessions=2)
    sessions = [page.open_video("disc") for _ in range(4)]

    def use(number: int) -> int:
        return page.get(sessions[number % 4].address).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(use, range(80)))
    assert set(statuses) <= {200, 429}
    assert len(page.workspace._open) <= 2 and not page.workspace._opening
    assert [use(number) for number in range(4)] == [200] * 4


def blocked(workspace: Workspace) -> threading.Event:
    """The network waits until this is set."""
    started, go = threading.Event(), threading.Event()
    workspace.scheduler.submit(0, lambda: (started.set(), go.wait(60)))
    assert started.wait(10)
    return go


def test_a_session_in_use_is_not_evicted(make_page):
    """Not even where no page shows it."""
    page = make_page(max_sessions=1)
    session = page.open_video("disc")
    go = blocked(page.workspace)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(session.add)
        try:
            while session.opened.num_users == 0:
                time.sleep(0.01)
            assert page.refused("POST", "/api/sessions", {"path": "disc", "new": True})[0] == 429
        finally:
            go.set()
        assert adding.result(60) == 1
    page.open_video("disc").add()
    assert session.add() == 2  # it was evicted, and is opened again


def test_a_session_removed_during_a_change(session):
    """The change finds no session; that is no mistake of the server."""
    page, opened = session.page, session.opened
    go = blocked(page.workspace)
    with ThreadPoolExecutor(2) as pool:
        removing = pool.submit(page.delete, session.address)
        while not opened.is_closed:
            time.sleep(0.01)
        opened.is_closed = False  # a request came just before
        changing = pool.submit(session.refused, "POST", "/objects", {})
        while opened.num_users == 0:
            time.sleep(0.01)
        opened.is_closed = True
        go.set()
        assert removing.result(60).status_code == 204
        assert changing.result(60)[0] == 404


# Exports


def test_replies_do_not_read_exports_from_disk(session, make_page, tmp_path):
    """The list is read when the session is opened, and after each export."""
    session.add()
    session.click(1, 0, CLICK)
    session.export("masks")
    [export] = session.ok("GET")["exports"]
    session.page.__exit__(None, None, None)
    again = make_page().session(session.id)
    assert again.ok("GET")["exports"] == [export]
    shutil.rmtree(tmp_path / "sessions" / session.id / "exports")
    assert again.ok("GET")["exports"] == [export]


# Mistakes of the server


@pytest.mark.parametrize("error", [KeyError("x"), IndexError("x"), TypeError("x"), AttributeError("x")])
@pytest.mark.parametrize("method", ["set_prompt", "edit_object", "masks", "start_tracking"])
def test_mistakes_are_logged(session, caplog, method, error):
    """They do not look as if the request were bad."""
    session.add()
    session.click(1, 0, CLICK)

    def fail(*arguments, **options):
        raise error

    setattr(session.inside, method, fail)
    verb, path, body = {
        "set_prompt": ("PUT", "/objects/1/prompts/0", {"points": [CLICK]}),
        "edit_object": ("PATCH", "/objects/1", {"name": "x"}),
        "masks": ("GET", "/masks/0", None),
        "start_tracking": ("POST", "/track", {"frame": 0, "direction": "both"}),
    }[method]
    status, message = session.refused(verb, path, body)
    assert status == 500 and "the server made a mistake" in message
    assert caplog.records[-1].exc_info[1] is error


# Static files


def test_static_files_are_checked_for_changes(page):
    for path in ("/", "/static/main.js", "/static/style.css"):
        response = page.get(path)
        assert response.headers["cache-control"] == "no-cache"
        again = page.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert path == "/" or again.status_code == 304


# Uploads

FILES = {"files": [{"name": "a.png", "bytes": 1}]}


def age(folder: Path) -> None:
    """Make all of a folder two hours old."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - 7200,) * 2)


def test_uploads_of_closed_tabs_make_room(page, tmp_path):
    """Those to which nothing was written for an hour."""
    begun = [page.ok("POST", "/api/uploads", FILES)["upload"] for _ in range(8)]
    assert page.refused("POST", "/api/uploads", FILES)[0] == 429
    for upload in begun:
        age(tmp_path / "sessions" / upload)
    assert page.put(f"/api/uploads/{begun[0]}/0", content=b"x").status_code == 204  # this one goes on
    page.ok("POST", "/api/uploads", FILES)
    assert {path.name for path in (tmp_path / "sessions").iterdir()} & set(begun) == {begun[0]}


def test_folders_that_are_no_session(session, tmp_path):
    """A killed process may leave them; other folders are none of this server."""
    sessions = tmp_path / "sessions"
    for name in ("0" * 16, "1" * 16, "mine"):
        (sessions / name).mkdir()
    for folder in (sessions / ("0" * 16), sessions / "mine", sessions / session.id):
        age(folder)
    upload = session.page.ok("POST", "/api/uploads", FILES)["upload"]
    assert {path.name for path in sessions.iterdir()} == {"1" * 16, "mine", session.id, upload}


def test_the_same_file_twice_at_once(live, tmp_path):
    """One that stops half way does not spoil the other."""
    *_, client, port = live
    upload = client.post("/api/uploads", json={"files": [{"name": "a.png", "bytes": 9}]}).json()["upload"]
    address, folder = f"/api/uploads/{upload}/0", tmp_path / "live" / upload / "video"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        lines = [f"PUT {address} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}", "Content-Length: 9"]
        connection.sendall("\r\n".join([*lines, "", "half"]).encode())
        while not list(folder.iterdir()):
            time.sleep(0.01)
        assert client.put(address, content=b"the whole").status_code == 204
    while len(list(folder.iterdir())) > 1:
        time.sleep(0.01)
    assert (folder / "a.png").read_bytes() == b"the whole"


# Memory


def test_memory(make_page, monkeypatch):
    """Idle sessions make room; then tracking and further sessions are refused."""
    monkeypatch.setattr(AnnotationSession, "bytes_kept", property(lambda self: 1000 * self.num_masks()))
    page = make_page(max_bytes=20_000)
    idle, session = page.open_video("disc"), page.open_video("disc")
    for each in (idle, session):
        each.add()
        each.click(1, 0, CLICK)
        each.track(0, "forward", 8)
    assert page.workspace._open.keys() == {idle.id, session.id}
    session.track(8)  # 12 masks beside the other's 8
    assert page.workspace._open.keys() == {session.id}
    session.add()
    session.click(2, 0, CLICK)
    status, message = session.refused("POST", "/track", {"frame": 0, "direction": "forward"})
    assert status == 429 and "--max-memory" in message
    session.track(0, "forward", 2)
    page.workspace._max_bytes = 10_000
    with page.websocket_connect(f"ws://127.0.0.1:7860{session.address}/events") as tab:
        tab.receive_json()
        assert idle.refused("GET")[0] == 429
    while session.opened.num_users:
        time.sleep(0.01)
    idle.ok("GET")


def test_preview_of_a_video_file(page, videos):
    """Every fifth frame of a file, without opening it; folders have none, and nothing leads out of the root."""
    shutil.copy(Path(__file__).parents[2] / "assets" / "bunny.mp4", videos)
    answer = page.get("/api/preview", params={"path": "bunny.mp4"})
    parts = [part.split(b"\r\n\r\n", 1)[1] for part in answer.content.split(b"--picture\r\n")[1:]]
    sizes = {Image.open(io.BytesIO(part)).size for part in parts}
    assert (len(parts), sizes) == (10, {(640, 360)})
    for path in ("disc", "../bunny.mp4", "none.mp4"):
        assert page.refused("GET", f"/api/preview?path={path}")[0] == 404
    (videos / "text.mp4").write_text("no video")
    assert page.refused("GET", "/api/preview?path=text.mp4")[0] == 400
