"""What may reach the API at all: Host, Origin, Sec-Fetch-Site, method, body. Pure ASGI, before any route or session.

Who calls, and what is asked of them (DESIGN 7, PROOFS C1):

- the control socket (`scope["extensions"]["kiosk.peer"]`, set by our own server): no Origin, no Sec-Fetch-*;
- anybody on TCP: a loopback address, exactly one allowed Host, no token in the URL;
- a browser's GET or HEAD: same-origin, typed by the user, or from a configured UI; pages alone may be navigated to;
- a browser's other methods and WebSockets: an exact allowed Origin, never `null`, never missing;
- a program's: the same, or `Authorization: Bearer` with no Cookie, Origin or Sec-Fetch-* beside it.

A page cannot set Authorization on a foreign origin without a preflight, and no preflight of a foreign origin is ever
answered; so a bearer token without Origin is a program. A program without a bearer token (the login itself) names the
kiosk's own origin: `curl -H 'Origin: http://127.0.0.1:8005' …`. Method override headers mean nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qsl

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api import problems
from agent.api.auth.caller import PEER_EXTENSION
from agent.api.settings import ApiSettings
from agent.domain.errors import KioskError

API_ROOTS = ("/api/", "/metrics")
SAFE = frozenset({"GET", "HEAD"})
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_TOKENS_IN_URL = frozenset(
    {"token", "access_token", "refresh_token", "ui_token", "session", "kiosk_session", "api_key"}
)
_ALLOWED_HEADERS = "Content-Type, Idempotency-Key, Last-Event-ID, X-Trace-Id"
_EXPOSED_HEADERS = "Idempotency-Replayed, Retry-After, X-Trace-Id"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class HostNotAllowed(KioskError):
    code: ClassVar[str] = "host_not_allowed"
    http_status: ClassVar[int] = 403


class OriginNotAllowed(KioskError):
    code: ClassVar[str] = "origin_not_allowed"
    http_status: ClassVar[int] = 403


class NotLocal(KioskError):
    code: ClassVar[str] = "not_local"
    http_status: ClassVar[int] = 403


class TokenInUrl(KioskError):
    code: ClassVar[str] = "token_in_url"
    http_status: ClassVar[int] = 400


class MalformedRequest(KioskError):
    code: ClassVar[str] = "malformed_request"
    http_status: ClassVar[int] = 400


class MethodNotAllowed(KioskError):
    code: ClassVar[str] = "method_not_allowed"
    http_status: ClassVar[int] = 405


class UnsupportedMediaType(KioskError):
    code: ClassVar[str] = "unsupported_media_type"
    http_status: ClassVar[int] = 415


class BodyTooLarge(KioskError):
    code: ClassVar[str] = "body_too_large"
    http_status: ClassVar[int] = 413


class RequestTooSlow(KioskError):
    code: ClassVar[str] = "request_too_slow"
    http_status: ClassVar[int] = 408


class Gate:
    """Refuses with a problem document, which no foreign page can read; adds the security headers to every answer."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cors: Mapping[str, str] = {}
        try:
            cors = self._cross_origin(scope, headers)
            if scope["type"] == "http":
                receive = await self._body(scope, headers, receive)
        except KioskError as error:
            await refuse(error, scope, receive, _dressed(send, cors))
            return
        app = Response(status_code=204) if scope.get("method") == "OPTIONS" else self._app
        await app(scope, receive, _dressed(send, cors))

    def _cross_origin(self, scope: Scope, headers: Headers) -> Mapping[str, str]:
        """Check where the request comes from; returns the CORS headers of its answer (none for our own pages)."""
        if PEER_EXTENSION in (scope.get("extensions") or {}):
            if _from_browser(headers):
                raise OriginNotAllowed("The control socket is not for browsers.")
            return {}
        self._check_address(scope, headers)
        if _TOKENS_IN_URL & {name.lower() for name, _ in parse_qsl(scope.get("query_string", b"").decode("latin-1"))}:
            raise TokenInUrl("Tokens never travel in a URL: it ends in histories and logs.")
        origin = self._check_origin(scope, headers)
        if origin not in self._settings.ui_origins:
            return {}
        return _cors(origin, headers) if scope.get("method") == "OPTIONS" else _cors(origin)

    def _check_address(self, scope: Scope, headers: Headers) -> None:
        client = scope.get("client")
        if client is None or client[0] not in _LOOPBACK:
            raise NotLocal("Only this machine is answered; from elsewhere use ssh -L.")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts(scope):
            raise HostNotAllowed("The Host header does not name this kiosk.")

    def _hosts(self, scope: Scope) -> frozenset[str]:
        server = scope.get("server")
        port = server[1] if server and server[1] else self._settings.port
        own = {f"127.0.0.1:{port}", f"localhost:{port}"} | ({"127.0.0.1", "localhost"} if port == 80 else set())
        return frozenset(own | {host.lower() for host in self._settings.extra_hosts})

    def _check_origin(self, scope: Scope, headers: Headers) -> str:
        """The allowed Origin, or an empty text when there is none and none is needed."""
        origins = headers.getlist("origin")
        if len(origins) > 1:
            raise OriginNotAllowed("More than one Origin header.")
        own = f"http://{headers['host'].lower()}"
        if origins and origins[0] != own and origins[0] not in self._settings.ui_origins:
            raise OriginNotAllowed("This origin may not talk to the kiosk.")
        origin = origins[0] if origins else ""
        method = scope["method"] if scope["type"] == "http" else "GET"
        if method == "OPTIONS":
            if origin not in self._settings.ui_origins:
                raise MethodNotAllowed("OPTIONS is answered for configured UI origins only.")
        elif method not in SAFE | UNSAFE:
            raise MethodNotAllowed(f"{method} means nothing here.")
        elif (scope["type"] == "websocket" or method in UNSAFE) and not origin and not _is_program(headers):
            raise OriginNotAllowed("An Origin header is needed, or a bearer token and no cookie.")
        if origin not in self._settings.ui_origins:
            _check_fetch_metadata(scope, headers)
        return origin

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Read the whole body within its bounds, so that no route sees an unbounded one; returns what replays it."""
        length, encoding = headers.getlist("content-length"), headers.getlist("transfer-encoding")
        if len(length) + len(encoding) > 1:
            raise MalformedRequest("Send Content-Length or Transfer-Encoding, once.")
        if not encoding and (not length or length == ["0"]):
            return receive
        if scope["method"] in SAFE:
            raise MalformedRequest(f"{scope['method']} takes no body.")
        kind, _, parameter = headers.get("content-type", "").partition(";")
        if kind.strip().lower() != "application/json" or parameter.strip().lower() not in {"", "charset=utf-8"}:
            raise UnsupportedMediaType("Send application/json.")
        if "content-encoding" in headers:
            raise UnsupportedMediaType("Send the body uncompressed.")
        if length and (not length[0].isascii() or not length[0].isdigit()):
            raise MalformedRequest("Content-Length is not a number.")
        if length and int(length[0]) > self._settings.body_limit_bytes:
            raise BodyTooLarge(f"The body is limited to {self._settings.body_limit_bytes} bytes.")
        return _replay(await self._read(receive), receive)

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise MalformedRequest("The client went away in the middle of its body.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._settings.body_limit_bytes:
                        raise BodyTooLarge(f"The body is limited to {self._settings.body_limit_bytes} bytes.")
        except TimeoutError:
            raise RequestTooSlow("The body took too long to arrive.") from None
        return bytes(body)


def _from_browser(headers: Headers) -> bool:
    return "origin" in headers or any(name.startswith("sec-fetch-") for name in headers)


def _is_program(headers: Headers) -> bool:
    bearer = headers.get("authorization", "").lower().startswith("bearer ")
    return bearer and "cookie" not in headers and not _from_browser(headers)


def _check_fetch_metadata(scope: Scope, headers: Headers) -> None:
    """`none` is the user's own doing (address bar, bookmark, a program's argument). A page, not the API, may also be
    reached by a link from elsewhere (the launch file): it shows nothing that its own requests do not fetch."""
    site = headers.get("sec-fetch-site", "same-origin")
    if site in {"same-origin", "none"}:
        return
    navigated = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if scope.get("method") in SAFE and navigated and not scope["path"].startswith(API_ROOTS):
        return
    raise OriginNotAllowed("Another site's page may not reach into the kiosk.")


def _cors(origin: str, preflight: Headers | None = None) -> dict[str, str]:
    allowed = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"}
    if preflight is None:
        return {**allowed, "Access-Control-Expose-Headers": _EXPOSED_HEADERS}
    if preflight.get("access-control-request-private-network") == "true":
        allowed["Access-Control-Allow-Private-Network"] = "true"
    methods = ", ".join(sorted(SAFE | UNSAFE))
    return {**allowed, "Access-Control-Allow-Methods": methods, "Access-Control-Allow-Headers": _ALLOWED_HEADERS}


def _dressed(send: Send, cors: Mapping[str, str]) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            is_page = headers.get("content-type", "").startswith("text/html")
            headers["Content-Security-Policy"] = PAGE_POLICY if is_page else API_POLICY
            headers.add_vary_header("Origin")
            for name, value in {**_HEADERS, **cors}.items():
                headers[name] = value
        await send(message)

    return with_headers


def _replay(body: bytes, receive: Receive) -> Receive:
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def again() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return again


async def refuse(error: KioskError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the problem document; a WebSocket handshake with a bare 403. (uvicorn 0.54 can send a document there,
    but then logs an error of its own for every refusal, which an attacker could fill the log with.)"""
    if scope["type"] == "websocket":
        logger.info("refused a WebSocket: {code}", code=error.code)
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    answer = problems.from_error(error)
    if error.http_status in {408, 413}:
        answer.headers["Connection"] = "close"
    await answer(scope, receive, send)
