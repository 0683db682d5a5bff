"""The HTTP interface of the page: routes, events, and the forms of requests. docs/page.md describes it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from anyio import fail_after
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from i2v.app.exporting import start_export
from i2v.app.pictures import preview
from i2v.app.scheduler import Priority
from i2v.app.session import MAX_NAME, MAX_OBJECTS, AnnotationSession, ConflictError, Event
from i2v.app.workspace import BadRequestError, BusyError, NotFoundError, OpenSession, TooLargeError, Workspace
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
_PREVIEW_SECONDS = 0.2  # between two pictures
_MAX_SEND_SECONDS = 10  # in which a page takes an event
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_DIRECTIONS = {"forward": [False], "backward": [True], "both": [False, True]}
# Pictures of a session never change.
_CACHED = {"Cache-Control": "private, max-age=86400, immutable"}
_FRESH = {"Cache-Control": "no-store"}
# They are asked for again each time, so that a page never mixes those of two versions.
_CHECKED = {"Cache-Control": "no-cache"}

_Result = TypeVar("_Result")
Handler = Callable[[Any, Request], Awaitable[Response]]
SessionHandler = Callable[[Any, Request, OpenSession], Awaitable[Response]]

# Statuses of errors that are not the server's, the most specific first. All others are logged.
_STATUSES: list[tuple[type[Exception], int]] = [
    (NotFoundError, 404),
    (ConflictError, 409),
    (TooLargeError, 413),
    (BusyError, 429),
    (BadRequestError, 400),
    (BlockingIOError, 409),
    (FileNotFoundError, 404),
    (PermissionError, 403),
    (OSError, 507),
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
        Route("/api/preview", api.preview),
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
        Mount("/static", _Static(directory=STATIC)),
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
    return FileResponse(STATIC / "index.html", headers=_CHECKED)


class _Static(StaticFiles):
    """The page's files."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_CHECKED)
        return response


def _status(error: Exception) -> int | None:
    """The status of an error that is not the server's; None if it is."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), None)


def _text(error: Exception) -> str:
    """An error's message; that of a KeyError would be quoted."""
    return one_line(str(error.args[0]) if isinstance(error, KeyError) and error.args else error)


@contextmanager
def _bad_if(*kinds: type[Exception]) -> Iterator[None]:
    """Say that errors of these kinds in the block are those of the request.

    Raises:
        BadRequestError: one of them was raised.
    """
    try:
        yield
    except kinds as error:
        if _status(error) is not None:
            raise
        raise BadRequestError(_text(error)) from error


