"""Nothing is lost: sessions that are reopened, killed processes, full disks, two servers, two tabs."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from page_client import PageSession

from i2v.app.jobs import Job
from i2v.app.store import MaskRow, SessionStore

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]
TINY = PROJECT / "tests" / "configs" / "tiny.yaml"
CLICK = (16.0, 24.0, 1)
AWAY = (50.0, 10.0, 0)
# Memories are saved in half precision, so that a pixel at the very edge of a mask may differ after a restart.
MAX_SHARE_OF_PIXELS = 0.01


@pytest.fixture
def corrected(session: PageSession) -> PageSession:
    """Objects of a click, a box and a mask, tracked; one is corrected, one is hidden, and one more was removed."""
    for _ in range(4):
        session.add()
    session.click(1, 0, CLICK)
    session.click(2, 3, box=[30, 10, 50, 40])
    session.click(3, 1, mask={"size": [48, 64], "counts": [1000, 30, 18, 30, 1994]})
    session.click(4, 0, CLICK)
    session.track(0)
    session.click(1, 6, AWAY)
    session.track(6, "forward", 2)
    session.ok("PATCH", "/objects/2", {"name": "Ünïcode 🐇", "colour": "#010203", "hidden": True})
    session.ok("DELETE", "/objects/4")
    return session


def largest_difference(some: PageSession, other: PageSession) -> float:
    """Of the masks of two sessions: the largest share of a frame's pixels."""
    shares = []
    for t in range(some.ok("GET")["num_frames"]):
        masks, others = some.masks(t), other.masks(t)
        assert masks.keys() == others.keys(), t
        shares += [float(np.mean(masks[obj] != others[obj])) for obj in masks]
    return max(shares)


@pytest.mark.parametrize("how", ["closed", "not closed"])
def test_reopened(corrected, make_page, tmp_path, how):
    """Everything that is shown comes back bit for bit; tracking goes on as if nothing had happened."""
    before, listed = corrected.state(), corrected.page.ok("GET", "/api/sessions")["sessions"]
    steps = corrected.ok("GET"), corrected.inside.prompt_file().steps
    if how == "closed":
        corrected.page.__exit__(None, None, None)
        page = make_page()
    else:  # a copy of the files as they are while the server runs is what a killed process leaves
        shutil.copytree(tmp_path / "sessions", tmp_path / "copy")  # with times
        page = make_page(folder=tmp_path / "copy")
    [entry] = page.ok("GET", "/api/sessions")["sessions"]
    assert entry["changed"] == pytest.approx(listed[0]["changed"], abs=2 if how == "closed" else 0.001)
    assert (entry["num_objects"], entry["num_masks"]) == (3, listed[0]["num_masks"])
    assert not entry["is_open"] and entry["path"] == "disc"
    assert page.ok("POST", "/api/sessions", {"path": "disc"}) == {"existing": [entry]}
    session = page.session(corrected.id)
    session.ok("POST", "/open", {})
    assert session.state() == before
    assert len(session.inside.prompt_file().steps) == len(steps[1])
    assert session.add() == 5  # numbers are not given twice
    session.track(8)
    assert session.outdated() == []


def test_tracking_on_after_reopening(session, make_page, tmp_path):
    """The masks are those of a session that was not closed, up to rounding."""
    session.add()
    session.click(1, 0, CLICK)
    session.track(0, "forward", 4)
    session.click(1, 2, AWAY)
    shutil.copytree(tmp_path / "sessions", tmp_path / "copy")
    session.track(2)
    again = make_page(folder=tmp_path / "copy").session(session.id)
    again.track(2)
    assert again.outdated() == session.outdated() == []
    assert largest_difference(session, again) <= MAX_SHARE_OF_PIXELS


def test_killed_while_it_tracks(make_page, videos, tmp_path, tiny_checkpoint):
    """At most the current frame is lost, and tracking goes on."""
    folder = tmp_path / "sessions"
    first = make_page()
    session = first.open_video("disc")
    session.add()
    session.click(1, 0, CLICK)
    shutil.copytree(folder, tmp_path / "uninterrupted")
    first.__exit__(None, None, None)
    command = [sys.executable, Path(__file__).with_name("page_process.py"), videos, folder, session.id, TINY, tiny_checkpoint]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.strip() == "5":
                process.send_signal(signal.SIGKILL)
                break
    page = make_page()
    [entry] = page.ok("GET", "/api/sessions")["sessions"]
    assert entry["num_masks"] >= 6
    assert page.ok("POST", "/api/sessions", {"path": "disc"})["existing"][0]["id"] == session.id
    session = page.session(session.id)
    shown = [t for t in range(12) if session.masks(t)]
    assert shown in (list(range(6)), list(range(7)))
    step = session.inside.prompt_file().steps[-1]
    assert (step.start, step.frames) == (1, len(shown) - 1)  # and so a replay does it, too
    session.track(11)
    whole = make_page(folder=tmp_path / "uninterrupted").session(session.id)
    whole.track(0)
    assert largest_difference(session, whole) <= MAX_SHARE_OF_PIXELS


