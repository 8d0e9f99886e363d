"""One JSON line per fact on stderr, each with the trace id of the call it belongs to."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from loguru import logger
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sync.central.settings import LoggingSettings
from sync.envelope import TRACE_HEADER

if TYPE_CHECKING:
    from loguru import Message as LogMessage

_HEADER = TRACE_HEADER.lower().encode()
_TRACE_MAX = 100


def configure(settings: LoggingSettings) -> None:
    """Replaces loguru's handlers: JSON lines for machines, plain ones for a developer's eyes."""
    logger.remove()
    if settings.json_lines:
        logger.add(_write, level=settings.level)
    else:
        logger.add(sys.stderr, level=settings.level)


def _write(message: LogMessage) -> None:
    record = message.record
    line = {
        "ts": record["time"].isoformat(),
        "level": record["level"].name.lower(),
        "event": record["message"],
        "logger": record["name"],
        **record["extra"],
    }
    if record["exception"] is not None:
        line["exception"] = repr(record["exception"].value)
    sys.stderr.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


class TraceIds:
    """ASGI: takes the caller's trace id or makes one, binds it to every log line of the call, and answers with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _HEADER), b"").decode("latin-1")
        usable = 0 < len(given) <= _TRACE_MAX and given.isascii() and given.isprintable()
        trace_id = given if usable else os.urandom(16).hex()

        async def traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (_HEADER, trace_id.encode())]
            await send(message)

        with logger.contextualize(trace_id=trace_id):
            await self._app(scope, receive, traced)
