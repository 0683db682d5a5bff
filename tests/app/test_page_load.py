"""Load: four sessions at once, and a long video in flat memory."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx2
import pytest
import torch

CLICK = [16, 24, 1]
NUM_FRAMES = 2000
SIZE = (320, 240)
# What a frame may add to the process besides the tensors that the network keeps for it: Python objects (about 1 KB), and what
# the allocator cannot return (the network alone, without the page: 14 to 23 KB per frame; with it, 9 to 31). A frame, mask or network input that
# is kept would add 77 KB or more.
MAX_OTHER_BYTES = 64 * 1024


@pytest.mark.slow
def test_four_sessions_at_once(live):
    """Each is clicked, tracked, looked at and exported while the others are; all get the same masks."""
    *_, client, _ = live
    address = str(client.base_url)

    def annotate(number: int) -> list[str]:
        with httpx2.Client(base_url=address, headers={"Origin": address.rstrip("/")}, timeout=120) as own:
            session = own.post("/api/sessions", json={"path": "disc", "new": True}).json()["id"]
            base = f"/api/sessions/{session}"
            for obj in (1, 2):
                own.post(f"{base}/objects", json={})
                assert own.put(f"{base}/objects/{obj}/prompts/0", json={"points": [CLICK]}).status_code == 200
            assert own.post(f"{base}/track", json={"frame": 0, "direction": "both"}).status_code == 202
            while own.get(base).json()["job"] is not None:
                assert own.get(f"{base}/frames/{number}").status_code == 200
                assert own.get(f"{base}/timeline").status_code == 200
            assert own.put(f"{base}/objects/1/prompts/6", json={"points": [[50, 10, 0]]}).status_code == 200
            assert own.post(f"{base}/track", json={"frame": 6, "direction": "forward"}).status_code == 202
            while own.get(base).json()["job"] is not None:
                time.sleep(0.05)
            assert own.post(f"{base}/export", json={"formats": ["masks", "json"]}).status_code == 202
            while own.get(base).json()["job"] is not None:
                time.sleep(0.05)
            export = own.get(base).json()["exports"][0]["id"]
            assert own.get(f"{base}/exports/{export}").content.startswith(b"PK")
            return [own.get(f"{base}/masks/{t}").text for t in range(12)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(annotate, range(4)))
    assert all(result == results[0] for result in results) and '"2"' in results[0][11]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_in_a_long_video(page, videos, tiny_video):
    """It grows by no more per frame than the predictor keeps for corrections, so the page itself keeps nothing."""
    writer = cv2.VideoWriter(str(videos / "long.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, SIZE)
    for t in range(NUM_FRAMES):
        writer.write(cv2.resize(tiny_video[t % len(tiny_video), ..., ::-1], SIZE))
    writer.release()
    session = page.open_video("long.avi")
    assert session.ok("GET")["num_frames"] == NUM_FRAMES
    session.add()
    session.click(1, 0, (80, 120, 1))
    session.track(0, "forward", 500)
    before = resident()
    session.ok("POST", "/track", {"frame": 500, "direction": "forward"})
    session.wait(600)
    grown = resident() - before
    bank = session.inside._state.objects[1].bank
    assert len(bank.tracked) == NUM_FRAMES - 1
    output = bank[NUM_FRAMES - 1]
    kept = sum(value.nbytes for value in vars(output).values() if isinstance(value, torch.Tensor))
    per_frame = grown / (NUM_FRAMES - 501)
    print(f"{per_frame:.0f} bytes per frame, of which the network keeps {kept}")
    assert per_frame < kept + MAX_OTHER_BYTES
    started = time.monotonic()
    page.workspace._close(session.opened)
    assert session.ok("POST", "/open", {})["num_frames"] == NUM_FRAMES
    print(f"reopened in {time.monotonic() - started:.2f} s")
    assert sum(area is not None for area in session.ok("GET", "/timeline")["objects"]["1"]["area"]) == NUM_FRAMES
