"""The system's clock does what deadlines need."""

from __future__ import annotations

import asyncio
import time

from agent.runtime.clock import SystemClock
from tests.runtime.fakes import FakeClock, turns


async def test_sleeping_until_the_past_still_gives_others_a_turn() -> None:
    clock = SystemClock()
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    await clock.sleep_until(clock.monotonic() - 5)
    assert others == [1]


async def test_nobody_wakes_before_the_deadline() -> None:
    clock = SystemClock()
    for _ in range(20):
        deadline = clock.monotonic() + 0.002
        await clock.sleep_until(deadline)
        assert clock.monotonic() >= deadline


def test_wall_time_is_microseconds_since_1970() -> None:
    assert abs(SystemClock().now_us() - time.time() * 1e6) < 5e6


async def test_the_fake_clock_wakes_in_the_order_of_deadlines() -> None:
    clock, woken = FakeClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep_until(clock.monotonic() + seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (3, 1, 2)]
    await turns()
    await clock.advance(2.5)
    assert woken == [1, 2]
    await clock.advance(1)
    await asyncio.gather(*tasks)
    assert woken == [1, 2, 3]