def test_killed_in_the_second_direction(session, make_page, tmp_path, monkeypatch):
    """What was tracked in the first one is among the steps of a replay."""
    session.add()
    session.click(1, 5, CLICK)
    advance = Job.advance

    def killed(job, done):
        advance(job, done)
        if done == 9:
            shutil.copytree(tmp_path / "sessions", tmp_path / "copy")

    monkeypatch.setattr(Job, "advance", killed)
    session.track(5, "both")
    again = make_page(folder=tmp_path / "copy").session(session.id)
    steps = again.inside.prompt_file().steps[1:]
    assert [(step.start, step.frames, step.reverse) for step in steps] == [(6, 6, False), (4, 2, True)]
    assert [t for t in range(12) if again.masks(t)] == list(range(3, 12))


def test_torn_log(corrected, make_page, tmp_path):
    """What was written last is missing; all before is there."""
    before = corrected.state()
    wal = tmp_path / "sessions" / corrected.id / "session.db-wal"
    corrected.page.workspace.scheduler.submit(0, lambda: None).result()
    size = wal.stat().st_size
    corrected.ok("PATCH", "/objects/1", {"name": "torn"})
    folder = shutil.copytree(tmp_path / "sessions", tmp_path / "copy")
    copy = folder / corrected.id / "session.db-wal"
    assert copy.stat().st_size > size
    os.truncate(copy, copy.stat().st_size - 100)
    assert make_page(folder=folder).session(corrected.id).state() == before


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_damaged_file(session, make_page, content, tmp_path):
    """It says so, and other sessions are not affected."""
    page = session.page
    other = page.open_video("disc")
    page.__exit__(None, None, None)
    for path in (tmp_path / "sessions" / session.id).glob("session.db*"):
        path.unlink()
    (tmp_path / "sessions" / session.id / "session.db").write_bytes(content)
    page = make_page()
    if content:
        status, message = page.refused("POST", f"/api/sessions/{session.id}/open", {})
        assert status == 400 and "session.db" in message
    else:
        page.ok("POST", f"/api/sessions/{session.id}/open", {})
    assert other.id in {entry["id"] for entry in page.ok("GET", "/api/sessions")["sessions"]}
    page.session(other.id).add()


def limit_pages(session: PageSession, more: int | None) -> None:
    """Let the session's file grow by so many pages of 4 KiB only; None for any number."""
    database = session.inside.store._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {2**30 if more is None else pages + more}")


def test_full_disk(session, make_page, tmp_path):
    """It is said, tracking stops, all stays in memory, and is saved once there is room."""
    session.add()
    session.click(1, 0, CLICK)
    limit_pages(session, 8)
    with session.page.websocket_connect(f"ws://127.0.0.1:7860{session.address}/events") as tab:
        session.track(0)
        events = []
        while not events or events[-1]["type"] != "error":
            events.append(tab.receive_json())
    assert "disk is full" in events[-1]["message"] and "tracking was stopped" in events[-1]["message"]
    problem = session.ok("GET")["problem"]
    assert problem.startswith("not saved: ") and "disk is full" in problem and "free some space" in problem
    tracked = [t for t in range(12) if session.masks(t)]
    assert 1 < len(tracked) < 12
    session.click(1, 1, AWAY)  # everything can still be used
    session.ok("POST", "/undo", {})
    session.click(1, tracked[-1], AWAY)
    outdated = session.outdated()
    limit_pages(session, None)
    session.ok("PATCH", "/objects/1", {"name": "saved"})
    assert session.ok("GET")["problem"] is None
    state = session.state()
    assert session.outdated() == outdated
    shutil.copytree(tmp_path / "sessions", tmp_path / "copy")
    assert make_page(folder=tmp_path / "copy").session(session.id).state() == state
    session.track(11)


