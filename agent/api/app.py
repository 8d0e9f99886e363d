"""The local API as one FastAPI app, made from parts that are already open: the store, the devices, the modules.

The app's own lifespan (entered by `agent.api.deferred.Deferred`, or by a server that runs the app alone) starts the
event feed and writes the launch file. `app.state.streams.close()` ends all event streams and WebSockets and may be
called earlier: a server waits for them before it stops. On the control socket the server puts
`scope["extensions"]["kiosk.peer"] = {"uid": int, "pid": int}`, which no client can write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

from agent.api import devices, openapi, problems, system
from agent.api.auth.caller import Caller
from agent.api.auth.launch import LaunchFile
from agent.api.auth.middleware import Authentication
from agent.api.auth.router import make_router as auth_router
from agent.api.auth.secrets import DEFAULT_COST, Cost, Secrets
from agent.api.auth.service import AuthService
from agent.api.auth.sessions import SessionBook
from agent.api.events.router import make_router as events_router
from agent.api.events.stream import Snapshots, Streams
from agent.api.ports import AgentStatus, DeviceBoard, Metrics
from agent.api.router_factory import Mounted
from agent.api.security import Gate
from agent.api.settings import ApiSettings
from agent.api.static import Pages
from agent.api.trace import TraceMiddleware
from agent.domain.clock import Clock
from agent.domain.ids import Randomness
from agent.store.ports import Reader, Store

API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the API serves. `routers` are further routers of the agent itself (sync, journal, …), below `/api/v1`;
    `owner_uids` (root, the agent's own) count as a technician on the control socket and may manage users there."""

    settings: ApiSettings
    state_dir: Path
    store: Store
    clock: Clock
    randomness: Randomness
    devices: DeviceBoard
    status: AgentStatus
    metrics: Metrics
    version: str
    owner_uids: frozenset[int]
    modules: Sequence[Mounted] = ()
    routers: Sequence[APIRouter] = ()
    secrets_cost: Cost = DEFAULT_COST


def create_app(parts: ApiParts) -> FastAPI:
    """Raises `ConfigError` for an impossible UI token."""
    secrets = Secrets(parts.secrets_cost)
    auth = _auth(parts, secrets)
    streams = Streams(parts.store, parts.clock, parts.settings, _snapshots(parts), auth.sessions.alive)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(auth.launch.renew)
        streams.feed.start()
        try:
            yield
        finally:
            await streams.close()
            await asyncio.to_thread(auth.launch.remove)
            secrets.close()

    app = FastAPI(
        title="Kiosk agent",
        version=parts.version,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.streams = streams
    problems.install(app)
    openapi.install(app)
    _mount(app, parts, auth, streams)
    app.add_middleware(Authentication, sessions=auth.sessions, owner_uids=parts.owner_uids)
    app.add_middleware(Gate, settings=parts.settings)
    app.add_middleware(problems.UnexpectedErrors)
    app.add_middleware(TraceMiddleware, clock=parts.clock, randomness=parts.randomness)
    return app


def _auth(parts: ApiParts, secrets: Secrets) -> AuthService:
    settings = parts.settings
    return AuthService(
        parts.store,
        parts.clock,
        parts.randomness,
        sessions=SessionBook(
            parts.store,
            parts.clock,
            parts.randomness,
            access_ttl_s=settings.session_ttl_s,
            refresh_ttl_s=settings.refresh_ttl_s,
        ),
        secrets=secrets,
        launch=LaunchFile(
            settings.launch_file or parts.state_dir / "launch.html",
            settings.launch_group,
            f"http://127.0.0.1:{settings.port}/",
            parts.randomness,
        ),
        ui_token=settings.read_ui_token(),
    )


def _mount(app: FastAPI, parts: ApiParts, auth: AuthService, streams: Streams) -> None:
    about = system.About(parts.version, [module.name for module in parts.modules], parts.clock)
    own = (
        auth_router(auth),
        devices.make_router(parts.devices, parts.clock),
        events_router(streams),
        system.make_router(parts.store, parts.devices, parts.status, about, lambda: streams.feed.clients),
    )
    for router in (*own, *parts.routers):
        app.include_router(router, prefix=API)
    for module in parts.modules:
        app.include_router(
            module.parts.router,
            prefix=f"{API}/{module.prefix}",
            tags=[module.prefix],
            responses=problems.documented(401, 403),
        )
    app.include_router(system.make_metrics_router(parts.metrics))
    app.router.default = Pages()


def _snapshots(parts: ApiParts) -> Snapshots:
    """What a new client of the event stream is told first; all that is in the file is of one moment."""

    def snapshot(reader: Reader, _: Caller) -> dict[str, Any]:
        return {
            "journal_id": str(parts.store.journal_id),
            "seq": reader.head()[0],
            "devices": [each.model_dump(mode="json") for each in devices.brief(parts.devices)],
            "acceptance": {
                "allowed": parts.devices.accepting_allowed(),
                "reasons": list(parts.devices.inhibit_reasons()),
            },
            "modules": {
                module.prefix: module.parts.snapshot(reader) for module in parts.modules if module.parts.snapshot
            },
        }

    return snapshot
