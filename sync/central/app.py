"""The office as one ASGI application: kiosks' calls first (raw), then health, metrics and the office's own pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sync.central import fleet
from sync.central.database import UNAVAILABLE
from sync.central.kiosk_api import KioskApi
from sync.central.logs import TraceIds, configure
from sync.central.office import access, api, pages
from sync.central.office.accounts import Accounts
from sync.central.problems import RETRY_AFTER_S
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
            app.state.accounts = make_accounts(services)
            yield

    app = FastAPI(title="Kiosk office", version=VERSION, lifespan=lifespan, openapi_url=None)
    app.add_api_route("/health", health, methods=["GET"], include_in_schema=False)
    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    app.include_router(api.router)
    app.add_api_route(f"{access.API_PREFIX}/openapi.json", api.openapi, methods=["GET"], include_in_schema=False)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=pages.FOLDER / "static"))
    app.add_exception_handler(access.NotLoggedIn, access.not_logged_in)
    app.add_exception_handler(access.Forbidden, access.forbidden)
    app.add_exception_handler(RequestValidationError, malformed)
    for error in UNAVAILABLE:
        app.add_exception_handler(error, unavailable)

    def services() -> Services:
        found: Services = app.state.services
        return found

    return TraceIds(KioskApi(app, services))


def make_accounts(services: Services) -> Accounts:
    office = services.settings.office
    return Accounts(
        services.pool,
        session=timedelta(hours=office.session_h),
        lockout_after=office.lockout_after,
        lockout=timedelta(seconds=office.lockout_s),
    )


async def unavailable(request: Request, error: Exception) -> Response:
    response = access.json_problem("database_unavailable", 503, "the office's database does not answer; try again")
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


async def malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    found = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return access.json_problem("malformed_request", 422, found)


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
    """This process's counters and, while Postgres answers, the fleet's gauges."""
    services: Services = request.app.state.services
    text = services.metrics.text()
    with suppress(*UNAVAILABLE):
        async with services.pool.connection(timeout=2.0) as connection:
            text += await fleet.text(connection, services.settings.presence.ttl_s)
    return Response(text, media_type="text/plain; version=0.0.4")