def test_marks_that_could_not_be_saved(session, make_page, tmp_path):
    """What is out of date is known after a disk was full, too."""
    session.add()
    session.click(1, 0, CLICK)
    session.track(0)
    limit_pages(session, 0)
    session.page.workspace.scheduler.submit(0, lambda: session.inside.store._database.execute("PRAGMA query_only = 1")).result()
    session.click(1, 5, AWAY)
    assert session.ok("GET")["problem"]
    assert [entry["outdated"] for entry in session.ok("GET", "/masks/7")["objects"].values()] == [True]
    session.inside.store._database.execute("PRAGMA query_only = 0")
    limit_pages(session, None)
    session.ok("POST", "/objects", {})
    shutil.copytree(tmp_path / "sessions", tmp_path / "copy")
    again = make_page(folder=tmp_path / "copy").session(session.id)
    assert again.outdated() == [6, 7, 8, 9, 10, 11]
    assert [entry["outdated"] for entry in again.ok("GET", "/masks/7")["objects"].values()] == [True]


def test_two_servers(session, make_page):
    """The second one refuses a session that is open in the first, and may use others."""
    other = make_page()
    status, message = other.refused("POST", f"{session.address}/open", {})
    assert status == 409 and "open in another server" in message
    other.open_video("disc").add()
    session.add()
    session.page.__exit__(None, None, None)
    assert len(other.ok("POST", f"{session.address}/open", {})["objects"]) == 1


def test_second_tab(session):
    """Each tab hears of what the other does."""
    address = f"ws://127.0.0.1:7860{session.address}/events"
    with session.page.websocket_connect(address) as one, session.page.websocket_connect(address) as other:
        assert [tab.receive_json()["type"] for tab in (one, other)] == ["session", "session"]
        session.add()
        for tab in (one, other):
            event = tab.receive_json()
            assert event["type"] == "session" and [obj["id"] for obj in event["session"]["objects"]] == [1]
        session.click(1, 0, CLICK)
        assert all(tab.receive_json()["session"]["undo"] == "click of Object 1 in frame 0" for tab in (one, other))
        session.track(0)
        heard = []
        for tab in (one, other):
            events = [tab.receive_json()]
            while events[-1] != {"type": "job", "job": None}:
                events.append(tab.receive_json())
            heard.append(events)
            frames = [event for event in events if event["type"] == "frame"]
            assert [event["frame"] for event in frames] == list(range(1, 12))
            assert [event["job"]["done"] for event in frames] == list(range(1, 12))
            assert all(event["objects"]["1"]["outdated"] is False for event in frames)
        assert heard[0] == heard[1]
    with session.page.websocket_connect(address) as late:
        assert late.receive_json()["session"] == session.ok("GET")


def test_a_video_that_has_changed(session, make_page, videos):
    page = session.page
    page.__exit__(None, None, None)
    (videos / "disc" / "00011.png").unlink()
    page = make_page()
    status, message = page.refused("POST", f"{session.address}/open", {})
    assert status == 409 and "has changed" in message
    shutil.rmtree(videos / "disc")
    status, message = page.refused("POST", f"{session.address}/open", {})
    assert status == 409 and "put it back" in message
    assert page.request("DELETE", session.address).status_code == 204
    assert page.ok("GET", "/api/sessions") == {"sessions": []}


def test_store_keeps_what_it_could_not_write(tmp_path):
    """All kinds of changes: masks, removals, marks, outputs and facts."""
    store = SessionStore(tmp_path / "session.db")
    row = MaskRow(1, 0, "rle", None, 0.5, 0.9, False, False, 1)
    store.set_mask(row), store.set_mask(MaskRow(1, 1, "b", "v", 0.1, 0.2, False, True, 2)), store.set_output(1, 0, b"x")
    store.save()
    store._database.execute("PRAGMA query_only = 1")
    store.set_outdated(1, [0], True)
    store.remove_mask(1, 1)
    store.set_output(1, 0, None)
    store.set_fact("name", ["ü"])
    with pytest.raises(OSError, match=r"cannot write .*session\.db"):
        store.save()
    row.outdated = True
    assert (store.masks(0), store.masks(1), store.fact("name")) == ([row], [], ["ü"])
    store._database.execute("PRAGMA query_only = 0")
    store.save()
    store.close()
    store = SessionStore(tmp_path / "session.db")
    assert (store.masks(0), store.masks(1), store.fact("name")) == ([row], [], ["ü"])
    assert list(store.outputs([1])) == [] and store.fact("unknown", 3) == 3
    store.close()


def test_store_of_another_version(tmp_path):
    store = SessionStore(tmp_path / "session.db")
    store.set_fact("version", 99)
    store.save(), store.close()
    with pytest.raises(ValueError, match="another version of the page"):
        SessionStore(tmp_path / "session.db")
    with sqlite3.connect(tmp_path / "session.db", timeout=0) as database:  # and it was closed again
        database.execute("UPDATE facts SET value = '1'")
    database.close()
    SessionStore(tmp_path / "session.db").close()
