"""Waiting: how long after a failure, and a bell that other threads may ring."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.domain.ids import Randomness

TOLD_MAX_S = 900.0
"""A longer wait than this is not taken from the office: a broken proxy must not silence a kiosk for days."""


class Backoff:
    """Doubling waits with full jitter between `first_s` and a ceiling that grows to `most_s`."""

    def __init__(self, first_s: float, most_s: float, randomness: Randomness) -> None:
        self._first_s, self._most_s, self._randomness = first_s, most_s, randomness
        self._failures = 0

    @property
    def failures(self) -> int:
        return self._failures

    def next_s(self, told_s: float | None = None) -> float:
        """Seconds to wait now. What the office asked for (`told_s`) is the least, spread over another tenth."""
        self._failures += 1
        ceiling = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32))
        wait = self._first_s + self._fraction() * max(0.0, ceiling - self._first_s)
        if told_s is None:
            return wait
        told_s = min(told_s, TOLD_MAX_S)
        return max(wait, told_s + self._fraction() * told_s / 10)

    def reset(self) -> None:
        self._failures = 0

    def _fraction(self) -> float:
        return int.from_bytes(self._randomness(7), "big") / float(1 << 56)


def told_s(error: KioskError) -> float | None:
    """For how many seconds the office asked for patience; None when it did not."""
    told = error.details.get("retry_after_s")
    return told if isinstance(told, float) else None


class Bell:
    """Rung from any thread; one ring that nobody waits for is remembered. Waiting uses the injected clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        if not self._event.is_set():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._event.set)

    def hush(self) -> None:
        """Forget a ring."""
        self._event.clear()

    async def wait(self, until: float) -> bool:
        """True when it rang, False at the deadline. Takes the ring with it."""
        await first(self._event.wait(), self._clock.sleep_until(until))
        rang = self._event.is_set()
        self._event.clear()
        return rang


async def first(*waits: Awaitable[object]) -> None:
    """Return as soon as one is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
