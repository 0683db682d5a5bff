"""Safety of the page: who may talk to the server, what it serves, and what it accepts."""

from __future__ import annotations

import json
import logging
import os
import socket
from http.cookies import SimpleCookie
from pathlib import Path

import cv2
import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from i2v.app.guard import Guard, is_loopback

HERE = "http://127.0.0.1:7860"
EVENTS = "ws://127.0.0.1:7860"


# Host and Origin


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:7860", "[::1]:7860", "127.0.0.2:7860"])
def test_own_names(page, host):
    assert page.get("/api/info", headers={"Host": host}).status_code == 200
    origin = {"Host": host, "Origin": f"http://{host}"}
    assert page.post("/api/sessions", json={"path": "disc", "new": True}, headers=origin).status_code == 201


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:7860", "localhost.evil.example:7860", "127.0.0.1.evil.example:7860", "localhost"),
        *("127.0.0.1", "127.0.0.1:80", "127.0.0.1:7861", "[::1]", "10.0.0.1:7860", "[2001:db8::1]:7860", "0.0.0.0:7860"),
        *(
            "",
            ":7860",
            "localhost:",
            "localhost:port",
            "evil@localhost:7860",
            "localhost:7860/",
            "localhost:7860#",
            "[::1:7860",
        ),
        *("localhost:7860, evil.example", "127.1:7860", "2130706433:7860", "\u212aocalhost:7860"),
    ],
)
def test_other_names(page, host):
    """Of other sites that were made to point here, and malformed ones."""
    response = page.get("/api/info", headers={"Host": host.encode("utf-8")})
    assert response.status_code == 403 and "address that it printed" in response.json()["error"]
    assert page.get("/", headers={"Host": host.encode("utf-8")}).status_code == 403
    assert page.get("/static/main.js", headers={"Host": host.encode("utf-8")}).status_code == 403


BAD_ORIGINS = [
    *("http://evil.example", "https://evil.example:7860", "null", "", "http://localhost:7860", "http://127.0.0.1", "file://"),
    *("http://127.0.0.1:7861", "http://127.0.0.1:7860.evil.example", "http://127.0.0.1:78600", "ftp://127.0.0.1:7860"),
    *("http://evil@127.0.0.1:7860", "http://127.0.0.1:7860/", "http://[::1]:7860"),
]
REQUESTS = [
    *(("POST", "/api/sessions"), ("DELETE", "/api/sessions/0123456789abcdef"), ("PUT", "/api/uploads/0123456789abcdef/0")),
    *(("PATCH", "/api/sessions/0123456789abcdef/objects/1"), ("OPTIONS", "/api/sessions"), ("POST", "/"), ("TRACE", "/")),
]


@pytest.mark.parametrize("origin", BAD_ORIGINS)
def test_other_origins(page, session, origin):
    """Changes and WebSockets from the pages of other sites."""
    for method, path in REQUESTS:
        response = page.request(method, path, headers={"Origin": origin})
        assert response.status_code == 403 and "own page" in response.json()["error"]
    with pytest.raises(WebSocketDisconnect), page.websocket_connect(EVENTS + session.address, headers={"Origin": origin}):
        pass
    with (
        pytest.raises(WebSocketDisconnect),
        page.websocket_connect(f"{EVENTS}{session.address}/events", headers={"Origin": origin}),
    ):
        pass


def test_missing_origin(page, session):
    del page.headers["Origin"]
    for method, path in REQUESTS:
        assert page.request(method, path).status_code == 403
    with pytest.raises(WebSocketDisconnect), page.websocket_connect(f"{EVENTS}{session.address}/events"):
        pass
    assert page.get("/api/info").status_code == 200  # browsers send none with plain requests of the same site


@pytest.mark.parametrize("origin", [HERE, "HTTP://127.0.0.1:7860", "https://127.0.0.1:7860"])
def test_own_origin(page, session, origin):
    assert page.post(f"{session.address}/objects", json={}, headers={"Origin": origin}).status_code == 201
    with page.websocket_connect(f"{EVENTS}{session.address}/events", headers={"Origin": origin}) as tab:
        assert tab.receive_json()["type"] == "session"


