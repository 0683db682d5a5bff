"""A server of the page in a process of its own, with the tiny network: argument 1 is the root, 2 the sessions' folder.

It tracks the session in argument 3 and says so frame by frame, so that a test can kill it.
"""

import sys
import time
from pathlib import Path

from conftest import seeded_predictor

from i2v.app.workspace import Workspace


def main() -> None:
    root, folder, session_id = sys.argv[1:]

    def notify(_: str, event: dict) -> None:
        if event["type"] == "frame":
            print(event["frame"], flush=True)
            time.sleep(0.05)  # time to kill it

    workspace = Workspace(Path(root), None, Path(folder), seeded_predictor(), notify)
    session = workspace.open(session_id).session
    workspace.scheduler.submit(0, lambda: session.start_tracking(0, [False], None)).result().ended.wait()


if __name__ == "__main__":
    main()
