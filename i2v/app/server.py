"""The HTTP interface of the page: routes, events, and the forms of requests. docs/page.md describes it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from anyio import fail_after
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from i2v.app.exporting import start_export
from i2v.app.scheduler import Priority
from i2v.app.session import MAX_NAME, MAX_OBJECTS, ConflictError, Event
from i2v.app.workspace import BusyError, NotFoundError, OpenSession, TooLargeError, Workspace
from i2v.data.frames import Frames
from i2v.exports import FORMATS
from i2v.prompt import Prompt
from i2v.prompt_files import PromptStep, parse_step
from i2v.utils.command_line import one_line
from i2v.utils.files import atomic_write
from i2v.utils.json_form import require_form

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_MAX_BODY = 64 * 2**20  # bytes of a JSON body; masks of large frames are the largest
_MAX_EVENTS = 256  # that wait for a slow page
_MAX_SEND_SECONDS = 10  # in which a page takes an event
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_DIRECTIONS = {"forward": [False], "backward": [True], "both": [False, True]}
# Pictures of a session never change.
_CACHED = {"Cache-Control": "private, max-age=86400, immutable"}
_FRESH = {"Cache-Control": "no-store"}

_Result = TypeVar("_Result")
Handler = Callable[[Request], Awaitable[Response]]

# Statuses of expected errors, the most specific first.
_STATUSES: list[tuple[type[Exception], int]] = [
    (NotFoundError, 404),
    (KeyError, 404),
    (IndexError, 404),
    (ConflictError, 409),
    (TooLargeError, 413),
    (BusyError, 429),
    (BlockingIOError, 409),
    (FileNotFoundError, 404),
    (PermissionError, 403),
    (OSError, 507),
    (ValueError, 400),
    (TypeError, 400),
]


class _Number(Convertor[int]):
    """A number in an address. Python refuses to convert thousands of digits, so there are no such addresses."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


class Events:
    """Sends the events of sessions to the pages that show them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: defaultdict[str, set[asyncio.Queue[Event | None]]] = defaultdict(set)

    def start(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def publish(self, session_id: str, event: Event) -> None:
        """Send an event of a session; in any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, session_id, event)

    def _deliver(self, session_id: str, event: Event) -> None:
        for events in list(self._queues.get(session_id, ())):
            try:
                events.put_nowait(event)
            except asyncio.QueueFull:  # it starts over with a new connection
                _end(events)

    @asynccontextmanager
    async def subscription(self, session_id: str) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """A queue of a session's events; None says that the page is too slow."""
        events: asyncio.Queue[Event | None] = asyncio.Queue(_MAX_EVENTS)
        self._queues[session_id].add(events)
        try:
            yield events
        finally:
            self._queues[session_id].discard(events)
            if not self._queues[session_id]:
                del self._queues[session_id]


