"""A kiosk with a real store and the real edge code, wired to an office double and a clock of the test's."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.domain.chain import JournalRow
from agent.domain.events import DeviceFaulted
from agent.store.journal import SqliteStore
from sync.edge import PROJECTIONS, Edge, SyncSettings
from sync.edge import identity as files
from sync.edge.chapters import past
from sync.edge.identity import Identity
from tests.edge.clock import FakeClock
from tests.edge.office_double import URL, Kiosk, OfficeDouble, unpadded
from tests.store.helpers import open_now

VERSION = "0.0-test"


class Killed(BaseException):
    """The process ends at a named step."""


class Watched:
    """The real store, and whether its writer's thread still owes somebody an answer."""

    def __init__(self, store: SqliteStore) -> None:
        self._store, self._owed = store, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def busy(self) -> bool:
        return self._owed > 0

    async def record(self, *args: Any, **kwargs: Any) -> Any:
        return await self._owing(self._store.record(*args, **kwargs))

    async def fork(self, common_seq: int) -> Any:
        return await self._owing(self._store.fork(common_seq))

    async def _owing(self, work: Awaitable[Any]) -> Any:
        self._owed += 1
        try:
            return await work
        finally:
            self._owed -= 1


class Rig:
    """`start` opens store and edge, `stop` ends both; in between the test records, breaks and looks."""

    def __init__(self, folder: Path, office: OfficeDouble, clock: FakeClock, **settings: Any) -> None:
        self.folder, self.office, self.clock = folder, office, clock
        self.settings = SyncSettings(**{"snapshot_at": "", **settings})
        self.random = random.Random(7)
        self.steps: list[str] = []
        self.kill_at: str | None = None
        self.killed = False
        self.opened = False
        self.store: Any
        self.edge: Edge
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._count = self._woken = 0

    async def __aenter__(self) -> Rig:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.open_store()
        await self.start_edge()

    async def stop(self) -> None:
        await self.stop_edge()
        self.clock.busy.remove(self.store.busy)
        self.opened = False
        self.store.close_now()

    def open_store(self) -> None:
        self._woken = 0
        self.store = Watched(open_now(self.folder, PROJECTIONS, seed=self.random.randrange(1 << 30)))
        self.clock.busy.append(self.store.busy)
        self.opened = True

    async def start_edge(self) -> None:
        self.edge = Edge(
            self.settings,
            store=self.store,
            store_path=self.store.path,
            state_dir=self.folder,
            clock=self.clock,
            randomness=self.random.randbytes,
            agent_version=VERSION,
            devices_info=lambda: {"validator": "idling"},
            on_step=self._step,
            transport=self.office,
        )
        self._task = asyncio.create_task(self._run())
        await self.clock.settle()
        self._unsubscribe = self.store.subscribe(self._wake)  # behind the edge's own

    async def stop_edge(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._unsubscribe()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def enrol(self) -> Identity:
        """As `kiosk enroll` would leave it, without the conversation."""
        self.folder.mkdir(exist_ok=True)
        key = files.new_private_key()
        identity = Identity("", "lobby", URL, key, tuple(self.office.recipients))
        kiosk_id = f"k-{len(self.office.kiosks) + 1}"
        identity = Identity(kiosk_id, "lobby", URL, key, tuple(self.office.recipients))
        self.office.kiosks[kiosk_id] = Kiosk(unpadded(identity.public_key))
        files.save(identity, self.folder, replace=True)
        return identity

    async def record(self, count: int = 1, detail: str = "") -> None:
        self._count += 1
        events = [
            DeviceFaulted(device="validator", code=f"c{self._count}-{number}", detail=detail) for number in range(count)
        ]
        rows = await self.store.record(events, actor="test")
        while self._task is not None and self._woken < rows[-1].seq:  # noqa: ASYNC110 - rung by the writer's thread
            await asyncio.sleep(0)

    # --- images of the disk ------------------------------------------------------------------------------------------

    async def image(self, target: Path) -> None:
        """Copy the state directory as it is (the kiosk is switched off meanwhile)."""
        await self.stop()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target)
        await self.start()

    async def put_back(self, image: Path) -> None:
        await self.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(image, self.folder)
        await self.start()

    # --- looking -----------------------------------------------------------------------------------------------------

    def rows(self) -> list[JournalRow]:
        with self.store.read() as reader:
            return reader.rows(0, 1 << 30)

    def history(self) -> dict[str, list[JournalRow]]:
        """Every journal of the file by id: past ones up to where the next continues them."""
        with self.store.read() as reader:
            parts = {str(chapter.journal_id): chapter.rows(reader, 0, 1 << 30) for chapter in past(reader)}
            return {**parts, str(self.store.journal_id): reader.rows(0, 1 << 30)}

    def arrived(self) -> bool:
        """Whether the office has everything, and all of it as it is here."""
        journals = self.office.kiosk.journals
        there = {str(journal_id): journal.rows for journal_id, journal in journals.items()}
        return all(there.get(name, [])[: len(rows)] == rows for name, rows in self.history().items() if rows)

    async def converge(self, within_s: float = 3_600.0) -> None:
        self.office.faults.clear()
        self.office.always = None
        await self.clock.until(self.arrived, within_s)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.kill_at:
            self.kill_at = None
            self.killed = True
            raise Killed(name)

    def _wake(self, seq: int) -> None:
        self._woken = seq

    async def _run(self) -> None:
        try:
            await self.edge.run()
        except BaseExceptionGroup as group:
            if not group.subgroup(Killed):
                raise
