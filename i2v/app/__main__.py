"""The page's server.

python -m i2v.app video.mp4
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i2v.build_i2v import build_i2v_video_predictor
from i2v.data.frames import open_frames
from i2v.data.images import kind_of
from i2v.load_config import DEFAULT_CONFIG, known_configs, weights_of
from i2v.modeling.precision import PRECISIONS
from i2v.utils.command_line import command_line, given_path, whole_number
from i2v.utils.devices import device_of_option
from i2v.utils.processes import available_memory

log = logging.getLogger("i2v.app")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m i2v.app", description="Click, track and correct objects in a video, in a browser."
    )
    parser.add_argument(
        "video",
        nargs="?",
        type=given_path,
        metavar="VIDEO",
        help="a video file, a folder of images, or a folder of videos to choose from (default: the working directory)",
    )
    parser.add_argument(
        "--config",
        default=DEFAULT_CONFIG,
        help=f"one of {', '.join(known_configs())}, or a YAML file (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument("--checkpoint", help="file of weights (default: those bundled with the config)")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the first available)")
    parser.add_argument("--precision", choices=list(PRECISIONS), help="precision of matrix products (default: the config's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but a loopback address needs a token")
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=7860, help="port to listen on; 0 for a free one (default: 7860)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument(
        "--sessions",
        type=given_path,
        metavar="DIR",
        default=_sessions_folder(),
        help="folder in which sessions are saved (default: %(default)s)",
    )
    parser.add_argument(
        "--max-sessions", type=whole_number(1), default=8, metavar="N", help="number of sessions in memory (default: 8)"
    )
    parser.add_argument(
        "--max-upload", type=whole_number(1), default=4096, metavar="MIB", help="size of an upload, in MiB (default: 4096)"
    )
    parser.add_argument(
        "--max-memory",
        type=whole_number(1),
        metavar="MIB",
        help="memory for what is remembered of the masks in all open sessions, in MiB (default: half of what is available)",
    )
    return parser


def _sessions_folder() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "i2v" / "sessions"


def _root(video: Path | None) -> tuple[Path, str | None, str | None]:
    """The folder to serve, the only file in it, and the video to open, relative to it.

    Raises:
        FileNotFoundError: no such file or folder.
    """
    if video is None:
        return Path.cwd(), None, None
    if not video.exists():
        raise FileNotFoundError(f"no such video file or folder: {video}")
    video = video.resolve()
    if video.is_dir():
        has_images = any(kind_of(path) is not None for path in video.iterdir())
        return video, None, "" if has_images else None
    return video.parent, video.name, video.name


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server until Ctrl-C."""
    args = build_parser().parse_args(arguments)
    try:
        import uvicorn

        from i2v.app.guard import Guard
        from i2v.app.server import Events, create_app
        from i2v.app.workspace import Workspace
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        if package == "i2v":
            raise
        raise ImportError(f'the page needs the package {package}: pip install -e ".[app]"') from error
    root, only, opened = _root(args.video)
    if opened is not None:
        open_frames(root / opened).close()
    device = device_of_option(args.device)
    weights = args.checkpoint or weights_of(args.config)
    if weights is None:
        raise ValueError(f"the config {args.config!r} has no bundled weights: give --checkpoint FILE")
    overrides = [f"++predictor.precision={args.precision}"] if args.precision else []
    listener = _listen(args.host, args.port)
    port = listener.getsockname()[1]
    predictor = build_i2v_video_predictor(args.config, weights, device, hydra_overrides_extra=overrides)
    events = Events()
    available = available_memory()
    max_bytes = args.max_memory * 2**20 if args.max_memory else available and available // 2
    workspace = Workspace(
        root, only, args.sessions, predictor, events.publish, args.max_sessions, args.max_upload * 2**20, max_bytes
    )
    about: dict[str, Any] = {"model": args.config, "device": str(predictor.device), "open": opened}
    guard = Guard(create_app(workspace, events, about), args.host, port)
    address = f"http://{_in_address(args.host)}:{port}/" + (f"?token={guard.token}" if guard.token else "")
    config = uvicorn.Config(guard, log_level="warning", ws="websockets-sansio", ws_max_size=2**16, server_header=False)
    server = uvicorn.Server(config)
    log.info("the page is at %s (Ctrl-C ends the server; sessions are saved in %s)", address, workspace.folder)
    if not args.no_browser:
        threading.Thread(target=_open_browser, args=(server, address), daemon=True).start()
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is an error before the model is built.

    Raises:
        OSError: the address or port cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)  # only now another server finds the port in use
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(f"cannot listen on {host}, port {port}: {reason}; choose another --port (0 for a free one)") from error
    return listener


def _in_address(host: str) -> str:
    """The host as it stands in an address that can be opened."""
    if host in ("0.0.0.0", "::"):  # all addresses of this machine
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _open_browser(server: Any, address: str) -> None:
    while not server.started:
        time.sleep(0.05)
    webbrowser.open(address)


if __name__ == "__main__":
    sys.exit(main())