def create_app(workspace: Workspace, events: Events, about: dict[str, Any]) -> Starlette:
    """The application, without the checks of `i2v.app.guard`.

    Args:
        workspace (Workspace): videos and sessions.
        events (Events): where the workspace sends its events.
        about (dict[str, Any]): what /api/info says of the model and the video to open.
    """
    api = Api(workspace, events, about)
    session = "/api/sessions/{session}"
    routes = [
        Route("/", _index),
        Route("/api/info", api.info),
        Route("/api/files", api.files),
        Route("/api/sessions", api.sessions),
        Route("/api/sessions", api.create, methods=["POST"]),
        Route("/api/uploads", api.begin_upload, methods=["POST"]),
        Route("/api/uploads/{upload}", api.cancel_upload, methods=["DELETE"]),
        Route("/api/uploads/{upload}/open", api.finish_upload, methods=["POST"]),
        Route("/api/uploads/{upload}/{index:number}", api.upload, methods=["PUT"]),
        Route(f"{session}/open", api.open, methods=["POST"]),
        Route(session, api.session),
        Route(session, api.remove, methods=["DELETE"]),
        Route(f"{session}/timeline", api.timeline),
        Route(f"{session}/frames/{{frame:number}}", api.frame),
        Route(f"{session}/thumbnails/{{frame:number}}", api.thumbnail),
        Route(f"{session}/masks/{{frame:number}}", api.masks),
        Route(f"{session}/objects", api.add_object, methods=["POST"]),
        Route(f"{session}/objects/{{object:number}}", api.edit_object, methods=["PATCH"]),
        Route(f"{session}/objects/{{object:number}}", api.remove_object, methods=["DELETE"]),
        Route(f"{session}/objects/{{object:number}}/prompts/{{frame:number}}", api.prompt, methods=["PUT"]),
        Route(f"{session}/objects/{{object:number}}/prompts/{{frame:number}}", api.clear_prompt, methods=["DELETE"]),
        Route(f"{session}/undo", api.undo, methods=["POST"]),
        Route(f"{session}/redo", api.redo, methods=["POST"]),
        Route(f"{session}/prepare", api.prepare, methods=["POST"]),
        Route(f"{session}/track", api.track, methods=["POST"]),
        Route(f"{session}/stop", api.stop, methods=["POST"]),
        Route(f"{session}/export", api.export, methods=["POST"]),
        Route(f"{session}/exports/{{export}}", api.download),
        WebSocketRoute(f"{session}/events", api.events),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        events.start()
        yield
        await run_in_threadpool(workspace.close)

    # Errors of handlers become answers in `_answered`; these are for unknown paths and methods.
    async def not_found(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "there is nothing at this address"}, status_code=404)

    async def not_allowed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"there is no {request.method} at this address"}, status_code=405)

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: not_found, 405: not_allowed})


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _answered(method: Callable[[Any, Request], Awaitable[Response]]) -> Callable[[Any, Request], Awaitable[Response]]:
    """Decorate a handler: its expected errors become answers, any other is logged and affects nothing else."""

    @wraps(method)
    async def handler(self: Any, request: Request) -> Response:
        try:
            return await method(self, request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            for kind, status in _STATUSES:
                if isinstance(error, kind):
                    text = error.args[0] if isinstance(error, KeyError) and error.args else error
                    return JSONResponse({"error": one_line(str(text) if isinstance(text, str) else error)}, status_code=status)
            log.exception("%s %s failed", request.method, request.url.path)
            return JSONResponse({"error": f"the server made a mistake: {one_line(error)}"}, status_code=500)

    return handler


class Api:
    """The handlers of all routes.

    Args:
        workspace (Workspace): videos and sessions.
        events (Events): where the workspace sends its events.
        about (dict[str, Any]): what /api/info says of the model and the video to open.
    """

    def __init__(self, workspace: Workspace, events: Events, about: dict[str, Any]) -> None:
        self._workspace = workspace
        self._events = events
        self._about = about

    @_answered
    async def info(self, request: Request) -> Response:
        limits = {"max_upload_bytes": self._workspace.max_upload_bytes, "max_objects": MAX_OBJECTS}
        return JSONResponse(self._about | limits | {"root": self._workspace.root.name, "formats": FORMATS}, headers=_FRESH)

    @_answered
    async def files(self, request: Request) -> Response:
        listing = await run_in_threadpool(self._workspace.list_folder, request.query_params.get("path", ""))
        return JSONResponse(listing, headers=_FRESH)

    @_answered
    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"sessions": await run_in_threadpool(self._workspace.sessions)}, headers=_FRESH)

    @_answered
    async def create(self, request: Request) -> Response:
        body = await _body(request, {"path": str})
        video = await run_in_threadpool(self._workspace.find, body["path"])
        if not body.get("new"):
            existing = await run_in_threadpool(self._workspace.sessions, video)
            if existing:
                return JSONResponse({"existing": existing})
        opened = await run_in_threadpool(self._workspace.create, video, video.name)
        return JSONResponse(self._session_json(opened), status_code=201)

    @_answered
    async def begin_upload(self, request: Request) -> Response:
        body = await _body(request, {"files": [{"name": str, "bytes": int}]})
        upload = await run_in_threadpool(self._workspace.begin_upload, body["files"])
        return JSONResponse({"upload": upload}, status_code=201)

    @_answered
    async def upload(self, request: Request) -> Response:
        path, size = await run_in_threadpool(
            self._workspace.upload_target, request.path_params["upload"], request.path_params["index"]
        )
        received = 0
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > size:
                    raise TooLargeError(f"{path.name} is larger than announced")
                await run_in_threadpool(file.write, chunk)
            if received < size:
                raise ValueError(f"{path.name} is not complete: {received} of {size} bytes arrived")
        return Response(status_code=204)

    @_answered
    async def finish_upload(self, request: Request) -> Response:
        opened = await run_in_threadpool(self._workspace.finish_upload, request.path_params["upload"])
        return JSONResponse(self._session_json(opened), status_code=201)

    @_answered
    async def cancel_upload(self, request: Request) -> Response:
        await run_in_threadpool(self._workspace.cancel_upload, request.path_params["upload"])
        return Response(status_code=204)

    @_answered
    async def open(self, request: Request) -> Response:
        return JSONResponse(self._session_json(await self._opened(request)))

    @_answered
    async def session(self, request: Request) -> Response:
        return JSONResponse(self._session_json(await self._opened(request)), headers=_FRESH)

    @_answered
    async def remove(self, request: Request) -> Response:
        await run_in_threadpool(self._workspace.remove, request.path_params["session"])
        return Response(status_code=204)

    @_answered
    async def timeline(self, request: Request) -> Response:
        opened = await self._opened(request)
        return JSONResponse(await run_in_threadpool(opened.session.timeline), headers=_FRESH)

    @_answered
    async def frame(self, request: Request) -> Response:
        return await self._picture(request, thumbnail=False)

    @_answered
    async def thumbnail(self, request: Request) -> Response:
        return await self._picture(request, thumbnail=True)

    async def _picture(self, request: Request, thumbnail: bool) -> Response:
        opened = await self._opened(request)
        data = await run_in_threadpool(opened.pictures.jpeg, request.path_params["frame"], thumbnail)
        return Response(data, media_type="image/jpeg", headers=_CACHED)

    @_answered
    async def masks(self, request: Request) -> Response:
        opened = await self._opened(request)
        return JSONResponse(await run_in_threadpool(opened.session.masks, request.path_params["frame"]), headers=_FRESH)

    @_answered
    async def add_object(self, request: Request) -> Response:
        session = (await self._opened(request)).session
        return JSONResponse(await self._change(session.add_object), status_code=201)

    @_answered
    async def edit_object(self, request: Request) -> Response:
        session = (await self._opened(request)).session
        body = await _body(request, {})
        name, colour, hidden = body.get("name"), body.get("colour"), body.get("hidden")
        if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME and name.isprintable()):
            raise ValueError(f"a name has from 1 to {MAX_NAME} characters")
        if colour is not None and not (isinstance(colour, str) and _COLOUR.fullmatch(colour)):
            raise ValueError(f"a colour is written #rrggbb, not {colour!r}")
        if hidden is not None and not isinstance(hidden, bool):
            raise ValueError("hidden is true or false")
        obj = request.path_params["object"]
        return JSONResponse(await self._change(lambda: session.edit_object(obj, name, colour, hidden)))

    @_answered
    async def remove_object(self, request: Request) -> Response:
        opened = await self._opened(request)
        await self._change(lambda: opened.session.remove_object(request.path_params["object"]))
        return JSONResponse(self._session_json(opened))

    @_answered
    async def prompt(self, request: Request) -> Response:
        body = await _body(request, {})
        opened = await self._opened(request)
        obj, frame = request.path_params["object"], request.path_params["frame"]
        prompt = await run_in_threadpool(_parse_prompt, body, obj, frame, opened.session.frames)
        return await self._prompt(request, prompt)

    @_answered
    async def clear_prompt(self, request: Request) -> Response:
        return await self._prompt(request, None)

    async def _prompt(self, request: Request, prompt: Prompt | None) -> Response:
        opened = await self._opened(request)
        obj, frame = request.path_params["object"], request.path_params["frame"]
        session = opened.session
        await self._change(
            lambda: session.clear_prompt(obj, frame) if prompt is None else session.set_prompt(obj, frame, prompt)
        )
        masks = await run_in_threadpool(opened.session.masks, frame)
        return JSONResponse(masks | {"session": self._session_json(opened)})

    @_answered
    async def undo(self, request: Request) -> Response:
        opened = await self._opened(request)
        return JSONResponse({"frame": await self._change(opened.session.undo), "session": self._session_json(opened)})

    @_answered
    async def redo(self, request: Request) -> Response:
        opened = await self._opened(request)
        return JSONResponse({"frame": await self._change(opened.session.redo), "session": self._session_json(opened)})

    @_answered
    async def prepare(self, request: Request) -> Response:
        session = (await self._opened(request)).session
        body = await _body(request, {"frame": int})
        session.prepare_later(body["frame"])
        return Response(status_code=202)

    @_answered
    async def track(self, request: Request) -> Response:
        session = (await self._opened(request)).session
        body = await _body(request, {"frame": int, "direction": str})
        limit = body.get("frames")
        if body["direction"] not in _DIRECTIONS:
            raise ValueError(f"direction is one of {', '.join(_DIRECTIONS)}")
        if limit is not None and not (type(limit) is int and limit > 0):
            raise ValueError("frames is a number of frames, from 1 on, or null for all")
        job = await self._change(lambda: session.start_tracking(body["frame"], _DIRECTIONS[body["direction"]], limit))
        return JSONResponse(job.to_json(), status_code=202)

    @_answered
    async def stop(self, request: Request) -> Response:
        opened = await self._opened(request)
        await run_in_threadpool(opened.session.stop)
        return JSONResponse(self._session_json(opened))

    @_answered
    async def export(self, request: Request) -> Response:
        opened = await self._opened(request)
        body = await _body(request, {"formats": [str]})
        job = await self._change(lambda: start_export(opened, body["formats"]))
        return JSONResponse(job.to_json(), status_code=202)

    @_answered
    async def download(self, request: Request) -> Response:
        opened = await self._opened(request)
        name = request.path_params["export"]
        found = [export for export in _exports(opened) if export["id"] == name]
        if not found:
            raise NotFoundError("no such export: it was replaced by later ones")
        return FileResponse(opened.folder / "exports" / name / found[0]["name"], filename=found[0]["name"], headers=_FRESH)

    async def events(self, websocket: WebSocket) -> None:
        """Send a session's events until the page goes away."""
        session_id = websocket.path_params["session"]
        await websocket.accept()
        try:
            opened = await run_in_threadpool(self._workspace.open, session_id)
        except Exception as error:  # noqa: BLE001 # said to the page
            await websocket.send_json({"type": "error", "message": one_line(error)})
            await websocket.close(code=1011)
            return
        opened.num_pages += 1
        try:
            async with self._events.subscription(session_id) as events:
                watcher = asyncio.create_task(_watch(websocket, events))
                try:
                    await self._send(websocket, opened, events)
                except (WebSocketDisconnect, TimeoutError):
                    pass
                finally:
                    watcher.cancel()
        finally:
            opened.num_pages -= 1

    async def _send(self, websocket: WebSocket, opened: OpenSession, events: asyncio.Queue[Event | None]) -> None:
        """Send events until the page is gone or too slow.

        Raises:
            TimeoutError: it takes nothing any more.
        """
        event: Event | None = {"type": "session"}
        while event is not None:
            if event["type"] == "session":
                event = {"type": "session", "session": self._session_json(opened)}
            with fail_after(_MAX_SEND_SECONDS):
                await websocket.send_json(event)
            event = await events.get()
        if websocket.client_state is WebSocketState.CONNECTED:
            with fail_after(_MAX_SEND_SECONDS):
                await websocket.close(code=1013)  # too slow: try again later

    async def _opened(self, request: Request) -> OpenSession:
        return await run_in_threadpool(self._workspace.open, request.path_params["session"])

    async def _change(self, function: Callable[[], _Result]) -> _Result:
        """Run a change of a session in the network's thread."""
        return await asyncio.wrap_future(self._workspace.scheduler.submit(Priority.PROMPT, function))

    def _session_json(self, opened: OpenSession) -> dict[str, Any]:
        return {"id": opened.id, **opened.session.to_json(), "exports": _exports(opened)}


