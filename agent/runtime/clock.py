"""The system's clock behind `agent.domain.clock.Clock`."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """`monotonic` is CLOCK_MONOTONIC, the loop's own clock, so that deadlines and time-outs agree."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    async def sleep_until(self, deadline: float) -> None:
        """Always gives other tasks a turn; a timer that fires early (clock resolution) sleeps on."""
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))
        while (left := deadline - time.monotonic()) > 0:  # noqa: ASYNC110 - it is time itself that is awaited
            await asyncio.sleep(left)