def test_headers_are_on_every_answer(page, session, caplog):
    """Also on errors, pictures, refused requests and mistakes of the server."""
    caplog.set_level(logging.CRITICAL)
    session.inside.timeline = None  # a mistake
    answers = {
        200: ["/", "/static/main.js", "/api/info", f"{session.address}/frames/0", session.address],
        404: ["/nothing", "/static/nothing", "/api/sessions/0123456789abcdef", f"{session.address}/frames/99"],
        500: [f"{session.address}/timeline"],
    }
    responses = [(status, page.get(path)) for status, paths in answers.items() for path in paths]
    responses += [(403, page.get("/", headers={"Host": "evil.example"})), (405, page.put("/api/info"))]
    for status, response in responses:
        assert response.status_code == status, (status, response.url)
        policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers
        if status >= 400:
            assert response.json()["error"]


# The token


async def everything(scope, receive, send):
    await PlainTextResponse("secret")(scope, receive, send)


@pytest.fixture
def guarded():
    """A client of a server that other machines can reach, and its guard."""
    guard = Guard(everything, "0.0.0.0", 7860)
    return TestClient(guard, base_url="http://192.0.2.7:7860", follow_redirects=False), guard


def test_loopback_needs_no_token():
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        assert is_loopback(host) and Guard(everything, host, 1).token is None
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org", ""):
        assert not is_loopback(host) and len(Guard(everything, host, 1).token) > 40
    assert Guard(everything, "0.0.0.0", 1).token != Guard(everything, "0.0.0.0", 1).token


def test_token(guarded):
    """It goes from the address into a cookie that scripts and other sites cannot use."""
    client, guard = guarded
    for path in (
        "/",
        "/?token=",
        "/?token=x",
        f"/?token={guard.token}x",
        f"/?token={guard.token[:-1]}",
        "/?TOKEN=" + guard.token,
    ):
        response = client.get(path)
        assert response.status_code == 403 and "token" in response.json()["error"]
    response = client.get(f"/?token={guard.token}")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    [cookie] = SimpleCookie(response.headers["set-cookie"]).values()
    assert cookie["httponly"] and cookie["samesite"] == "lax" and cookie.value == guard.token
    assert client.get("/").text == "secret"
    assert client.post("/").status_code == 403  # the token does not replace the origin
    assert client.post("/", headers={"Origin": "http://192.0.2.7:7860"}).text == "secret"


def test_token_leads_nowhere_else(guarded):
    client, guard = guarded
    response = client.get(f"http://192.0.2.7:7860//evil.example/?token={guard.token}")
    assert response.headers["location"] == "/"


@pytest.mark.parametrize("cookie", ["", "=", "i2v-7860=", "i2v-7860=wrong", 'i2v-7860="', "i2v-7861=TOKEN", "i2v-7860=TOKENé"])
def test_wrong_cookies(guarded, cookie):
    client, guard = guarded
    headers = {"Cookie": cookie.replace("TOKEN", guard.token).encode()}
    assert client.get("/", headers=headers).status_code == 403


def test_cookies_of_other_servers_do_not_hide_the_token(guarded):
    client, guard = guarded
    headers = {"Cookie": f'other={{"a": [1, 2]}}; bad name=1; i2v-7860={guard.token}; x="'}
    assert client.get("/", headers=headers).text == "secret"


@pytest.mark.parametrize("host", ["192.0.2.7", "[2001:db8::1]", socket.gethostname(), "localhost", "127.0.0.1"])
def test_names_of_a_reachable_server(guarded, host):
    client, guard = guarded
    assert client.get(f"/?token={guard.token}", headers={"Host": f"{host}:7860"}).status_code == 303
    assert client.get(f"/?token={guard.token}", headers={"Host": "evil.example:7860"}).status_code == 403
    assert client.get(f"/?token={guard.token}", headers={"Host": f"{host}:7861"}).status_code == 403


# Files


@pytest.fixture
def hostile(videos: Path, tmp_path: Path, png_folder: Path) -> Path:
    """The root with a hidden folder, links that lead out of it and to what is hidden, and a name that is not text."""
    (tmp_path / "secret").mkdir()
    for folder in (tmp_path / "secret", videos / ".hidden"):
        folder.mkdir(exist_ok=True)
        (folder / "0.png").write_bytes((png_folder / "00000.png").read_bytes())
    (videos / "out").symlink_to(tmp_path / "secret")
    (videos / "out.mp4").symlink_to(tmp_path / "secret" / "0.png")
    (videos / "up").symlink_to("..")
    (videos / "shown").symlink_to(".hidden")
    (videos / "loop").symlink_to("loop")
    (videos / "dead.mp4").symlink_to("nothing")
    (videos / "inside").symlink_to("disc")
    (videos / ".hidden.mp4").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(videos) + b"/\xff.mp4")).write_bytes(b"")
    return videos


