"""The office as one ASGI application: kiosks' calls first (raw), then health, metrics and the office's own pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.types import ASGIApp

from sync.central.database import UNAVAILABLE
from sync.central.kiosk_api import KioskApi
from sync.central.logs import TraceIds, configure
from sync.central.services import Services, running
from sync.central.settings import CentralSettings

VERSION = "0.1.0"


def create_app(load: Callable[[], CentralSettings], *, logs: bool = True) -> ASGIApp:
    """`load` is called when the server starts; a `ConfigError` from it stops the start. `logs`: whether this process's
    log lines become the office's (not in a process that has others)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = load()
        if logs:
            configure(settings.logging)
        async with running(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(title="Kiosk office", version=VERSION, lifespan=lifespan, openapi_url=None)
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"])

    def services() -> Services:
        found: Services = app.state.services
        return found

    return TraceIds(KioskApi(app, services))


async def health(request: Request) -> Response:
    """200 while Postgres answers, else 503: what a load balancer asks."""
    services: Services = request.app.state.services
    try:
        async with services.pool.connection(timeout=2.0) as connection:
            await connection.execute("SELECT 1")
    except UNAVAILABLE:
        return Response('{"status":"database_unavailable"}', 503, media_type="application/json")
    redis = "ok" if services.presence.available else "away"
    return Response(f'{{"status":"ok","redis":"{redis}"}}', media_type="application/json")


async def metrics(request: Request) -> Response:
    services: Services = request.app.state.services
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4")
