"""Tracks a session of the page in a process of its own, and prints each frame, so that a test can kill it.

The arguments are the root, the sessions' folder, the session, and the network's config and weights.
"""

import sys
import time
from pathlib import Path

from i2v import build_i2v_video_predictor
from i2v.app.scheduler import Priority
from i2v.app.workspace import Workspace


def main() -> None:
    root, folder, session_id, config, checkpoint = sys.argv[1:]

    def notify(_: str, event: dict) -> None:
        if event["type"] == "frame":
            print(event["frame"], flush=True)
            time.sleep(0.05)  # time to kill it

    predictor = build_i2v_video_predictor(config, checkpoint, "cpu")
    workspace = Workspace(Path(root), None, Path(folder), predictor, notify)
    session = workspace.open(session_id).session
    workspace.scheduler.submit(Priority.PROMPT, lambda: session.start_tracking(0, [False], None)).result().ended.wait()


if __name__ == "__main__":
    main()