PATHS = [
    *(
        "..",
        "../secret",
        "disc/../../secret",
        "disc/..",
        "/etc",
        "/",
        "//etc",
        "out",
        "out/0.png",
        "up",
        "up/secret",
    ),
    *(
        "out.mp4",
        "shown",
        "shown/0.png",
        ".hidden",
        ".hidden/0.png",
        ".hidden.mp4",
        "loop",
        "dead.mp4",
        "nothing",
        "disc\\..\\..",
        "\\",
    ),
    *(
        "disc\0",
        "\0",
        "%2e%2e",
        "..%2fsecret",
        "%2e%2e/secret",
        "a" * 5000,
        "disc/" * 2000,
        "\ud800",
        "\udcff.mp4",
        "~",
        "C:\\",
    ),
    *(
        "file:///etc/passwd",
        "http://evil.example/a.mp4",
        "rtsp://evil.example",
        "concat:disc",
        "|cat",
        "disc/00000.png/..",
        "\uff0e\uff0e",
    ),
]


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_paths_out_of_the_root(page, hostile, path):
    status, message = page.refused(
        "POST", "/api/sessions", content=json.dumps({"path": path}), headers={"Content-Type": "application/json"}
    )
    assert status == 404 and "no such" in message
    if path.isprintable():
        assert page.refused("GET", "/api/files", params={"path": path})[0] == 404
    assert page.ok("GET", "/api/sessions") == {"sessions": []}


def test_listing_shows_what_may_be_opened(page, hostile):
    listing = page.ok("GET", "/api/files")
    assert [entry["path"] for entry in listing["folders"]] == ["disc", "inside"]
    assert listing["folders"][0]["num_images"] == 12 and listing["videos"] == []
    assert page.ok("GET", "/api/files?path=disc")["parent"] == ""
    assert page.open_video("inside").ok("GET")["num_frames"] == 12


def test_unreadable_folder(page, videos):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (videos / "closed").mkdir(mode=0)
    assert page.refused("GET", "/api/files?path=closed")[0] == 403


def test_only_one_file_is_served(make_page, videos, make_video, tiny_video):
    make_video(videos / "clip.avi", tiny_video)
    make_video(videos / "other.avi", tiny_video)
    page = make_page(only="clip.avi")
    assert [entry["name"] for entry in page.ok("GET", "/api/files")["videos"]] == ["clip.avi"]
    for path in ("other.avi", "disc", "", "clip.avi/../other.avi", "CLIP.avi"):
        assert page.refused("POST", "/api/sessions", {"path": path})[0] == 404
    page.open_video("clip.avi")


def test_sessions_of_another_root(session, make_page, tmp_path):
    """A saved session does not let a server show what is outside of its root."""
    session.page.__exit__(None, None, None)
    (tmp_path / "empty").mkdir()
    page = make_page(root=tmp_path / "empty")
    [entry] = page.ok("GET", "/api/sessions")["sessions"]
    assert entry["path"] is None
    status, message = page.refused("GET", f"{session.address}/frames/0")
    assert status == 409 and "outside of the folder" in message


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/%00", "/static//etc/passwd"),
        *(
            "/static/%2fetc%2fpasswd",
            "/static/..%5cserver.py",
            "/static/",
            "/static",
            "/static/.%2e/server.py",
            "/api",
            "/api/",
        ),
        *("/i2v/app/server.py", "/etc/passwd", "/static/main.js/x", "/static/main.js%00.css"),
    ],
)
def test_nothing_but_static_files_is_served(page, path):
    response = page.request("GET", HERE + path)
    assert response.status_code == 404 and "secret" not in response.text
    assert response.json()["error"]


IDS = ["0123456789abcdef", "..", "%2e%2e", "x", "0123456789ABCDEF", "0123456789abcdef0", "%00", ".", "0123456789abcde%0a"]


