"""A real store in a temporary directory, its clock, and a way to read what was recorded."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from agent.domain.events import Event
from agent.domain.wire import event_of
from agent.runtime.projections import PROJECTIONS
from agent.store.journal import SqliteStore
from agent.store.settings import StoreSettings
from tests.runtime.fakes import FakeClock

SMALL = {"disk_low_mib": 2, "disk_resume_mib": 3, "disk_critical_mib": 1, "reserve_mib": 0, "wal_size_mib": 0.25}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    settings = StoreSettings.model_validate({"directory": tmp_path / "state", **SMALL})
    opened = SqliteStore.open(settings, clock=clock, randomness=os.urandom, projections=PROJECTIONS)
    yield opened
    await opened.close()


@pytest.fixture
def recorded(store: SqliteStore) -> Callable[[], list[Event]]:
    """All events of the journal, oldest first."""

    def read() -> list[Event]:
        with store.read() as reader:
            return [event_of(row) for row in reader.rows(0, 10_000)]

    return read


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """`LEVEL message` of everything that is logged meanwhile."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.rstrip("\n")), format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(sink)
