"""A page with the simulated validator's buttons, for people who watch the demo: it stands for the customer's hands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from agent.cli.demo.rig import Rig, RigFailed
from agent.domain.errors import KioskError
from sync.central.embedded import HOST, free_port

PAGE = Path(__file__).with_name("panel.html")


class CommandIn(BaseModel):
    """One line of the simulator's language, such as `insert 500`."""

    command: str = Field(min_length=1, max_length=100)


class Panel:
    """`async with Panel(rig) as panel:` serves the page at `panel.url`, on loopback only."""

    def __init__(self, rig: Rig) -> None:
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}/"
        config = uvicorn.Config(_app(rig, self._port), host=HOST, port=self._port, log_level="warning", lifespan="off")
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Panel:
        self._task = asyncio.create_task(self._server.serve())
        while not self._server.started:
            if self._task.done():
                raise RigFailed("the panel's page could not be served")
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    """Leaves the signals to the demo."""

    def install_signal_handlers(self) -> None:
        """Not ours."""


def _app(rig: Rig, port: int) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/truth")
    def truth() -> dict[str, object]:
        return dict(rig.simulator.truth())

    @app.post("/command")
    async def command(body: CommandIn) -> dict[str, object]:
        """JSON only, so that no other page in the browser can press the buttons."""
        try:
            return {"answer": await rig.simulator.command(body.command)}
        except KioskError as error:
            return {"error": error.message}

    return app
