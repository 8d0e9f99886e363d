"""The local API as one FastAPI app, made from parts that are already open.

For `agent/main.py`:

    class Deferred: an ASGI app that opens everything in its lifespan (see `agent.api.deferred`)

    @asynccontextmanager
    async def running() -> AsyncIterator[FastAPI]:
        found = RouterFactory(modules_folder).discover(settings.modules.enabled, settings.modules.settings)
        store = ...open(projections=router_factory.projections(found))
        context = Context(store=store, clock=clock, randomness=os.urandom, devices=manager,
                          require=require, once=Idempotency(store).once, trace_id=trace_id)
        mounted = factory.build(found, context)
        yield create_app(ApiParts(settings=settings.api, state_dir=..., store=store, ..., modules=mounted))

    app = Deferred(running)

The app's own lifespan (entered by `Deferred`, or by a server that runs the app alone) starts the event feed and
writes the launch file; `app.state.streams.close()` ends all event streams and WebSockets and may be called earlier.
On the control socket the server puts `scope["extensions"]["kiosk.peer"] = {"uid": int, "pid": int}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, FastAPI

from agent.api import problems
from agent.api.ports import AgentStatus, DeviceBoard, Metrics
from agent.api.router_factory import Mounted
from agent.api.settings import ApiSettings
from agent.api.trace import TraceMiddleware
from agent.domain.clock import Clock
from agent.domain.ids import Randomness
from agent.store.ports import Store

API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the API serves. `routers` are further routers of the agent itself (sync, journal, …), below `/api/v1`;
    `owner_uids` may manage users over the control socket."""

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


def create_app(parts: ApiParts) -> FastAPI:
    app = FastAPI(
        title="Kiosk agent", version=parts.version, openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None
    )
    problems.install(app)
    for module in parts.modules:
        app.include_router(module.parts.router, prefix=f"{API}/{module.prefix}", tags=[module.prefix])
    for router in parts.routers:
        app.include_router(router, prefix=API)
    app.add_middleware(problems.UnexpectedErrors)
    app.add_middleware(TraceMiddleware, clock=parts.clock, randomness=parts.randomness)
    return app
