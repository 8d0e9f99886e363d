"""What a technician may tell the agent itself."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from agent.runtime.agent import Agent


class ClockOut(BaseModel):
    """What became of it."""

    accepting: bool = Field(description="Whether money may be taken now.")
    inhibited_by: list[str] = Field(description="What else forbids it.", examples=[["disk_low"]])


def make_router(agent: Agent, require: Callable[..., Callable[..., str]]) -> APIRouter:
    router = APIRouter(prefix="/system", tags=["system"])

    @router.post("/clock/accept", dependencies=[Depends(require("technician", "admin"))])
    async def accept_clock() -> ClockOut:
        """The kiosk's clock is right although the journal's last row speaks against it (a kiosk that stood unused for
        more than a year, or rows written under a wrong clock). A clock before the build date is never accepted."""
        agent.accept_clock()
        return ClockOut(accepting=agent.devices.accepting_allowed(), inhibited_by=list(agent.devices.inhibit_reasons()))

    return router
