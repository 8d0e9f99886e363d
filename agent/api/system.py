"""`/system` and `/metrics`: is the kiosk alive, may it take money, what is it.

Health, readiness and metrics are open to every program on this machine (systemd, Prometheus, a technician's curl):
they hold no payment and no person. Browsers of other origins are kept away like everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from agent.api.auth.caller import require
from agent.api.ports import AgentStatus, DeviceBoard, Metrics, PartState
from agent.api.problems import documented
from agent.domain.clock import Clock
from agent.store.ports import Store


class PartOut(BaseModel):
    name: str = Field(examples=["device:cashcode"])
    ok: bool
    code: str = Field(description="Stable code of what is wrong.", examples=["disk_low"])
    detail: str


class HealthOut(BaseModel):
    """`ok`: every part is well. The answer itself says that the process lives."""

    ok: bool
    parts: list[PartOut]


class ReadyOut(BaseModel):
    ready: bool
    reasons: list[PartOut] = Field(description="What must change first; empty when ready.")


class InfoOut(BaseModel):
    version: str
    journal_id: str
    seq: int = Field(description="Last row of the journal.")
    boot_id: str = Field(description="Of this run of the agent.")
    now: datetime = Field(description="The kiosk's clock.")
    up_s: float
    accepting: bool = Field(description="Whether money may be taken at all.")
    inhibited_by: list[str] = Field(examples=[["disk_low"]])
    modules: list[str]
    streams: int = Field(description="Event streams and WebSockets that are open.")


class About:
    """What `/system/info` needs beside the ports."""

    def __init__(self, version: str, modules: list[str], clock: Clock) -> None:
        self.version = version
        self.modules = modules
        self.clock = clock
        self.started = clock.monotonic()


def _out(part: PartState) -> PartOut:
    return PartOut(name=part.name, ok=part.ok, code=part.code, detail=part.detail)


def make_router(
    store: Store, devices: DeviceBoard, status: AgentStatus, about: About, clients: Callable[[], int]
) -> APIRouter:
    """`clients()`: how many event streams are open."""
    router = APIRouter(prefix="/system", tags=["system"])

    @router.get("/health", responses=documented(403))
    async def health() -> HealthOut:
        """Liveness: 200 as long as the process answers; the parts say what is wrong."""
        parts = [_out(part) for part in status.parts()]
        return HealthOut(ok=all(part.ok for part in parts), parts=parts)

    @router.get("/ready", responses={503: {"model": ReadyOut, "description": "Not ready, and why."}, **documented(403)})
    async def ready() -> JSONResponse:
        """Whether the kiosk can do its job: 503 with the reasons when it cannot."""
        reasons = [_out(part) for part in status.parts() if part.required and not part.ok]
        return JSONResponse(ReadyOut(ready=not reasons, reasons=reasons).model_dump(), 503 if reasons else 200)

    @router.get("/info", dependencies=[Depends(require())], responses=documented(401, 403, 503))
    async def info() -> InfoOut:
        """Versions, the journal's head, and whether money may be taken."""
        with store.read() as reader:
            seq = reader.head()[0]
        return InfoOut(
            version=about.version,
            journal_id=str(store.journal_id),
            seq=seq,
            boot_id=str(store.boot_id),
            now=datetime.fromtimestamp(about.clock.now_us() / 1e6, UTC),
            up_s=round(about.clock.monotonic() - about.started, 3),
            accepting=devices.accepting_allowed(),
            inhibited_by=list(devices.inhibit_reasons()),
            modules=about.modules,
            streams=clients(),
        )

    return router


def make_metrics_router(metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["system"])

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **documented(403)},
    )
    async def get_metrics() -> Response:
        """Prometheus text."""
        return Response(metrics(), media_type="text/plain; version=0.0.4")

    return router
