"""What the page in a browser does, for tests: requests to a server without a socket."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from i2v.app.guard import Guard
from i2v.app.server import Events, create_app
from i2v.app.session import AnnotationSession
from i2v.app.workspace import Workspace
from i2v.data.rle import rle_to_mask

ADDRESS = "127.0.0.1:7860"


class Page(TestClient):
    """What the page in a browser does. A context manager, which runs the server.

    Args:
        workspace_of (Callable[[Callable], Workspace]): makes the workspace, given where it sends its events.
    """

    __test__ = False

    def __init__(self, workspace_of: Callable[[Callable[..., None]], Workspace]) -> None:
        events = Events()
        self.workspace = workspace_of(events.publish)
        app = Guard(create_app(self.workspace, events, {"model": "tiny", "device": "cpu", "open": None}), "127.0.0.1", 7860)
        super().__init__(app, base_url=f"http://{ADDRESS}", headers={"Origin": f"http://{ADDRESS}"})

    def open_video(self, path: str) -> PageSession:
        """Start a session for a video."""
        return self.session(self.ok("POST", "/api/sessions", {"path": path, "new": True})["id"])

    def session(self, session_id: str) -> PageSession:
        """A session that exists."""
        return PageSession(self, session_id)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request that succeeds."""
        response = self.request(method, path, json=body)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str]:
        """Status and message of a request that fails."""
        if body is not None:
            options["json"] = body
        response = self.request(method, path, **options)
        assert response.status_code >= 400, response.text
        return response.status_code, response.json()["error"]


class PageSession:
    """One session on the page."""

    def __init__(self, page: Page, session_id: str) -> None:
        self.page = page
        self.id = session_id
        self.address = f"/api/sessions/{session_id}"

    @property
    def opened(self) -> Any:
        """The workspace's entry of it."""
        return self.page.workspace.open(self.id)

    @property
    def inside(self) -> AnnotationSession:
        """The session itself."""
        return self.opened.session

    def ok(self, method: str, path: str = "", body: Any = None) -> Any:
        """The answer to a request that succeeds."""
        return self.page.ok(method, self.address + path, body)

    def refused(self, method: str, path: str = "", body: Any = None, **options: Any) -> tuple[int, str]:
        """Status and message of a request that fails."""
        return self.page.refused(method, self.address + path, body, **options)

    def add(self) -> int:
        """Add an object."""
        return self.ok("POST", "/objects", {})["id"]

    def click(self, obj: int, frame: int, *points: tuple[float, float, int], **prompt: Any) -> Any:
        """Set a prompt: points, box=, mask=."""
        return self.ok("PUT", f"/objects/{obj}/prompts/{frame}", {"points": points, **prompt})

    def clear(self, obj: int, frame: int) -> Any:
        """Remove a prompt."""
        return self.ok("DELETE", f"/objects/{obj}/prompts/{frame}")

    def track(self, frame: int, direction: str = "forward", frames: int | None = None) -> None:
        """Track, and wait for the end."""
        self.ok("POST", "/track", {"frame": frame, "direction": direction, "frames": frames})
        self.wait()

    def wait(self, seconds: float = 60) -> Any:
        """Wait for the end of the running job. Returns the session."""
        limit = time.monotonic() + seconds
        while (session := self.ok("GET"))["job"] is not None:
            assert time.monotonic() < limit, session["job"]
            time.sleep(0.01)
        return session

    def masks(self, frame: int) -> dict[int, np.ndarray]:
        """The masks of a frame by object."""
        return {int(obj): rle_to_mask(entry["rle"]) for obj, entry in self.ok("GET", f"/masks/{frame}")["objects"].items()}

    def all_masks(self) -> dict[int, dict[int, bytes]]:
        """All masks, by frame and object, as they are compared."""
        count = self.ok("GET")["num_frames"]
        return {t: {obj: mask.tobytes() for obj, mask in self.masks(t).items()} for t in range(count)}

    def outdated(self, obj: int = 1) -> list[int]:
        """The frames that are marked out of date."""
        return self.ok("GET", "/timeline")["objects"][str(obj)]["outdated"]

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, but the number of the change, the undo stacks and exports."""
        session = self.ok("GET")
        shown = {key: session[key] for key in ("objects", "job", "problem")}
        frames = [self.ok("GET", f"/masks/{t}") for t in range(session["num_frames"])]
        return shown | {"masks": frames, "timeline": self.ok("GET", "/timeline")}

    def export(self, *formats: str) -> bytes:
        """Export, and download the file."""
        self.ok("POST", "/export", {"formats": formats})
        export = self.wait()["exports"][0]
        response = self.page.get(f"{self.address}/exports/{export['id']}")
        assert response.status_code == 200
        return response.content


def connect(port: int, path: str, host: str = "127.0.0.1") -> socket.socket:
    """A WebSocket that does not read, which claims to come from a page of a host."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    lines = [
        *(f"GET {path} HTTP/1.1", f"Host: {host}:{port}", f"Origin: http://{host}:{port}", "Upgrade: websocket"),
        *("Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""),
    ]
    connection.sendall("\r\n".join(lines).encode())
    return connection
