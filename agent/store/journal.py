"""`SqliteStore`: the store of `agent.store.ports`, with one writer thread that merges works into group commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from agent.domain.chain import JournalRow
from agent.domain.clock import Clock
from agent.domain.events import Event
from agent.domain.ids import Randomness
from agent.store.damage import Damage
from agent.store.disk import Disk, RealDisk
from agent.store.engine import Engine, Work
from agent.store.errors import StorageFailed
from agent.store.fork import fork
from agent.store.opening import OpenFile
from agent.store.ports import Projection, Transaction
from agent.store.reader import ReaderPool, SqlReader
from agent.store.rebuild import Progress, ignore_progress, rebuild
from agent.store.settings import StoreSettings
from agent.store.snapshot import copy_to
from agent.store.space import Space
from agent.store.writer import Job, Writer

T = TypeVar("T")


def _nothing(*_arguments: object) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Called from the writer thread, which waits for them: hand over to the loop and return.

    `on_failure`: nothing that waited was acknowledged, every verb raises `StorageFailed` until `on_recovered`; the
    device machines are then built anew from the journal. `on_space`: the new state and the free bytes.
    """

    on_failure: Callable[[StorageFailed], None] = _nothing
    on_recovered: Callable[[], None] = _nothing
    on_space: Callable[[Space, int], None] = _nothing


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """For `/system/health`, metrics and the acceptance guard. Latencies are of BEGIN to COMMIT returned."""

    failed: str | None
    last_commit_s: float
    slowest_commit_s: float
    commits: int
    works: int
    waiting: int
    log_pages: int
    free_bytes: int
    space: Space
    damages: tuple[Damage, ...] = field(default=())