def _answered(method: Handler) -> Handler:
    """Decorate a handler: its expected errors become answers, any other is logged and affects nothing else."""

    @wraps(method)
    async def handler(self: Any, request: Request) -> Response:
        try:
            return await method(self, request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            status = _status(error)
            if status is not None:
                if status >= 500:
                    log.error("%s %s: %s", request.method, request.url.path, _text(error))
                return JSONResponse({"error": _text(error)}, status_code=status)
            log.exception("%s %s failed", request.method, request.url.path)
            return JSONResponse({"error": f"the server made a mistake: {one_line(error)}"}, status_code=500)

    return handler


def _in_session(method: SessionHandler) -> Handler:
    """Decorate a handler of a session, which stays in memory meanwhile."""

    @wraps(method)
    async def handler(self: Any, request: Request) -> Response:
        workspace: Workspace = self.workspace
        session_id = request.path_params["session"]
        opened = await run_in_threadpool(workspace.acquire, session_id)
        try:
            return await method(self, request, opened)
        except Exception as error:
            if opened.is_closed:  # another request removed it
                raise NotFoundError(f"no such session: {session_id}") from error
            raise
        finally:
            workspace.release(opened)

    return _answered(handler)


class Api:
    """The handlers of all routes.

    Args:
        workspace (Workspace): videos and sessions.
        events (Events): where the workspace sends its events.
        about (dict[str, Any]): what /api/info says of the model and the video to open.
    """

    def __init__(self, workspace: Workspace, events: Events, about: dict[str, Any]) -> None:
        self.workspace = workspace
        self._events = events
        self._about = about

    @_answered
    async def info(self, request: Request) -> Response:
        limits = {"max_upload_bytes": self.workspace.max_upload_bytes, "max_objects": MAX_OBJECTS}
        return JSONResponse(self._about | limits | {"root": self.workspace.root.name, "formats": FORMATS}, headers=_FRESH)

    @_answered
    async def files(self, request: Request) -> Response:
        listing = await run_in_threadpool(self.workspace.list_folder, request.query_params.get("path", ""))
        return JSONResponse(listing, headers=_FRESH)

    @_answered
    async def preview(self, request: Request) -> Response:
        """JPEGs of a video file one after the other, which browsers show like an animation, until the page looks away."""
        video = await run_in_threadpool(self.workspace.find, request.query_params.get("path", ""))
        if not video.is_file():
            raise NotFoundError("only video files have a preview")
        pictures = preview(video)
        with _bad_if(ValueError):
            first = await run_in_threadpool(next, pictures, None)

        async def parts() -> AsyncIterator[bytes]:
            try:
                data = first
                while data is not None:
                    yield b"--picture\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n"
                    await asyncio.sleep(_PREVIEW_SECONDS)
                    data = await run_in_threadpool(next, pictures, None)
            finally:
                await run_in_threadpool(pictures.close)

        return StreamingResponse(parts(), media_type="multipart/x-mixed-replace; boundary=picture", headers=_FRESH)

    @_answered
    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"sessions": await run_in_threadpool(self.workspace.sessions)}, headers=_FRESH)

    @_answered
    async def create(self, request: Request) -> Response:
        body = await _body(request, {"path": str})
        video = await run_in_threadpool(self.workspace.find, body["path"])
        if not body.get("new"):
            existing = await run_in_threadpool(self.workspace.sessions, video)
            if existing:
                return JSONResponse({"existing": existing})
        opened = await run_in_threadpool(self.workspace.create, video, video.name)
        return JSONResponse(_session_json(opened), status_code=201)

    @_answered
    async def begin_upload(self, request: Request) -> Response:
        body = await _body(request, {"files": [{"name": str, "bytes": int}]})
        upload = await run_in_threadpool(self.workspace.begin_upload, body["files"])
        return JSONResponse({"upload": upload}, status_code=201)

    @_answered
    async def upload(self, request: Request) -> Response:
        path, size = await run_in_threadpool(
            self.workspace.upload_target, request.path_params["upload"], request.path_params["index"]
        )
        received = 0
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            async for chunk in request.stream():
                received += len(chunk)
                if received > size:
                    raise TooLargeError(f"{path.name} is larger than announced")
                await run_in_threadpool(file.write, chunk)
            if received < size:
                raise BadRequestError(f"{path.name} is not complete: {received} of {size} bytes arrived")
        return Response(status_code=204)

    @_answered
    async def finish_upload(self, request: Request) -> Response:
        opened = await run_in_threadpool(self.workspace.finish_upload, request.path_params["upload"])
        return JSONResponse(_session_json(opened), status_code=201)

    @_answered
    async def cancel_upload(self, request: Request) -> Response:
        await run_in_threadpool(self.workspace.cancel_upload, request.path_params["upload"])
        return Response(status_code=204)

    @_in_session
    async def open(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse(_session_json(opened))

    @_in_session
    async def session(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse(_session_json(opened), headers=_FRESH)

    @_answered
    async def remove(self, request: Request) -> Response:
        await run_in_threadpool(self.workspace.remove, request.path_params["session"])
        return Response(status_code=204)

    @_in_session
    async def timeline(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse(await run_in_threadpool(opened.session.timeline), headers=_FRESH)

    @_in_session
    async def frame(self, request: Request, opened: OpenSession) -> Response:
        return await self._picture(request, opened, thumbnail=False)

    @_in_session
    async def thumbnail(self, request: Request, opened: OpenSession) -> Response:
        return await self._picture(request, opened, thumbnail=True)

    async def _picture(self, request: Request, opened: OpenSession, thumbnail: bool) -> Response:
        frame = request.path_params["frame"]
        _require_frame(opened.session, frame)
        with _bad_if(ValueError):  # the file was changed or removed
            data = await run_in_threadpool(opened.pictures.jpeg, frame, thumbnail)
        return Response(data, media_type="image/jpeg", headers=_CACHED)

    @_in_session
    async def masks(self, request: Request, opened: OpenSession) -> Response:
        frame = request.path_params["frame"]
        _require_frame(opened.session, frame)
        return JSONResponse(await run_in_threadpool(opened.session.masks, frame), headers=_FRESH)

    @_in_session
    async def add_object(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse(await self._change(opened, opened.session.add_object), status_code=201)

    @_in_session
    async def edit_object(self, request: Request, opened: OpenSession) -> Response:
        body = await _body(request, {})
        name, colour, hidden = body.get("name"), body.get("colour"), body.get("hidden")
        if name is not None and not (isinstance(name, str) and 0 < len(name.strip()) <= MAX_NAME and name.isprintable()):
            raise BadRequestError(f"a name has from 1 to {MAX_NAME} characters")
        if colour is not None and not (isinstance(colour, str) and _COLOUR.fullmatch(colour)):
            raise BadRequestError(f"a colour is written #rrggbb, not {colour!r}")
        if hidden is not None and not isinstance(hidden, bool):
            raise BadRequestError("hidden is true or false")
        session, obj = opened.session, request.path_params["object"]

        def change() -> dict[str, Any]:
            _require_object(session, obj)
            return session.edit_object(obj, name, colour, hidden)

        return JSONResponse(await self._change(opened, change))

    @_in_session
    async def remove_object(self, request: Request, opened: OpenSession) -> Response:
        session, obj = opened.session, request.path_params["object"]

        def change() -> None:
            _require_object(session, obj)
            session.remove_object(obj)

        await self._change(opened, change)
        return JSONResponse(_session_json(opened))

    @_in_session
    async def prompt(self, request: Request, opened: OpenSession) -> Response:
        body = await _body(request, {})
        obj, frame = request.path_params["object"], request.path_params["frame"]
        _require_frame(opened.session, frame)
        with _bad_if(ValueError, TypeError, LookupError):
            prompt = await run_in_threadpool(_parse_prompt, body, obj, frame, opened.session.frames)
        return await self._prompt(request, opened, prompt)

    @_in_session
    async def clear_prompt(self, request: Request, opened: OpenSession) -> Response:
        return await self._prompt(request, opened, None)

    async def _prompt(self, request: Request, opened: OpenSession, prompt: Prompt | None) -> Response:
        session, obj, frame = opened.session, request.path_params["object"], request.path_params["frame"]

        def change() -> None:
            item = _require_object(session, obj)
            _require_frame(session, frame)
            if prompt is not None:
                with _bad_if(ValueError):
                    session.set_prompt(obj, frame, prompt)
            elif any(entry["frame"] == frame for entry in item["prompts"]):
                session.clear_prompt(obj, frame)
            else:
                raise NotFoundError(f"{item['name']} has no prompt in frame {frame}")

        await self._change(opened, change)
        masks = await run_in_threadpool(session.masks, frame)
        return JSONResponse(masks | {"session": _session_json(opened)})

    @_in_session
    async def undo(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse({"frame": await self._change(opened, opened.session.undo), "session": _session_json(opened)})

    @_in_session
    async def redo(self, request: Request, opened: OpenSession) -> Response:
        return JSONResponse({"frame": await self._change(opened, opened.session.redo), "session": _session_json(opened)})

    @_in_session
    async def prepare(self, request: Request, opened: OpenSession) -> Response:
        body = await _body(request, {"frame": int})
        _require_frame(opened.session, body["frame"])
        opened.session.prepare_later(body["frame"])
        return Response(status_code=202)

    @_in_session
    async def track(self, request: Request, opened: OpenSession) -> Response:
        body = await _body(request, {"frame": int, "direction": str})
        frame, limit = body["frame"], body.get("frames")
        if body["direction"] not in _DIRECTIONS:
            raise BadRequestError(f"direction is one of {', '.join(_DIRECTIONS)}")
        if limit is not None and not (type(limit) is int and limit > 0):
            raise BadRequestError("frames is a number of frames, from 1 on, or null for all")
        _require_frame(opened.session, frame)
        directions = _DIRECTIONS[body["direction"]]
        wanted = None if limit is None else limit * len(directions)
        await run_in_threadpool(self.workspace.require_memory, opened, wanted)
        job = await self._change(opened, lambda: opened.session.start_tracking(frame, directions, limit))
        return JSONResponse(job.to_json(), status_code=202)

    @_in_session
    async def stop(self, request: Request, opened: OpenSession) -> Response:
        await run_in_threadpool(opened.session.stop)
        return JSONResponse(_session_json(opened))

    @_in_session
    async def export(self, request: Request, opened: OpenSession) -> Response:
        body = await _body(request, {"formats": [str]})
        with _bad_if(ValueError):  # an unknown format
            job = await self._change(opened, lambda: start_export(opened, body["formats"]))
        return JSONResponse(job.to_json(), status_code=202)

    @_in_session
    async def download(self, request: Request, opened: OpenSession) -> Response:
        name = request.path_params["export"]
        found = [export for export in opened.exports if export["id"] == name]
        if not found:
            raise NotFoundError("no such export: it was replaced by later ones")
        return FileResponse(opened.folder / "exports" / name / found[0]["name"], filename=found[0]["name"], headers=_FRESH)

    async def events(self, websocket: WebSocket) -> None:
        """Send a session's events until the page goes away."""
        session_id = websocket.path_params["session"]
        await websocket.accept()
        try:
            opened = await run_in_threadpool(self.workspace.acquire, session_id)
        except Exception as error:  # said to the page
            if _status(error) is None:
                log.exception("session %s was not opened", session_id)
            await websocket.send_json({"type": "error", "message": _text(error)})
            await websocket.close(code=1011)
            return
        try:
            async with self._events.subscription(session_id) as events:
                watcher = asyncio.create_task(_watch(websocket, events))
                try:
                    await _send(websocket, opened, events)
                except (WebSocketDisconnect, TimeoutError):
                    pass
                finally:
                    watcher.cancel()
        finally:
            self.workspace.release(opened)

    async def _change(self, opened: OpenSession, function: Callable[[], _Result]) -> _Result:
        """Run a change of a session in the network's thread."""

        def change() -> _Result:
            if opened.is_closed:
                raise NotFoundError(f"no such session: {opened.id}")
            return function()

        return await asyncio.wrap_future(self.workspace.scheduler.submit(Priority.PROMPT, change))


async def _send(websocket: WebSocket, opened: OpenSession, events: asyncio.Queue[Event | None]) -> None:
    """Send events until the page is gone or too slow.

    Raises:
        TimeoutError: it takes nothing any more.
    """
    event: Event | None = {"type": "session"}
    while event is not None:
        if event["type"] == "session":
            event = {"type": "session", "session": _session_json(opened)}
        with fail_after(_MAX_SEND_SECONDS):
            await websocket.send_json(event)
        event = await events.get()
    if websocket.client_state is WebSocketState.CONNECTED:
        with fail_after(_MAX_SEND_SECONDS):
            await websocket.close(code=1013)  # too slow: try again later


def _session_json(opened: OpenSession) -> dict[str, Any]:
    return {"id": opened.id, **opened.session.to_json(), "exports": opened.exports}


def _require_frame(session: AnnotationSession, frame: int) -> None:
    if not session.frames.has(frame):
        raise NotFoundError(str(session.frames.missing_frame_error(frame)))


def _require_object(session: AnnotationSession, obj: int) -> dict[str, Any]:
    """An object of a session, as in `AnnotationSession.object_json`.

    Raises:
        NotFoundError: no such object.
    """
    try:
        return session.object_json(obj)
    except KeyError as error:
        raise NotFoundError(_text(error)) from error


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


async def _body(request: Request, form: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a request.

    Raises:
        BadRequestError: it is not JSON, or of another form.
        TooLargeError: it is too large.
    """
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise BadRequestError("the body must be application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise TooLargeError(f"the body is larger than {_MAX_BODY / 2**20:.0f} MiB")
    return await run_in_threadpool(_parse_body, bytes(data), form)


def _parse_body(data: bytes, form: dict[str, Any]) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    with _bad_if(ValueError):
        require_form(body, form, "the body")
    return body


def _parse_prompt(body: dict[str, Any], obj: int, frame: int, frames: Frames) -> Prompt:
    content = {key: body.get(key) for key in ("points", "box", "mask")}
    step = parse_step({"prompt": {"object": obj, "frame": frame, **content}}, frames)
    assert isinstance(step, PromptStep)
    return step.prompt
