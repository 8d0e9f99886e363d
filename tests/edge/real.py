"""A kiosk with real time, a real store and a real office: no double anywhere."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from agent.domain.chain import JournalRow
from agent.domain.events import DeviceFaulted, Event
from agent.runtime.clock import SystemClock
from agent.store.journal import SqliteStore
from sync.edge import PROJECTIONS, Edge, SyncSettings, build_edge
from sync.edge.chapters import past
from sync.edge.edge import BLOBS
from sync.edge.enrolment import enrol
from tests.store.helpers import small_settings

if TYPE_CHECKING:  # the servers weigh seconds, and `process.py` starts often
    from tests.servers import Centre

FAST = SyncSettings(
    snapshot_at="",
    heartbeat_interval_s=5,
    retry_min_s=0.05,
    retry_max_s=0.5,
    refused_retry_min_s=0.1,
    refused_retry_max_s=1,
    connect_timeout_s=5,
    request_timeout_s=10,
)


def filled(count: int, detail: str = "") -> list[Event]:
    return [DeviceFaulted(device="validator", code=f"c{number}", detail=detail) for number in range(count)]


def open_real(folder: Path) -> SqliteStore:
    return SqliteStore.open(small_settings(folder), clock=SystemClock(), randomness=os.urandom, projections=PROJECTIONS)


class RealKiosk:
    """`async with RealKiosk(folder, centre) as kiosk:` enrolled and running."""

    def __init__(self, folder: Path, centre: Centre, settings: SyncSettings = FAST) -> None:
        self.folder, self.centre, self.settings = folder, centre, settings
        self.steps: list[str] = []
        self.on_step: Callable[[str], None] = self.steps.append
        self.store: SqliteStore
        self.edge: Edge
        self._task: asyncio.Task[None] | None = None

    async def enrol(self, kiosk_id: UUID | None = None) -> None:
        """With a fresh code: as a new kiosk, or again as the one with this id."""
        self.folder.mkdir(exist_ok=True)
        await enrol(
            self.centre.url,
            await self.centre.code(kiosk_id=kiosk_id),
            state_dir=self.folder,
            settings=self.settings,
            clock=SystemClock(),
            agent_version="1",
            replace=True,
        )

    async def __aenter__(self) -> RealKiosk:
        await self.enrol()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.store = open_real(self.folder)
        edge = build_edge(
            self.settings,
            store=self.store,
            store_path=self.store.path,
            state_dir=self.folder,
            clock=SystemClock(),
            randomness=os.urandom,
            agent_version="1",
            devices_info=lambda: {"validator": "idling"},
            on_step=self._step,
        )
        assert edge is not None
        self.edge = edge
        self._task = asyncio.create_task(edge.run())
        await self.until(lambda: edge._session is not None)

    def _step(self, name: str) -> None:
        self.on_step(name)

    async def stop(self) -> None:
        if self._task is not None:
            await self.edge.stop()
            self._task = None
            await self.store.close()

    async def put_back(self, image: Path) -> None:
        await self.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(image, self.folder)
        await self.start()

    async def image(self, target: Path) -> None:
        await self.stop()
        shutil.copytree(self.folder, target)
        await self.start()

    async def record(self, count: int = 1, detail: str = "") -> None:
        await self.store.record(filled(count, detail), actor="test")

    async def until(self, true: Callable[[], bool], within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while not true():  # noqa: ASYNC110 - there is nobody to ring
                await asyncio.sleep(0.01)

    async def synced(self, within_s: float = 30.0) -> None:
        await self.until(lambda: self.edge.status().lag_rows == 0, within_s)

    async def uploaded(self, within_s: float = 60.0) -> None:
        await self.until(lambda: not list((self.folder / BLOBS).glob("*.age")), within_s)

    def history(self) -> dict[UUID, list[JournalRow]]:
        with self.store.read() as reader:
            parts = {chapter.journal_id: chapter.rows(reader, 0, 1 << 30) for chapter in past(reader)}
            return {**parts, self.store.journal_id: reader.rows(0, 1 << 30)}


async def assert_office_has(centre: Centre, history: dict[UUID, list[JournalRow]]) -> None:
    """Every row once, in order, byte for byte; journals have no gaps, and their watermark is their last row."""
    for journal_id, rows in history.items():
        found = await centre.all(
            "SELECT seq, id, type, occurred_us, actor, subject, body, hash FROM events WHERE journal_id = %s "
            "AND seq <= %s ORDER BY seq",
            *(journal_id, len(rows)),
        )
        expected = [
            (row.seq, row.id, row.type, row.occurred_at, row.actor, row.subject, row.body, row.hash) for row in rows
        ]
        assert found == expected
    for journal_id, seq, count in await centre.all(
        "SELECT j.journal_id, j.seq, (SELECT count(*) FROM events e WHERE e.kiosk_id = j.kiosk_id "
        "AND e.journal_id = j.journal_id) FROM journals j"
    ):
        assert (journal_id, seq) == (journal_id, count)