@pytest.mark.parametrize("name", IDS)
def test_unknown_sessions(page, name):
    base = f"/api/sessions/{name}"
    for method, path in [
        ("GET", "/timeline"),
        ("GET", "/frames/0"),
        ("POST", "/open"),
        ("POST", "/undo"),
        ("GET", "/exports/x"),
    ]:
        assert page.refused(method, base + path)[0] in (404, 405)
    assert page.request("DELETE", base).status_code in (404, 405)
    assert page.request("DELETE", f"/api/uploads/{name}").status_code in (404, 405)
    assert page.request("PUT", f"/api/uploads/{name}/0", content=b"x").status_code in (404, 405)
    assert page.request("POST", f"/api/uploads/{name}/open").status_code in (404, 405)


def test_events_of_an_unknown_session(page):
    with page.websocket_connect(f"{EVENTS}/api/sessions/0123456789abcdef/events") as tab:
        assert "no such session" in tab.receive_json()["message"]
        with pytest.raises(WebSocketDisconnect):
            tab.receive_json()


def test_unknown_objects_frames_and_exports(session):
    session.add()
    click = {"points": [[16, 24, 1]]}
    huge = "9" * 5000
    for method, path, body in [
        *(
            ("PUT", "/objects/2/prompts/0", click),
            ("PUT", "/objects/1/prompts/12", click),
            ("DELETE", "/objects/1/prompts/0", None),
        ),
        *(("DELETE", "/objects/9", None), ("PATCH", "/objects/0", {"name": "x"}), ("GET", "/masks/12", None)),
        *(
            ("GET", "/frames/12", None),
            ("GET", "/thumbnails/-1", None),
            ("GET", f"/frames/{huge}", None),
            ("GET", "/frames/1e3", None),
        ),
        *(("POST", "/prepare", {"frame": 12}), ("POST", "/prepare", {"frame": -1}), ("POST", "/prepare", {"frame": 10**30})),
        *(
            ("POST", "/track", {"frame": 99, "direction": "both"}),
            ("GET", "/exports/none", None),
            ("GET", "/exports/%2e", None),
        ),
        *(("GET", "/exports/%2e%2e%2fsession.db", None), ("PUT", f"/objects/{huge}/prompts/0", click)),
        *(("PUT", "/objects/256/prompts/0", click), ("PUT", "/objects/0/prompts/0", click)),
    ]:
        status, message = session.refused(method, path, body)
        assert status in (404, 400 if "256" in path or "/objects/0/" in path else 404), (path[:50], status, message)


# Bodies

