"""Who may talk to the server: checks of every request before anything else sees it.

A page of another site can send requests to a server on this machine. `Host` must be a name of this server, so that no other
name can be made to point here (DNS rebinding); requests that change something, and WebSockets, must come from the server's own
page (`Origin`). Where other machines can reach the server, a random token is required besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware that refuses foreign requests and adds security headers.

    Args:
        app (ASGIApp): the application.
        host (str): address that the server listens on.
        port (int): its port.

    Attributes:
        token (str or None): the token that the address of the page must have; None on loopback addresses.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._app = app
        self._port = port
        self._cookie = f"i2v-{port}"  # cookies do not distinguish ports
        self._names = {"localhost"} if is_loopback(host) else {"localhost", host.lower(), socket.gethostname().lower()}
        self._only_loopback = is_loopback(host)
        self.token = None if self._only_loopback else secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        response = self._refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if response is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await receive()  # the request to connect; closing before accepting answers it with 403
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that the application must not see."""
        headers = Headers(scope=scope)
        if not self._is_own_host(headers.get("host", "")):
            return _forbidden("this server does not go by that name: use the address that it printed")
        is_change = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        origin = headers.get("origin")
        if is_change and (origin is None or not _is_own_origin(origin, headers["host"])):
            return _forbidden("requests that change something must come from the server's own page")
        return self._token_refusal(scope, headers)

    def _is_own_host(self, host: str) -> bool:
        name, port = _split(host)
        if port != self._port or name is None:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not self._only_loopback

    def _token_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if self.token is None:
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[-1]
        if given and hmac.compare_digest(given.encode(), self.token.encode()) and scope["type"] == "http":
            # The token leaves the address, where others may read it, for a cookie. It is not "strict", so that links on other
            # sites lead to the page; what changes something needs the right origin, too.
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(self._cookie, self.token, httponly=True, samesite="lax")
            return response
        # Not http.cookies, which stops at a malformed cookie of another server on this machine.
        cookie = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        if not hmac.compare_digest(cookie.encode(), self.token.encode()):
            return _forbidden("open the address that the server printed, with its token")
        return None


def _split(host: str) -> tuple[str | None, int | None]:
    """Name and port of a Host header; (None, None) if it is malformed."""
    found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::([0-9]{1,5}))?", host.lower())
    if found is None:
        return None, None
    return found[1] or found[2], int(found[3] or 80)


def _is_own_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _forbidden(message: str) -> Response:
    return JSONResponse({"error": message}, status_code=403)
