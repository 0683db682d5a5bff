"""The command that starts the page's server: python -m i2v.app."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from page_client import connect

from i2v.app.__main__ import build_parser, main

PROJECT = Path(__file__).parents[2]
TINY = str(PROJECT / "tests" / "configs" / "tiny.yaml")


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.INFO)


def test_help(outcome, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: python -m i2v.app")
    for option in (action.option_strings[-1] for action in build_parser()._actions if action.option_strings):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mp4"], "no such video file or folder: nothing.mp4"),
        ([""], "it is empty"),
        (["--port", "70000"], "expected a whole number from 0 to 65535"),
        (["--port", "x"], "expected a whole number"),
        (["--max-sessions", "0"], "expected a whole number from 1 on"),
        (["--max-upload", "0"], "expected a whole number from 1 on"),
        (["--max-memory", "0"], "expected a whole number from 1 on"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["--config", "nothing.yaml"], "nothing.yaml"),
        (["--config", TINY], "has no bundled weights: give --checkpoint FILE"),
        (["--device", "nothing"], "nothing"),
        (["--checkpoint", "nothing.pt", "--port", "0"], "nothing.pt"),
    ],
)
def test_wrong_arguments(outcome, arguments, message, tmp_path, monkeypatch):
    """Errors come before the model is built, or at least before the server listens."""
    monkeypatch.chdir(tmp_path)
    status, said = outcome(main, *arguments, "--no-browser", "--sessions", tmp_path / "sessions")
    assert status in (1, 2) and message in said


@pytest.mark.parametrize("name", ["notes.txt", "empty.mp4", "corrupt.mp4"])
def test_a_file_that_is_no_video(outcome, tmp_path, name):
    (tmp_path / name).write_bytes(b"text" * (name != "empty.mp4"))
    status, said = outcome(main, tmp_path / name, "--no-browser", "--port", "0", "--sessions", tmp_path / "sessions")
    assert status == 1 and name in said


def test_a_port_in_use(outcome, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, said = outcome(main, "--port", port, "--no-browser", "--sessions", tmp_path)
    assert status == 1
    assert f"cannot listen on 127.0.0.1, port {port}: address already in use; choose another --port (0 for a free one)" in said


def test_a_port_is_taken_before_the_model_is_built(monkeypatch):
    from i2v.app.__main__ import _listen

    with _listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="already in use"):
        _listen("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize("package", ["uvicorn", "starlette"])
def test_missing_extra(outcome, monkeypatch, tmp_path, package):
    for name in [name for name in sys.modules if name.startswith(("i2v.app.", "starlette", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    status, said = outcome(main, "--no-browser", "--sessions", tmp_path)
    assert status == 1 and said.strip() == f'error: the page needs the package {package}: pip install -e ".[app]"'


@pytest.mark.slow
def test_part_of_the_command(outcome):
    """`python -m i2v app` does the same."""
    command = [sys.executable, "-m", "i2v", "app", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True).stdout
    assert "Click, track and correct objects in a video" in said


@contextmanager
def running(
    tmp_path: Path, checkpoint: Path, *arguments: object, cwd: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server in a process of its own: the address that it prints, and the process."""
    options = ["--config", TINY, "--checkpoint", checkpoint, "--device", "cpu", "--port", 0, "--no-browser"]
    command = [sys.executable, "-m", "i2v.app", *arguments, *options, "--sessions", tmp_path / "kept"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd or tmp_path
    ) as process:
        try:
            lines = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"the page is at (\S+) ", line):
                    yield found[1], process
                    break
            else:
                raise AssertionError("".join(lines))
        finally:
            process.kill()


@pytest.mark.slow
def test_from_start_to_end(tmp_path, tiny_checkpoint, png_folder):
    """A folder of images is opened by itself; Ctrl-C ends the server, even with a page open, and nothing is lost."""
    folder = shutil.copytree(png_folder, tmp_path / "images")
    with running(tmp_path, tiny_checkpoint, folder) as (address, process):
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])  # no token
        with httpx2.Client(base_url=address, headers={"Origin": address.rstrip("/")}, timeout=60) as client:
            assert client.get("/").headers["content-type"].startswith("text/html")
            assert client.get("/static/main.js").headers["content-type"].split(";")[0] == "text/javascript"
            info = client.get("/api/info").json()
            assert (info["open"], info["root"], info["device"]) == ("", "images", "cpu")
            assert client.get("/api/files").json()["num_images"] == 12
            session = client.post("/api/sessions", json={"path": info["open"]}).json()
            assert session["num_frames"] == 12
            base = f"/api/sessions/{session['id']}"
            client.post(f"{base}/objects", json={})
            assert client.put(f"{base}/objects/1/prompts/0", json={"points": [[16, 24, 1]]}).status_code == 200
            assert client.get("/api/info", headers={"Host": f"evil.example:{port}"}).status_code == 403
            client.post(f"{base}/track", json={"frame": 0, "direction": "forward"})
        with connect(port, f"{base}/events") as page:
            assert page.recv(12) == b"HTTP/1.1 101"
            threading.Thread(target=process.stderr.read, daemon=True).start()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) in (0, 130)
    with running(tmp_path, tiny_checkpoint, folder) as (address, _):
        assert httpx2.get(f"{address}api/sessions").json()["sessions"][0]["num_masks"] >= 1


@pytest.mark.slow
def test_a_token_where_others_can_reach_it(tmp_path, tiny_checkpoint, make_video, tiny_video):
    """A single video is opened, and nothing else of its folder is served."""
    video = make_video(tmp_path / "clip.avi", tiny_video)
    make_video(tmp_path / "other.avi", tiny_video)
    with running(tmp_path, tiny_checkpoint, video, "--host", "0.0.0.0") as (address, _):
        plain, token = re.fullmatch(r"(http://[^/:]+:\d+/)\?token=(\S{40,})", address).groups()
        assert socket.gethostname() in plain  # 127.0.0.1 would lead other machines to themselves
        assert httpx2.get(plain).status_code == 403
        assert httpx2.get(f"{plain}api/info?token=x{token}").status_code == 403
        with httpx2.Client(base_url=plain, headers={"Origin": plain.rstrip("/")}, follow_redirects=True, timeout=60) as client:
            response = client.get(address)
            assert response.status_code == 200 and token not in str(response.url)
            assert client.get("/api/info").json()["open"] == "clip.avi"
            assert [entry["name"] for entry in client.get("/api/files").json()["videos"]] == ["clip.avi"]
            assert client.post("/api/sessions", json={"path": "other.avi"}).status_code == 404
            assert client.post("/api/sessions", json={"path": "clip.avi"}).status_code == 201


@pytest.mark.slow
def test_a_folder_of_videos(tmp_path, tiny_checkpoint, make_video, tiny_video):
    """Without an argument, it is the working directory; nothing is opened by itself."""
    folder = tmp_path / "videos"
    folder.mkdir()
    make_video(folder / "clip.avi", tiny_video)
    with running(tmp_path, tiny_checkpoint, cwd=folder) as (address, _):
        assert httpx2.get(f"{address}api/info").json()["open"] is None
        assert [entry["name"] for entry in httpx2.get(f"{address}api/files").json()["videos"]] == ["clip.avi"]
