"""The trace id of a request: taken from `X-Trace-Id` or made, bound to the log, given back in the answer."""

from __future__ import annotations

import re
from contextvars import ContextVar

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.domain.clock import Clock
from agent.domain.ids import Randomness, uuid7

HEADER = "X-Trace-Id"
_SOUND = re.compile(r"[0-9A-Za-z_-]{8,64}")
_current: ContextVar[str] = ContextVar("kiosk_trace_id", default="")


def trace_id() -> str:
    """Of the request being answered; empty outside of one."""
    return _current.get()


class TraceMiddleware:
    """Outermost of all, so that refusals carry a trace id too."""

    def __init__(self, app: ASGIApp, clock: Clock, randomness: Randomness) -> None:
        self._app = app
        self._clock = clock
        self._randomness = randomness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        chosen = given if _SOUND.fullmatch(given) else self._new()

        async def named(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[HEADER] = chosen
            await send(message)

        token = _current.set(chosen)
        try:
            with logger.contextualize(trace_id=chosen):
                await self._app(scope, receive, named)
        finally:
            _current.reset(token)

    def _new(self) -> str:
        return uuid7(self._clock.now_us() // 1000, self._randomness(10)).hex
