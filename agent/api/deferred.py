"""An ASGI app that becomes the real one in its lifespan: `uvicorn agent.main:app` opens nothing at import time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from fastapi import FastAPI
from loguru import logger
from starlette.types import Receive, Scope, Send

from agent.domain.errors import KioskError

Opening = Callable[[], AbstractAsyncContextManager[FastAPI]]


class Deferred:
    """`opening` builds the app and everything below it; leaving it closes them. The app's own lifespan runs inside.

    A `KioskError` while opening stops the start with its message alone; anything else with its traceback in the log.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self.app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self.app is not None:
            await self.app(scope, receive, send)
        else:
            raise RuntimeError("the agent is served without its lifespan (uvicorn --lifespan on)")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        phase = "startup"
        try:
            async with AsyncExitStack() as stack:
                app = await stack.enter_async_context(self._opening())
                await stack.enter_async_context(app.router.lifespan_context(app))
                self.app = app
                phase = "shutdown"
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self.app = None
        except KioskError as error:
            logger.critical("the agent failed at {phase}: {reason}", phase=phase, reason=error.message)
            await send({"type": f"lifespan.{phase}.failed", "message": error.message})
        except Exception as error:  # noqa: BLE001 - else uvicorn takes the lifespan for unsupported and serves nothing
            logger.opt(exception=error).critical("the agent failed at {phase}", phase=phase)
            await send({"type": f"lifespan.{phase}.failed", "message": f"{type(error).__name__}: {error}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