OBJECT, PROMPT = "/objects/1", "/objects/1/prompts/0"
NESTED = "[" * 100_000 + "]" * 100_000
BODIES = [
    *[(PROMPT, "PUT", body) for body in ("", "{", "[]", "1", "null", '"x"', "\xff", NESTED, '{"points": ' + NESTED + "}")],
    *[(PROMPT, "PUT", f'{{"points": {points}}}') for points in ("[]", "null", "1", "[1]", "[[1]]", "[[1, 2]]", "[[1, 2, 3]]")],
    *[
        (PROMPT, "PUT", f'{{"points": [[{point}]]}}')
        for point in ("NaN, 1, 1", "Infinity, 1, 1", "1, -Infinity, 1", "1, 1, NaN")
    ],
    *[
        (PROMPT, "PUT", f'{{"points": [[{point}]]}}')
        for point in ("1e400, 1, 1", "-1, 1, 1", "65, 1, 1", "1, 49, 1", "1, 1, true")
    ],
    *[
        (PROMPT, "PUT", f'{{"points": [[{point}]]}}')
        for point in ('"1", 1, 1', "null, 1, 1", "true, 1, 1", "[1], 1, 1", "{}, 1, 1")
    ],
    (PROMPT, "PUT", '{"points": [[' + "9" * 4000 + ", 1, 1]]}"),
    (PROMPT, "PUT", '{"points": [[' + "9" * 5000 + ", 1, 1]]}"),
    (PROMPT, "PUT", '{"points": [' + ", ".join(["[1, 1, 1]"] * 10_001) + "]}"),
    *[
        (PROMPT, "PUT", f'{{"box": {box}}}')
        for box in ("[]", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "[9, 9, 3, 3]", "[0, 0, 65, 40]", "1")
    ],
    *[(PROMPT, "PUT", f'{{"box": {box}}}') for box in ("[NaN, 1, 2, 3]", "[[1, 2], [3, 4]]", '["a", 1, 2, 3]', '"1234"', "{}")],
    *[
        (PROMPT, "PUT", f'{{"mask": {mask}}}')
        for mask in ("1", "[]", "{}", '"x"', '{"size": [48, 64]}', '{"size": 1, "counts": []}')
    ],
    *[
        (PROMPT, "PUT", f'{{"mask": {{"size": {size}, "counts": {counts}}}}}')
        for size, counts in [
            *(("[64, 48]", "[3072]"), ("[48]", "[3072]"), ("[48, 64, 1]", "[3072]"), ("[]", "[]"), ("[48, 64]", "[3071]")),
            *(
                ("[48, 64]", "[3073]"),
                ("[48, 64]", "[]"),
                ("[48, 64]", "[-1, 3073]"),
                ("[48, 64]", '["3072"]'),
                ("[48, 64]", "[3e3, 72]"),
            ),
            *(
                ("[48, 64]", "[NaN]"),
                ("[48, 64]", "[[3072]]"),
                ("[48, 64]", "[99999999999999999999]"),
                ("[48, 64]", '"\u0000"'),
            ),
            *(
                ("[48, 64]", '"\ud83d\ude00"'),
                ("[48, 64]", '""'),
                ("[48, 64]", '"zzzzzz"'),
                ("[100000, 100000]", "[10000000000]"),
            ),
            *(
                ("[48, 64]", "[4294967296, 3072]"),
                ("[48, 64]", "null"),
                ("[48, 64]", "[1, null]"),
            ),
        ]
    ],
    (PROMPT, "PUT", '{"points": [[1, 1, 1]], "mask": {"size": [48, 64], "counts": [0, 3072]}}'),
    *[
        (OBJECT, "PATCH", body)
        for body in ('{"name": ""}', '{"name": "  "}', '{"name": 1}', '{"name": "a\\nb"}', '{"name": "\\ud800"}')
    ],
    (OBJECT, "PATCH", json.dumps({"name": "x" * 101})),
    *[
        (OBJECT, "PATCH", f'{{"colour": {c}}}')
        for c in ('"red"', '"#12345"', '"#1234567"', '"#GGGGGG"', "1", '"#12345\\n"', '"\\ud800"')
    ],
    *[(OBJECT, "PATCH", f'{{"hidden": {hidden}}}') for hidden in ("1", "0", '"true"', "[]")],
    *[
        ("/track", "POST", body)
        for body in ("{}", '{"frame": 0}', '{"frame": 0, "direction": "up"}', '{"frame": "0", "direction": "both"}')
    ],
    *[
        ("/track", "POST", f'{{"frame": 0, "direction": "both", "frames": {n}}}')
        for n in ("0", "-1", "1.5", "true", '"1"', "[]", "NaN")
    ],
    *[("/track", "POST", f'{{"frame": {frame}, "direction": "both"}}') for frame in ("true", "1.0", "null", "NaN", "[]")],
    *[("/prepare", "POST", body) for body in ("{}", '{"frame": 1.5}', '{"frame": false}', '{"frame": null}')],
    *[
        ("/export", "POST", body)
        for body in ("{}", '{"formats": []}', '{"formats": ["exe"]}', '{"formats": "masks"}', '{"formats": [1]}')
    ],
    ("/export", "POST", '{"formats": ["\\ud800"]}'),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_bad_bodies(bad_session, number):
    """Each is refused with a message, and changes nothing."""
    path, method, body = BODIES[number]
    before = bad_session.ok("GET")
    options = {"content": body.encode("utf-8", "surrogatepass"), "headers": {"Content-Type": "application/json"}}
    status, message = bad_session.refused(method, path, **options)
    assert status == 400 and message and len(message) < 3000, (body[:100], status, message)
    assert bad_session.ok("GET") == before


@pytest.fixture(scope="module")
def bad_session(tiny_predictor, png_folder, tmp_path_factory):
    """A session with one object, for requests that change nothing."""
    from page_client import Page

    from i2v.app.workspace import Workspace

    folder = tmp_path_factory.mktemp("bad")
    with Page(lambda notify: Workspace(png_folder, None, folder, tiny_predictor, notify)) as page:
        session = page.open_video("")
        session.add()
        session.click(1, 5, (16.0, 24.0, 1))
        yield session


def test_bodies_of_another_type(session):
    """Forms, which other sites could send without asking, are refused."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/xml"):
        status, message = session.refused(
            "POST", "/track", content=b'{"frame": 0, "direction": "both"}', headers={"Content-Type": kind}
        )
        assert status == 400 and "application/json" in message


def test_too_large_body(session, monkeypatch):
    monkeypatch.setattr("i2v.app.server._MAX_BODY", 1000)
    body = b'{"points": [' + b" " * 2000 + b"]}"
    session.add()
    headers = {"Content-Type": "application/json"}
    assert session.refused("PUT", "/objects/1/prompts/0", content=body, headers=headers)[0] == 413


# Limits


def test_number_of_objects(session, monkeypatch):
    monkeypatch.setattr("i2v.app.session.MAX_OBJECTS", 2)
    assert [session.add(), session.add()] == [1, 2]
    assert session.refused("POST", "/objects", {})[0] == 409
    session.ok("DELETE", "/objects/1")
    assert session.add() == 3
    session.inside._next_id = 256  # label images have no more
    session.ok("DELETE", "/objects/3")
    assert session.refused("POST", "/objects", {})[0] == 409


def test_number_of_sessions(make_page):
    """The one that was not used for the longest time makes room, unless a page shows it."""
    page = make_page(max_sessions=2)
    first, second = page.open_video("disc"), page.open_video("disc")
    first.ok("GET")
    third = page.open_video("disc")
    is_open = {entry["id"]: entry["is_open"] for entry in page.ok("GET", "/api/sessions")["sessions"]}
    assert is_open == {first.id: True, second.id: False, third.id: True}
    with (
        page.websocket_connect(f"{EVENTS}{first.address}/events") as one,
        page.websocket_connect(f"{EVENTS}{third.address}/events") as other,
    ):
        one.receive_json(), other.receive_json()
        status, message = page.refused("POST", "/api/sessions", {"path": "disc", "new": True})
        assert status == 429 and "2 sessions are in use" in message
        assert page.refused("GET", second.address)[0] == 429
    assert len(page.ok("GET", "/api/sessions")["sessions"]) == 3


# Uploads


def upload(page, files: dict[str, bytes], announced: dict[str, int] | None = None) -> str:
    sizes = announced or {name: len(data) for name, data in files.items()}
    upload = page.ok("POST", "/api/uploads", {"files": [{"name": name, "bytes": size} for name, size in sizes.items()]})[
        "upload"
    ]
    for index, data in enumerate(files.values()):
        assert page.put(f"/api/uploads/{upload}/{index}", content=data).status_code == 204
    return upload


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "sessions").rglob("*"))


def test_uploaded_images(page, png_folder, make_page, tmp_path):
    """They are a video in the order of their names, which lasts as long as its session."""
    files = {path.name: path.read_bytes() for path in sorted(png_folder.iterdir(), reverse=True)}
    session = page.session(page.ok("POST", f"/api/uploads/{upload(page, files)}/open")["id"])
    about = session.ok("GET")
    assert (about["name"], about["num_frames"], about["width"]) == ("12 images", 12, 64)
    shown = cv2.imdecode(np.frombuffer(page.get(f"{session.address}/frames/11").content, np.uint8), 1)
    differences = [np.abs(shown.astype(int) - cv2.imread(str(png_folder / f"{t:05d}.png"))).mean() for t in range(12)]
    assert np.argmin(differences) == 11
    session.add()
    session.click(1, 0, (16.0, 24.0, 1))
    page.__exit__(None, None, None)
    again = make_page().session(session.id)
    assert again.ok("POST", "/open", {})["objects"][0]["prompts"]
    [entry] = again.page.ok("GET", "/api/sessions")["sessions"]
    assert entry["path"] is None
    assert again.page.request("DELETE", again.address).status_code == 204
    assert left(tmp_path) == []


def test_uploaded_video(page, make_video, tiny_video, tmp_path):
    data = make_video(tmp_path / "clip.avi", tiny_video).read_bytes()
    session = page.ok("POST", f"/api/uploads/{upload(page, {'Mein Vidéo.AVI': data})}/open")
    assert (session["name"], session["num_frames"]) == ("Mein Vidéo.AVI", 12)
    assert page.ok("GET", "/api/sessions")["sessions"][0]["name"] == "Mein Vidéo.AVI"


NAMES = [
    *(
        "../a.png",
        "/a.png",
        "a/b.png",
        "a\\b.png",
        ".a.png",
        "a\0.png",
        "a\n.png",
        "C:a.png",
        "a?.png",
        "*.png",
        "x" * 250 + ".png",
    ),
    *("é" * 150 + ".png", ".png", "", ".", "..", "a|b.png", "\u202egnp.png", "\ud800.png", "~/../a.png", "<a>.png", "a.png/"),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_uploads(page, name, tmp_path):
    body = json.dumps({"files": [{"name": name, "bytes": 1}]})
    status, _ = page.refused("POST", "/api/uploads", content=body, headers={"Content-Type": "application/json"})
    assert status == 400 and left(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ([], 400),
        ([{"name": "a.exe", "bytes": 1}], 400),
        ([{"name": "a.svg", "bytes": 1}], 400),
        ([{"name": "a", "bytes": 1}], 400),
        ([{"name": "a.png", "bytes": 1}, {"name": "b.mp4", "bytes": 1}], 400),
        ([{"name": "a.mp4", "bytes": 1}, {"name": "b.mp4", "bytes": 1}], 400),
        ([{"name": "a.png", "bytes": 1}, {"name": "A.png", "bytes": 1}], 400),
        ([{"name": "a.png", "bytes": 2**62}], 413),
        ([{"name": "a.png", "bytes": 600}, {"name": "b.png", "bytes": 600}], 413),
        ([{"name": "a.png", "bytes": 2**62}, {"name": "b.png", "bytes": -(2**62)}], 413),
        ([{"name": "a.png", "bytes": -1}], 413),
        ([{"name": "a.png", "bytes": 1.5}], 400),
        ([{"name": "a.png", "bytes": True}], 400),
        ([{"name": "a.png"}], 400),
        ([{"name": 1, "bytes": 1}], 400),
        (["a.png"], 400),
        ({"name": "a.png"}, 400),
        ([{"name": f"{i}.png", "bytes": 0} for i in range(20_001)], 400),
    ],
)
def test_refused_uploads(make_page, tmp_path, files, status):
    page = make_page(max_upload_bytes=1000)
    assert page.refused("POST", "/api/uploads", {"files": files})[0] == status
    assert left(tmp_path) == []


def test_size_of_uploads(page, tmp_path):
    """Neither more nor fewer bytes than announced, and nothing is left of such a file."""
    name = page.ok("POST", "/api/uploads", {"files": [{"name": "a.png", "bytes": 10}]})["upload"]
    address = f"/api/uploads/{name}"
    for data, status in ((b"x" * 11, 413), (b"x" * 9, 400), (b"", 400), (b"x" * 10_000_000, 413)):
        assert page.put(f"{address}/0", content=data).status_code == status
        assert left(tmp_path) == sorted([name, "upload.json", "video"])
    assert page.put(f"{address}/1", content=b"").status_code == 404
    assert page.put(f"{address}/-1", content=b"").status_code == 404
    assert page.put(f"{address}/{'9' * 5000}", content=b"").status_code == 404
    status, message = page.refused("POST", f"{address}/open")
    assert status == 409 and "a.png is missing" in message
    assert page.delete(address).status_code == 204
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.webm", "a.tif"])
@pytest.mark.parametrize("data", [b"", b"#EXTM3U\n/etc/passwd\n", b"<svg/>", bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_corrupt_uploads_leave_nothing(page, tmp_path, name, data):
    status, message = page.refused("POST", f"/api/uploads/{upload(page, {name: data})}/open")
    assert status == 400 and message
    assert left(tmp_path) == []


def test_number_of_uploads(page, tmp_path):
    files = {"files": [{"name": "a.png", "bytes": 1}]}
    begun = [page.ok("POST", "/api/uploads", files)["upload"] for _ in range(8)]
    assert page.refused("POST", "/api/uploads", files)[0] == 429
    page.ok("DELETE", f"/api/uploads/{begun[0]}")
    page.ok("POST", "/api/uploads", files)


def test_old_uploads_are_removed(page, make_page, tmp_path):
    names = [page.ok("POST", "/api/uploads", {"files": [{"name": "a.png", "bytes": 1}]})["upload"] for _ in range(2)]
    old = tmp_path / "sessions" / names[0]
    for path in [old, *old.iterdir()]:
        os.utime(path, (0, 0))
    make_page()
    assert left(tmp_path) == sorted([names[1], "upload.json", "video"])


@pytest.mark.parametrize("data", [b"", b"no video"])
def test_corrupt_video_under_the_root(page, videos, tmp_path, data):
    (videos / "bad.mp4").write_bytes(data)
    status, message = page.refused("POST", "/api/sessions", {"path": "bad.mp4"})
    assert status == 400 and "bad.mp4" in message
    assert left(tmp_path) == []
