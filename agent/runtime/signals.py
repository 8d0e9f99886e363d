"""SIGTERM and SIGINT first wind the agent down, then go on to whoever handled them before us (the HTTP server).

The server would else wait for event streams that only we can end, and close the API while a note is still moving.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """`wind_down(reason)` runs once, at the first signal; a second one does not wait for it."""

    def __init__(self, wind_down: Callable[[str], Awaitable[None]]) -> None:
        self._wind_down = wind_down
        self._before: dict[int, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.reason = "stopped"

    def install(self) -> None:
        """From the loop's thread; does nothing outside the main thread, which alone may handle signals."""
        if threading.current_thread() is threading.main_thread():
            self._loop = asyncio.get_running_loop()
            self._before = {number: signal.signal(number, self._caught) for number in STOPPING}

    def remove(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self._task is None and self._loop is not None:
            self.reason = signal.Signals(number).name
            self._loop.call_soon_threadsafe(self._begin, number)
        else:
            self._hand_on(number)

    def _begin(self, number: int) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._wind_down_then(number))

    async def _wind_down_then(self, number: int) -> None:
        try:
            await self._wind_down(self.reason)
        finally:
            self._hand_on(number)

    def _hand_on(self, number: int) -> None:
        before = self._before.get(number)
        if callable(before):
            before(number, None)