class SqliteStore:
    """Implements `agent.store.ports.Store`. Made by `open`; `close` ends its thread and lets go of the directory."""

    def __init__(self, file: OpenFile, settings: StoreSettings, callbacks: Callbacks) -> None:
        self.path = file.path
        self.boot_id = file.boot_id
        self._file = file
        self._readers = ReaderPool(file.path, vfs=file.vfs)
        self._writer = Writer(file, settings, callbacks, self._readers)
        self._loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}

    @classmethod
    def open(
        cls,
        settings: StoreSettings,
        *,
        clock: Clock,
        randomness: Randomness,
        projections: Sequence[Projection] = (),
        callbacks: Callbacks = Callbacks(),
        disk: Disk | None = None,
        vfs: str | None = None,
        synchronous: str = "FULL",
        progress: Progress = ignore_progress,
    ) -> SqliteStore:
        """Take the directory's lock, open or create the file, migrate it, check its tail and bring projections up.

        Blocks (call it with `asyncio.to_thread` from a running loop). Raises `StoreLocked`, `SchemaTooNew`,
        `StorageFailed`, `JournalDamaged`. `progress` hears about rebuilt projections.
        """
        file = OpenFile(
            settings,
            clock=clock,
            randomness=randomness,
            projections=projections,
            disk=disk or RealDisk(),
            vfs=vfs,
            synchronous=synchronous,
        )
        try:
            file.open(progress)
        except BaseException:
            file.close()
            raise
        store = cls(file, settings, callbacks)
        store._writer.start()
        return store

    @property
    def journal_id(self) -> UUID:
        return self._file.engine.position.journal_id

    # --- writing -------------------------------------------------------------------------------------------------

    async def transact(self, work: Callable[[Transaction], T], *, actor: str, trace_id: str = "") -> T:
        """See `ports.Store.transact`. A caller that is cancelled while it waits does not stop its work."""
        result: T = await self._submit(Job(work=Work(work, actor, trace_id)))
        return result

    def transact_now(self, work: Callable[[Transaction], T], *, actor: str, trace_id: str = "") -> T:
        """The same, blocking, for threads without a loop (command line)."""
        result: T = self._wait(Job(work=Work(work, actor, trace_id)))
        return result

    async def record(self, events: Iterable[Event], *, actor: str, trace_id: str = "") -> list[JournalRow]:
        wanted = list(events)
        work = Work(lambda tx: [tx.append(event) for event in wanted], actor, trace_id, repeatable=True)
        rows: list[JournalRow] = await self._submit(Job(work=work))
        return rows

    async def fork(self, common_seq: int) -> UUID:
        """See `ports.Store.fork`. Raises `ForkRefused` (retryable) while a handler of this process is behind it."""
        journal_id: UUID = await self._submit(Job(task=self._forking(common_seq)))
        return journal_id

    def fork_now(self, common_seq: int) -> UUID:
        """The same, blocking."""
        journal_id: UUID = self._wait(Job(task=self._forking(common_seq)))
        return journal_id

    async def rebuild(self, progress: Progress = ignore_progress) -> int:
        """Projections, ledger and open records from the journal; returns how many rows were read. Writers wait."""
        rows: int = await self._submit(Job(task=lambda engine: rebuild(engine, progress)))
        return rows

    def rebuild_now(self, progress: Progress = ignore_progress) -> int:
        """The same, blocking."""
        rows: int = self._wait(Job(task=lambda engine: rebuild(engine, progress)))
        return rows

    def in_writer_now(self, task: Callable[[Engine], T]) -> T:
        """Run `task` in the writer thread with the engine to itself, outside any transaction; for measurements."""
        result: T = self._wait(Job(task=task))
        return result

    def _forking(self, common_seq: int) -> Callable[[Engine], UUID]:
        def task(engine: Engine) -> UUID:
            waiting = self._writer.cursors.settle(engine)
            journal_id = fork(engine, common_seq, waiting)
            self._writer.cursors.reload(engine)
            return journal_id

        return task

    def _submit(self, job: Job) -> asyncio.Future[Any]:
        """Works of one turn of the loop reach the writer together; so do their results come back."""
        loop = asyncio.get_running_loop()
        job.loop, job.future = loop, loop.create_future()
        waiting = self._loops.get(loop)  # each loop touches only its own entry
        if waiting is None:
            self._loops[loop] = [job]
            loop.call_soon(self._flush, loop)
        else:
            waiting.append(job)
        return job.future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._writer.put(self._loops.pop(loop, []))

    def _wait(self, job: Job) -> Any:
        job.result = Future()
        self._writer.put([job])
        return job.result.result()

    # --- reading -------------------------------------------------------------------------------------------------

    def read(self) -> AbstractContextManager[SqlReader]:
        """A short read transaction of its own; keep it short: it holds back the log's reuse."""
        self._writer.refuse_when_failed()
        return self._readers.reading()

    def snapshot(self, target: Path) -> tuple[UUID, int, bytes]:
        """A consistent copy of the whole file at `target` (mode 0600); returns journal id, seq and hash it ends with.

        Blocks; call it from a thread of its own. Writers go on meanwhile.
        """
        with self._readers.reading() as reader:
            return copy_to(reader, target)

    def subscribe(self, wake: Callable[[int], None]) -> Callable[[], None]:
        return self._writer.subscribe(wake)

    async def cursor(self, name: str) -> int:
        return self.cursor_now(name)

    def cursor_now(self, name: str) -> int:
        """The same without a loop."""
        self._writer.refuse_when_failed()
        return self._writer.cursors.get(name)

    async def advance(self, name: str, seq: int) -> None:
        """See `ports.Store.advance`."""
        self._writer.refuse_when_failed()
        self._writer.cursors.set(name, seq)

    def health(self) -> StoreHealth:
        """What the store knows about itself; cheap, from any thread."""
        numbers = self._writer.numbers
        failure = self._writer.failure
        return StoreHealth(
            failed=None if failure is None else failure.message,
            last_commit_s=numbers.last_commit_s,
            slowest_commit_s=max(numbers.recent, default=0.0),
            commits=numbers.commits,
            works=numbers.works,
            waiting=self._writer.waiting(),
            log_pages=self._file.engine.wal_pages,
            free_bytes=self._writer.space.free_bytes,
            space=self._writer.space.state,
            damages=self._file.damages,
        )

    # --- the end -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finish what waits, write cursors and the witness, checkpoint, end the thread and release the lock."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """The same, blocking. Safe to call twice."""
        self._writer.stop()
        self._readers.close()
        self._file.close()