async def _watch(websocket: WebSocket, events: asyncio.Queue[Event | None]) -> None:
    """End the events when the page is closed; it says nothing else."""
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.receive_text()
    _end(events)


def _end(events: asyncio.Queue[Event | None]) -> None:
    while not events.empty():
        events.get_nowait()
    events.put_nowait(None)


def _exports(opened: OpenSession) -> list[dict[str, Any]]:
    """The finished exports, the latest first."""
    found = []
    for path in (opened.folder / "exports").glob("*/export.json"):
        about = json.loads(path.read_text())
        found.append((path.stat().st_mtime, {"id": path.parent.name, **about}))
    return [about for _, about in sorted(found, key=lambda entry: entry[0], reverse=True)]


async def _body(request: Request, form: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a request.

    Raises:
        ValueError: it is too large, not JSON, or of another form.
    """
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise ValueError("the body must be application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise TooLargeError(f"the body is larger than {_MAX_BODY / 2**20:.0f} MiB")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from error
    require_form(body, form, "the body")
    return body


def _parse_prompt(body: dict[str, Any], obj: int, frame: int, frames: Frames) -> Prompt:
    content = {key: body.get(key) for key in ("points", "box", "mask")}
    step = parse_step({"prompt": {"object": obj, "frame": frame, **content}}, frames)
    assert isinstance(step, PromptStep)
    return step.prompt
