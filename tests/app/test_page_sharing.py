"""Several sessions and pages at once: none stops another."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from page_client import connect

from i2v.app import server as server_module
from i2v.app.jobs import Job
from i2v.app.server import Events

pytestmark = pytest.mark.slow
CLICK = (16.0, 24.0, 1)


class Broken:
    """A predictor with methods that fail."""

    def __init__(self, predictor, error: Exception, *names: str) -> None:
        self._predictor, self._error, self._names = predictor, error, names

    def __getattr__(self, name):
        if name in self._names:
            return self._fail
        return getattr(self._predictor, name)

    def _fail(self, *arguments, **options):
        raise self._error


@pytest.fixture
def two(page, session):
    """Two sessions with a click in frame 0 each."""
    other = page.open_video("disc")
    for each in (session, other):
        each.add()
        each.click(1, 0, CLICK)
    return session, other


@contextmanager
def events_of(session) -> Iterator[list[dict]]:
    """The events of a session until the end of the block, and the error that ends its job."""
    heard: list[dict] = []
    with session.page.websocket_connect(f"ws://127.0.0.1:7860{session.address}/events") as tab:
        yield heard
        while not heard or heard[-1]["type"] != "error":
            heard.append(tab.receive_json())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("boom"), "tracking failed: boom"),
        (MemoryError(), "out of memory"),
        (ValueError("not finite"), "not finite"),
        (IndexError(), "tracking failed: IndexError"),
    ],
)
def test_an_error_in_one_session(two, error, message):
    session, other = two
    inside = session.inside
    predictor = inside._predictor
    inside._predictor = Broken(predictor, error, "propagate_in_video")
    with events_of(session) as events:
        session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
        other.track(0)
    assert events[-1]["message"] == message
    assert len([t for t in range(12) if other.masks(t)]) == 12
    assert session.wait()["problem"] is None
    inside._predictor = predictor
    session.track(0)
    assert session.all_masks() == other.all_masks()


def test_an_error_in_the_middle_of_tracking(two):
    """What was tracked before stays, and tracking goes on from there."""
    session, other = two
    inside, record = session.inside, session.inside._record

    def fail(frame, *arguments, **options):
        if frame == 6:
            raise RuntimeError("boom")
        record(frame, *arguments, **options)

    inside._record = fail
    with events_of(session):
        session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    session.wait()
    assert [t for t in range(12) if session.masks(t)] == list(range(6))
    assert session.inside.prompt_file().steps[-1].frames == 5
    inside._record = record
    session.track(11), other.track(0)
    assert session.all_masks() == other.all_masks()


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("boom"), 500), (ValueError("not finite"), 400)])
def test_an_error_of_a_click(two, error, status):
    """The session is as it was."""
    session, other = two
    inside = session.inside
    predictor, before = inside._predictor, session.state()
    inside._predictor = Broken(predictor, error, "add_prompt")
    answer = session.refused("PUT", "/objects/1/prompts/3", {"points": [CLICK]})
    assert answer[0] == status and str(error) in answer[1]
    inside._predictor = predictor
    assert session.state() == before and session.ok("GET")["undo"] == "click of Object 1 in frame 0"
    other.click(1, 3, CLICK)


def test_sessions_take_turns(page, two, monkeypatch):
    frames = []
    advance = Job.advance

    def note(job, done):
        frames.append(id(job))
        advance(job, done)

    monkeypatch.setattr(Job, "advance", note)
    sessions = [session.inside for session in two]
    started, go = threading.Event(), threading.Event()
    page.workspace.scheduler.submit(0, lambda: (started.set(), go.wait()))
    assert started.wait(10)
    for inside in sessions:  # both before the first frame
        page.workspace.scheduler.submit(0, lambda inside=inside: inside.start_tracking(0, [False], None))
    go.set()
    for session in two:
        session.wait()
    while len(frames) < 22:
        time.sleep(0.01)
    assert len(set(frames)) == 2 and all(one != other for one, other in pairwise(frames))


def test_clicks_are_answered_during_tracking(two):
    session, other = two
    session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    other.click(1, 5, CLICK)
    job = session.ok("GET")["job"]
    assert job is not None and job["done"] < job["total"]
    session.wait()


def test_one_job_at_a_time(session):
    session.add()
    assert session.refused("POST", "/track", {"frame": 0, "direction": "both"}) == (
        409,
        "nothing to track: click an object first",
    )
    session.click(1, 0, CLICK)
    session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    for path, body in (("/track", {"frame": 0, "direction": "forward"}), ("/export", {"formats": ["masks"]})):
        status, message = session.refused("POST", path, body)
        assert status == 409 and "stop the running job" in message
    assert session.ok("POST", "/stop", {})["job"] is None
    assert session.ok("POST", "/stop", {})["job"] is None  # nothing to stop
    assert len([t for t in range(12) if session.masks(t)]) < 12
    session.track(0)


def test_stopped_export_leaves_nothing(session, tmp_path, monkeypatch):
    session.add()
    session.click(1, 0, CLICK)
    session.track(0)
    advance = Job.advance

    def stop_soon(job, done):
        job.stopping = job.stopping or done == 3
        advance(job, done)

    monkeypatch.setattr(Job, "advance", stop_soon)
    session.ok("POST", "/export", {"formats": ["masks", "overlay"]})
    assert session.wait()["exports"] == []
    assert list((tmp_path / "sessions" / session.id / "exports").iterdir()) == []
    monkeypatch.undo()
    session.export("masks")


def test_failed_export_is_told(session, monkeypatch):
    session.add()
    session.click(1, 0, CLICK)

    def fail(*arguments):
        raise OSError("cannot write x: the disk is full")

    monkeypatch.setattr("i2v.app.exporting.export", fail)
    with events_of(session) as events:
        session.ok("POST", "/export", {"formats": ["masks"]})
    assert events[-1]["message"] == "the export failed: cannot write x: the disk is full"
    assert session.wait()["exports"] == []


def test_the_last_exports_are_kept(session):
    session.add()
    status, message = session.refused("POST", "/export", {"formats": ["masks"]})
    assert status == 409 and "no masks" in message
    assert session.refused("POST", "/export", {"formats": ["prompts"]})[0] == 409
    session.click(1, 0, CLICK)
    kept = []
    for _ in range(5):
        session.export("masks")
        kept.append(session.ok("GET")["exports"][0]["id"])
        time.sleep(0.02)  # they are sorted by time
    assert [export["id"] for export in session.ok("GET")["exports"]] == kept[:1:-1]
    assert session.refused("GET", f"/exports/{kept[0]}")[0] == 404


def test_a_session_removed_while_it_tracks(two, tmp_path):
    session, other = two
    session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    other.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    assert session.page.request("DELETE", session.address).status_code == 204
    assert not (tmp_path / "sessions" / session.id).exists()
    assert session.refused("GET")[0] == 404
    other.wait()
    assert len([t for t in range(12) if other.masks(t)]) == 12


def test_a_video_deleted_while_it_is_tracked(page, videos, png_folder, monkeypatch):
    """It is said, and other sessions go on."""
    shutil.copytree(png_folder, videos / "copy")
    session, other = page.open_video("copy"), page.open_video("disc")
    for each in (session, other):
        each.add()
        each.click(1, 0, CLICK)
    advance = Job.advance

    def delete(job, done):
        if done == 2:
            shutil.rmtree(videos / "copy", ignore_errors=True)
        advance(job, done)

    monkeypatch.setattr(Job, "advance", delete)
    with events_of(session) as events:
        session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
    assert "000" in events[-1]["message"] and session.wait()["job"] is None
    tracked = [t for t in range(12) if session.masks(t)]
    assert 2 < len(tracked) < 12
    assert session.refused("GET", "/frames/11")[0] in (400, 404)
    monkeypatch.undo()
    other.track(0)
    assert len([t for t in range(12) if other.masks(t)]) == 12


def test_a_slow_page_starts_over():
    """Its events are dropped, and it is told to go; others get all."""

    async def run():
        events = Events()
        events.start()
        async with events.subscription("a") as slow, events.subscription("a") as quick, events.subscription("b") as other:
            heard = []
            for number in range(1000):
                events.publish("a", {"type": "timeline", "number": number})
                await asyncio.sleep(0)
                while not quick.empty():
                    heard.append(quick.get_nowait()["number"])
            assert heard == list(range(1000))
            assert slow.qsize() <= server_module._MAX_EVENTS
            assert slow.get_nowait() is None or None in list(slow._queue)
            assert other.empty()
        events.publish("a", {"type": "timeline"})  # nobody listens
        await asyncio.sleep(0)

    asyncio.run(run())


def until(condition, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_page_that_does_not_read(live, monkeypatch):
    """It is disconnected, and nobody waits for it."""
    monkeypatch.setattr(server_module, "_MAX_SEND_SECONDS", 1)
    workspace, events, client, port = live
    session = client.post("/api/sessions", json={"path": "disc"}).json()["id"]
    address = f"/api/sessions/{session}"
    opened = workspace.open(session)
    with connect(port, f"{address}/events"):
        until(lambda: opened.num_users == 1)
        client.post(f"{address}/objects", json={})
        assert client.put(f"{address}/objects/1/prompts/0", json={"points": [CLICK]}).status_code == 200
        for _ in range(400):
            events.publish(session, {"type": "timeline", "padding": "x" * 100_000})
        assert client.post(f"{address}/track", json={"frame": 0, "direction": "forward"}).status_code == 202
        until(lambda: client.get(address).json()["job"] is None)
        assert client.get(f"{address}/masks/11").json()["objects"]
        until(lambda: opened.num_users == 0)


def test_a_page_that_goes_away(live):
    workspace, _, client, port = live
    session = client.post("/api/sessions", json={"path": "disc"}).json()["id"]
    opened = workspace.open(session)
    connection = connect(port, f"/api/sessions/{session}/events")
    until(lambda: opened.num_users == 1)
    connection.close()
    until(lambda: opened.num_users == 0)


def test_an_upload_that_stops_half_way(live, tmp_path):
    """Nothing is left of the file, and the server goes on."""
    _, _, client, port = live
    upload = client.post("/api/uploads", json={"files": [{"name": "a.png", "bytes": 100_000}]}).json()["upload"]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        origin = f"http://127.0.0.1:{port}"
        lines = [
            f"PUT /api/uploads/{upload}/0 HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Origin: {origin}",
            "Content-Length: 100000",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + bytes(5000))
        folder = tmp_path / "live" / upload / "video"
        until(lambda: os.listdir(folder))  # noqa: PTH208
        assert client.get("/api/info").status_code == 200
    until(lambda: not os.listdir(folder))  # noqa: PTH208
    assert client.post(f"/api/uploads/{upload}/open").status_code == 409


def test_refused_websocket_over_a_socket(live):
    *_, port = live
    for host, answer in (("127.0.0.1", b"HTTP/1.1 101"), ("evil.example", b"HTTP/1.1 403")):
        with connect(port, "/api/sessions/0123456789abcdef/events", host) as connection:
            assert connection.recv(12) == answer


def test_closing_while_it_tracks_and_a_page_listens(make_page, videos):
    """Everything ends; what was tracked is saved."""
    page = make_page()
    session = page.open_video("disc")
    session.add()
    session.click(1, 0, CLICK)
    with page.websocket_connect(f"ws://127.0.0.1:7860{session.address}/events") as tab:
        tab.receive_json()
        session.ok("POST", "/track", {"frame": 0, "direction": "forward"})
        while tab.receive_json()["type"] != "frame":
            pass
    page.__exit__(None, None, None)
    [entry] = make_page().ok("GET", "/api/sessions")["sessions"]
    assert 2 <= entry["num_masks"] <= 12
