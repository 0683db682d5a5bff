"""Work of a session that takes long."""

from __future__ import annotations

import threading
import time
from typing import Any

# Seconds over which the speed is averaged.
_SPEED_SECONDS = 5


class Job:
    """Tracking or an export.

    Args:
        kind (str): "track" or "export".
        total (int): number of frames.

    Attributes:
        stopping (bool): whether it should end as soon as it can.
        ended (threading.Event): set when it has ended.
    """

    def __init__(self, kind: str, total: int) -> None:
        self.kind = kind
        self.total = total
        self.stopping = False
        self.ended = threading.Event()
        self.done = 0
        self._times = [time.monotonic()]

    def advance(self, done: int) -> None:
        """Say how many frames are done."""
        self.done = done
        now = time.monotonic()
        self._times.append(now)
        while len(self._times) > 2 and now - self._times[0] > _SPEED_SECONDS:
            self._times.pop(0)

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        seconds = self._times[-1] - self._times[0]
        speed = (len(self._times) - 1) / seconds if seconds > 0 else None
        left = (self.total - self.done) / speed if speed else None
        progress = {"kind": self.kind, "done": self.done, "total": self.total}
        return progress | {"frames_per_second": speed, "seconds_left": left}
