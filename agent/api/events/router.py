"""`GET /events` (SSE) and `WS /ws`: the same messages on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response
from loguru import logger
from starlette.types import Receive, Scope, Send

from agent.api.auth import caller as who
from agent.api.auth.caller import Caller, Role, caller_of, permitted
from agent.api.events.asyncapi import document
from agent.api.events.feed import CLIENT_GONE, CLIENT_TALKED, Subscription
from agent.api.events.stream import Item, Streams
from agent.api.problems import documented
from agent.api.security import refuse
from agent.domain.errors import KioskError, StoreError

Listen = Callable[[], Awaitable[str]]
Write = Callable[[list[Item]], Awaitable[None]]
_EXAMPLE = (
    'retry: 1000\n\nid: 0199c1d2-…:41\ndata: {"specversion":"1.0","id":"0199c1d2-…:41","type":"kiosk.snapshot",…}\n\n'
    'id: 0199c1d2-…:42\ndata: {"specversion":"1.0","id":"0199c1d2-…:42","type":"cash.note.stacked","data":{…}}\n\n'
)
_SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The stream. Comments (`:`) are heartbeats.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}
LastEventId = Annotated[str | None, Query(description="As the header, for a first connection.", max_length=80)]
LastEventIdHeader = Annotated[str | None, Header(alias="Last-Event-ID", description="Sent by browsers by themselves.")]


def make_router(streams: Streams) -> APIRouter:
    router = APIRouter(tags=["events"])

    @router.get("/events", response_class=Response, responses={**_SSE, **documented(400, 401, 403, 503)})
    async def events(
        caller: Annotated[Caller, Depends(who.somebody)],
        last_event_id: LastEventId = None,
        header: LastEventIdHeader = None,
    ) -> Response:
        """Server-sent events: one CloudEvent per message, `id` is `<journal_id>:<seq>`. The first message is a
        `kiosk.snapshot`, unless Last-Event-ID names a row of this journal at most 10,000 behind: then the stream goes
        on after it. The last message before the kiosk ends a stream is `kiosk.stream.ended` with a `reason`
        (`too_slow`, `shutdown`, `journal_changed`, `session_ended`). The role decides which types are sent."""
        return EventStream(Client(streams, streams.enter(), caller, header or last_event_id))

    @router.websocket("/ws")
    async def ws(websocket: WebSocket, last_event_id: LastEventId = None) -> None:
        try:
            caller = permitted(caller_of(websocket.scope), frozenset(Role))
            client = Client(streams, streams.enter(), caller, last_event_id)
        except KioskError as error:
            await refuse(error, websocket.scope, websocket.receive, websocket.send)
            return
        await _serve(websocket, client)

    @router.get("/asyncapi.json", responses={200: {"description": "AsyncAPI 3.0."}})
    async def asyncapi() -> JSONResponse:
        """The AsyncAPI document of `/events` and `/ws`: every event type with the schema of its `data`."""
        return JSONResponse(document())

    return router


@dataclass(frozen=True, slots=True)
class Client:
    streams: Streams
    subscription: Subscription
    caller: Caller
    resume: str | None

    async def pump(self, listen: Listen, write: Write) -> bool:
        """Write this client's items until either side ends; False when the client is gone or does not read."""

        async def until_over() -> None:
            self.subscription.end(await listen())

        listener = asyncio.create_task(until_over())
        try:
            async with aclosing(self.streams.items(self.subscription, self.caller, self.resume)) as stream:
                async for items in stream:
                    async with asyncio.timeout(self.streams.settings.stream_stall_s):
                        await write(items)
        except (TimeoutError, OSError, WebSocketDisconnect):
            return False
        except StoreError as error:
            logger.warning("an event stream ended: {reason}", reason=error.message)
            return False
        finally:
            self.streams.leave(self.subscription)
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener
        return self.subscription.ended != CLIENT_GONE


class EventStream(Response):
    """Written by hand: no task group, no queue and no polling between the feed and the socket."""

    media_type = "text/event-stream"

    def __init__(self, client: Client) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> str:
            while (await receive())["type"] != "http.disconnect":
                pass
            return CLIENT_GONE

        async def write(items: list[Item]) -> None:
            await send({"type": "http.response.body", "body": b"".join(map(_frame, items)), "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        if await self._client.pump(listen, write):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _frame(item: Item) -> bytes:
    if item.json is None:
        return b"id: %b\n: \n\n" % item.id.encode()
    return b"id: %b\ndata: %b\n\n" % (item.id.encode(), item.json)


async def _serve(websocket: WebSocket, client: Client) -> None:
    async def listen() -> str:
        """Nothing is taken from a client: whoever talks is sent away, so that no one comes to rely on an echo."""
        message = await websocket.receive()
        return CLIENT_GONE if message["type"] == "websocket.disconnect" else CLIENT_TALKED

    async def write(items: list[Item]) -> None:
        for item in items:
            if item.json is not None:
                await websocket.send_text(item.json.decode())

    await websocket.accept()
    await client.pump(listen, write)
    reason = client.subscription.ended
    with suppress(RuntimeError, WebSocketDisconnect):  # the client has closed already
        await websocket.close(code=1008 if reason == CLIENT_TALKED else 1001, reason=reason)
