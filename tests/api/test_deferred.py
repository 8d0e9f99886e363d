"""The app that opens in its lifespan: an open failure stops the server with a line, nothing is half open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from agent.api.deferred import Deferred
from agent.domain.errors import ConfigError

Sent = list[dict[str, Any]]


async def life(app: Deferred, sent: Sent, during: Any = None) -> None:
    """What a server does: startup, requests, shutdown."""
    steps = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        step = next(steps)
        if step == "lifespan.shutdown" and during is not None:
            await during()
        return {"type": step}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)


async def test_it_opens_serves_and_closes_in_order() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def inner(_: FastAPI) -> AsyncIterator[None]:
        log.append("app up")
        yield
        log.append("app down")

    @asynccontextmanager
    async def opening() -> AsyncIterator[FastAPI]:
        log.append("open")
        app = FastAPI(lifespan=inner)
        app.add_api_route("/x", lambda: "here")
        yield app
        log.append("closed")

    deferred = Deferred(opening)

    async def during() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(deferred), base_url="http://x") as client:
            log.append((await client.get("/x")).json())

    sent: Sent = []
    await life(deferred, sent, during)
    assert log == ["open", "app up", "here", "app down", "closed"]
    assert [each["type"] for each in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def _failing(error: Exception) -> FastAPI:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [(ConfigError("api.port: no"), "api.port: no"), (ZeroDivisionError("oops"), "ZeroDivisionError: oops")],
)
async def test_a_failed_start_is_told_to_the_server(error: Exception, said: str) -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[FastAPI]:
        yield _failing(error)

    sent: Sent = []
    await life(Deferred(opening), sent)
    assert sent == [{"type": "lifespan.startup.failed", "message": said}]


async def test_a_failed_stop_is_told_too() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[FastAPI]:
        yield FastAPI()
        raise OSError("disk")

    sent: Sent = []
    await life(Deferred(opening), sent)
    assert sent[-1] == {"type": "lifespan.shutdown.failed", "message": "OSError: disk"}


async def test_without_a_lifespan_nothing_is_served() -> None:
    @asynccontextmanager
    async def opening() -> AsyncIterator[FastAPI]:
        yield FastAPI()

    with pytest.raises(RuntimeError, match="without its lifespan"):
        await Deferred(opening)({"type": "http"}, None, None)  # type: ignore[arg-type]
