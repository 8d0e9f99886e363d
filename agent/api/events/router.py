"""`GET /events` (SSE) and `WS /ws`: the same messages on both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, WebSocket
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agent.api.auth import caller as who
from agent.api.auth.caller import Caller, Role, caller_of, permitted
from agent.api.events.asyncapi import document
from agent.api.events.feed import CLIENT_GONE, Subscription
from agent.api.events.stream import Item, Streams
from agent.api.problems import documented
from agent.api.security import refuse
from agent.domain.errors import KioskError

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
        subscription = streams.enter()
        return EventStream(streams, subscription, caller, header or last_event_id)

    @router.websocket("/ws")
    async def ws(websocket: WebSocket, last_event_id: LastEventId = None) -> None:
        try:
            caller = permitted(caller_of(websocket.scope), frozenset(Role))
            subscription = streams.enter()
        except KioskError as error:
            await refuse(error, websocket.scope, websocket.receive, websocket.send)
            return
        await _serve(websocket, streams, subscription, caller, last_event_id)

    @router.get("/asyncapi.json", responses={200: {"description": "AsyncAPI 3.0."}})
    async def asyncapi() -> JSONResponse:
        """The AsyncAPI document of `/events` and `/ws`: every event type with the schema of its `data`."""
        return JSONResponse(document())

    return router


class EventStream(Response):
    """Written by hand: no task group, no queue and no polling between the feed and the socket."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, subscription: Subscription, caller: Caller, resume: str | None) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams
        self._subscription = subscription
        self._caller = caller
        self._resume = resume

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async def write(items: list[Item]) -> None:
            await send({"type": "http.response.body", "body": b"".join(map(_frame, items)), "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        finished = await _pump(self._streams, self._subscription, self._caller, self._resume, listen, write)
        if finished:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _frame(item: Item) -> bytes:
    if item.json is None:
        return b"id: %b\n: \n\n" % item.id.encode()
    return b"id: %b\ndata: %b\n\n" % (item.id.encode(), item.json)


async def _serve(
    websocket: WebSocket, streams: Streams, subscription: Subscription, caller: Caller, resume: str | None
) -> None:
    async def listen() -> None:
        """Nothing is taken from a client: whoever talks is sent away, so that no one comes to rely on an echo."""
        await websocket.receive()

    async def write(items: list[Item]) -> None:
        for item in items:
            if item.json is not None:
                await websocket.send_text(item.json.decode())

    await websocket.accept()
    await _pump(streams, subscription, caller, resume, listen, write)
    with suppress(RuntimeError):  # the client has closed already
        await websocket.close(code=1008 if subscription.ended == CLIENT_GONE else 1001, reason=subscription.ended)


async def _pump(
    streams: Streams,
    subscription: Subscription,
    caller: Caller,
    resume: str | None,
    listen: Callable[[], Awaitable[None]],
    write: Callable[[list[Item]], Awaitable[None]],
) -> bool:
    """Write the client's items until either side ends; False when the client is gone or does not read."""

    async def until_gone() -> None:
        await listen()
        subscription.end(CLIENT_GONE)

    listener = asyncio.create_task(until_gone())
    try:
        async with aclosing(streams.items(subscription, caller, resume)) as stream:
            async for items in stream:
                async with asyncio.timeout(streams.settings.stream_stall_s):
                    await write(items)
    except (TimeoutError, OSError):
        return False
    finally:
        streams.leave(subscription)
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
    return subscription.ended != CLIENT_GONE
