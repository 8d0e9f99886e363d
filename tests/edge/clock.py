"""Time that only the test moves, for code that also uses threads."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

EPOCH_US = 1_795_500_000_000_000  # 2026-11-24


class FakeClock:
    """`run` lets simulated time pass, sleeper by sleeper, and lets everything settle in between."""

    def __init__(self, now_us: int = EPOCH_US) -> None:
        self._monotonic = 1_000.0
        self._offset_us = now_us - 1_000_000_000
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._threads = CountingThreads()
        self.busy: list[Callable[[], bool]] = []  # who else may be at work outside of the loop

    def monotonic(self) -> float:
        return self._monotonic

    def now_us(self) -> int:
        return round(self._monotonic * 1e6) + self._offset_us

    def set_wall(self, now_us: int) -> None:
        """Somebody, or a flat battery, sets the wall clock."""
        self._offset_us += now_us - self.now_us()

    async def sleep_until(self, deadline: float) -> None:
        if deadline <= self._monotonic:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (deadline, self._count, future))
        await future

    async def run(self, seconds: float) -> None:
        target = self._monotonic + seconds
        await self.settle()
        while (deadline := self._next()) is not None and deadline <= target:
            self._monotonic = max(self._monotonic, deadline)
            while self._sleepers and self._sleepers[0][0] <= self._monotonic:
                future = heapq.heappop(self._sleepers)[2]
                if not future.done():
                    future.set_result(None)
            await self.settle()
        self._monotonic = target

    async def until(self, true: Callable[[], bool], within_s: float = 3_600.0) -> None:
        """Let time pass until `true()`; fails after so much simulated time."""
        end = self._monotonic + within_s
        await self.settle()
        while not true():
            assert self._monotonic < end, "did not happen in time"
            await self.run(0.25 if end - self._monotonic < 600 or within_s <= 600 else 5.0)

    async def settle(self) -> None:
        """Until nothing runs but sleepers: no ready callbacks, no work in threads."""
        asyncio.get_running_loop().set_default_executor(self._threads)
        quiet = 0
        while quiet < 3:
            for _ in range(12):
                await asyncio.sleep(0)
            if self._threads.busy or any(each() for each in self.busy):
                quiet = 0
                await asyncio.sleep(0.0002)
            else:
                quiet += 1

    def _next(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None


async def soon(true: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait in real time for something outside of the loop: a process, a thread, a socket."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.001)


class CountingThreads(ThreadPoolExecutor):
    """Knows how many works are not done yet."""

    def __init__(self) -> None:
        super().__init__(max_workers=4)
        self.busy = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.busy += 1
        future = super().submit(*args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        self.busy -= 1
