"""`/devices`: what hangs on this kiosk, whether or not it answers at the moment."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from agent.api.auth.caller import require
from agent.api.ports import DeviceBoard
from agent.api.problems import documented
from agent.domain.clock import Clock
from drivers.ports import DeviceState

Name = Annotated[str, Path(description="Name of the configuration.", examples=["cashcode"], max_length=64)]


class DeviceOut(BaseModel):
    """A device as everybody may see it."""

    name: str = Field(examples=["cashcode"])
    protocol: str = Field(examples=["ccnet"])
    state: DeviceState
    fault: str = Field(description="Stable code of what is wrong; empty when nothing is.", examples=["stacker_full"])


class DenominationOut(BaseModel):
    code: int = Field(description="The protocol's own number.")
    amount_minor: int
    currency: str


class DeviceDetailOut(DeviceOut):
    """With what a technician needs."""

    port: str
    model: str
    serial: str
    firmware: str
    detail: str
    table: list[DenominationOut]
    counters: dict[str, int]


class DevicesOut(BaseModel):
    devices: list[DeviceOut]


class FrameOut(BaseModel):
    age_s: float = Field(description="Seconds since it passed, when this was answered.")
    direction: str = Field(description="`host`: we sent it. `device`: it did.")
    hex: str
    meaning: str
    valid: bool


class TraceOut(BaseModel):
    frames: list[FrameOut] = Field(description="Oldest first.")


def brief(board: DeviceBoard) -> list[DeviceOut]:
    return [_brief(board, name) for name in board.names()]


def _brief(board: DeviceBoard, name: str) -> DeviceOut:
    info = board.info(name)
    return DeviceOut(name=name, protocol=info.protocol, state=info.state, fault=info.fault)


def detail(board: DeviceBoard, name: str) -> DeviceDetailOut:
    info = board.info(name)
    return DeviceDetailOut(
        **_brief(board, name).model_dump(),
        port=board.port(name),
        model=info.model,
        serial=info.serial,
        firmware=info.firmware,
        detail=info.detail,
        table=[
            DenominationOut(code=each.code, amount_minor=each.value.minor, currency=each.value.currency)
            for each in info.table
        ],
        counters=dict(info.counters),
    )


def make_router(board: DeviceBoard, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/devices", tags=["devices"])
    anybody, staff = [Depends(require())], [Depends(require("technician", "collector", "admin"))]
    technician = [Depends(require("technician", "admin"))]

    @router.get("", dependencies=anybody, responses=documented(401, 403))
    async def list_devices() -> DevicesOut:
        """All configured devices with their state."""
        return DevicesOut(devices=brief(board))

    @router.get("/{name}", dependencies=staff, responses=documented(401, 403, 404))
    async def get_device(name: Name) -> DeviceDetailOut:
        """One device: model, firmware, its note table, counters of this run."""
        return detail(board, name)

    @router.get("/{name}/trace", dependencies=technician, responses=documented(401, 403, 404))
    async def get_trace(name: Name) -> TraceOut:
        """The last frames on its wire, decoded: a bounded ring, oldest first."""
        now = clock.monotonic()
        frames = [
            FrameOut(
                age_s=round(now - each.at, 4),
                direction=each.direction,
                hex=each.raw.hex(" ").upper(),
                meaning=each.meaning,
                valid=each.valid,
            )
            for each in board.trace(name)
        ]
        return TraceOut(frames=frames)

    return router
