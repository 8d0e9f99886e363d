"""A real store in a temporary folder, for every test that needs one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.store.journal import Callbacks, SqliteStore
from agent.store.ports import Projection
from agent.store.settings import StoreSettings

EPOCH_US = 1_780_000_000_000_000  # May 2026


class StepClock:
    """A clock that only its owner moves; `sleep_until` moves it to the deadline."""

    def __init__(self, monotonic: float = 1_000.0, now_us: int = EPOCH_US) -> None:
        self._monotonic = monotonic
        self._now_us = now_us

    def monotonic(self) -> float:
        return self._monotonic

    def now_us(self) -> int:
        return self._now_us

    def advance(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now_us += round(seconds * 1_000_000)

    async def sleep_until(self, deadline: float) -> None:
        self.advance(max(0.0, deadline - self._monotonic))


class RealClock:
    """Time as it is: the writer thread's ticks need one that goes by itself."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep_until(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    """Randomness that is the same in every run."""
    return random.Random(seed).randbytes


def small_settings(folder: Path, **changes: Any) -> StoreSettings:
    """Settings that need little disk, so that a full machine does not fail the tests."""
    sizes: dict[str, Any] = {
        "wal_size_mib": 1,
        "reserve_mib": 0,
        "disk_critical_mib": 0.25,
        "disk_low_mib": 0.5,
        "disk_resume_mib": 1,
    }
    return StoreSettings(directory=folder, **(sizes | changes))


def open_now(
    folder: Path,
    projections: Sequence[Projection] = (),
    *,
    seed: int = 1,
    callbacks: Callbacks = Callbacks(),  # noqa: B008 - frozen
    settings: StoreSettings | None = None,
    **options: Any,
) -> SqliteStore:
    """The store, opened without a loop; close it with `close_now()`."""
    return SqliteStore.open(
        settings or small_settings(folder),
        clock=options.pop("clock", None) or RealClock(),
        randomness=seeded(seed),
        projections=projections,
        callbacks=callbacks,
        **options,
    )


@asynccontextmanager
async def open_store(
    folder: Path, projections: Sequence[Projection] = (), **options: Any
) -> AsyncIterator[SqliteStore]:
    """`async with open_store(tmp_path, projections=…) as store:` a store that is closed at the end."""
    store = open_now(folder, projections, **options)
    try:
        yield store
    finally:
        await store.close()
