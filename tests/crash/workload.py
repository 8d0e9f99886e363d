"""The store's real work over a recording VFS, driven without its thread so that every run is the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.domain.money import Money
from agent.store.disk import RealDisk
from agent.store.engine import Engine, Work, WorkTransaction
from agent.store.errors import StorageFailed
from agent.store.fork import fork
from agent.store.opening import OpenFile
from agent.store.rebuild import rebuild
from agent.store.witness import NAME as WITNESS
from tests.crash.vfs import Kind, Op, RecordingVfs
from tests.store.helpers import StepClock, seeded, small_settings
from tests.store.projections import TakingsProjection

_NUMBERS = itertools.count(1)
DEVICE = "validator"


class Refused(Exception):
    """What a work raises when it does not want its writes."""


class _RecordedDisk(RealDisk):
    def __init__(self, log: list[Op]) -> None:
        self._log = log

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        self._log.append(Op(Kind.SYNC))

    def blank(self, path: Path, offset: int, length: int) -> None:
        super().blank(path, offset, length)
        self._log += [Op(Kind.WRITE, path.name, offset, bytes(length)), Op(Kind.SYNC, path.name)]


class _Forgetful(_RecordedDisk):
    """The planted bug: trusts what the kernel calls clean."""

    def blank(self, path: Path, offset: int, length: int) -> None:
        """Does nothing."""


class Recorded:
    """An open store whose disk is written down.

    Planted bugs: `early` tells callers before the commit, `forgetful` trusts pages after a failed sync.
    """

    def __init__(
        self,
        folder: Path,
        vfs: RecordingVfs,
        *,
        synchronous: str = "FULL",
        early: bool = False,
        forgetful: bool = False,
        schema: Mapping[int, str] | None = None,
    ) -> None:
        self.vfs = vfs
        self._early = early
        self._folder = folder
        self._notes = itertools.count(1)
        self.file = OpenFile(
            small_settings(folder, wal_size_mib=0.01),
            clock=StepClock(),
            randomness=seeded(7),
            projections=(TakingsProjection(),),
            disk=_Forgetful(vfs.log) if forgetful else _RecordedDisk(vfs.log),
            vfs=vfs.name,
            synchronous=synchronous,
            schema=schema,
        )
        self.file.open()
        self._tell([row.id.bytes for row in self.engine.writer.rows(0, 1)])

    @property
    def engine(self) -> Engine:
        return self.file.engine

    def commit(self, *works: Callable[[WorkTransaction], list[JournalRow]]) -> None:
        """One group commit; what did not raise is acknowledged."""
        told: list[bytes] = []

        def watched(
            work: Callable[[WorkTransaction], list[JournalRow]],
        ) -> Callable[[WorkTransaction], list[JournalRow]]:
            def run(tx: WorkTransaction) -> list[JournalRow]:
                rows = work(tx)
                if self._early:
                    self._tell([row.id.bytes for row in rows])
                return rows

            return run

        outcomes = self.engine.commit([Work(watched(work), f"device:{DEVICE}", "t") for work in works])
        for outcome in outcomes:
            if outcome.error is None:
                told += [row.id.bytes for row in outcome.value]
        self._tell(told)

    def note_life(self) -> Iterator[ev.Event]:
        """One event at a time, of one note after another; every third goes back, some stay in doubt."""
        for number in self._notes:
            note_id, value = f"note-{number}", Money(500 * (1 + number % 3), "EUR")
            yield ev.NoteEscrowed(device=DEVICE, note_id=note_id, value=value, note_code=3)
            if number % 3 == 0:
                yield ev.ReturnRequested(device=DEVICE, note_id=note_id, reason="cancelled")
                yield ev.NoteReturned(device=DEVICE, note_id=note_id, value=value)
                continue
            yield ev.StackRequested(device=DEVICE, note_id=note_id, payment_id="p")
            if number % 5 == 0:
                doubt = {"reason": "power_lost", "evidence": ("device 0203",), "payment_id": "p"}
                yield ev.DoubtOpened(device=DEVICE, doubt_id=note_id, amount=value, **doubt)  # type: ignore[arg-type]
                continue
            yield ev.NoteStacked(device=DEVICE, note_id=note_id, value=value, note_code=3, payment_id="p")
            yield ev.CreditAcknowledged(device=DEVICE, note_id=note_id)

    def checkpoint(self) -> None:
        self.engine.checkpoint()

    def note_head(self) -> None:
        """The witness does not go through SQLite: its synced bytes are put into the log whole."""
        self.file.note_head()
        self.vfs.log += [Op(Kind.WRITE, WITNESS, 0, (self._folder / WITNESS).read_bytes()), Op(Kind.SYNC, WITNESS)]

    def _tell(self, ids: list[bytes]) -> None:
        self.vfs.log.append(Op(Kind.ACK, ids=tuple(ids)))


@contextmanager
def recorded(folder: Path, **options: Any) -> Iterator[Recorded]:
    """Options as of `Recorded`."""
    vfs = RecordingVfs(f"recording-{next(_NUMBERS)}")
    store = Recorded(folder, vfs, **options)
    try:
        yield store
    finally:
        store.file.close()
        vfs.unregister()


def appending(*events: ev.Event) -> Callable[[WorkTransaction], list[JournalRow]]:
    return lambda tx: [tx.append(event) for event in events]


def refusing(*events: ev.Event) -> Callable[[WorkTransaction], list[JournalRow]]:
    def work(tx: WorkTransaction) -> list[JournalRow]:
        for event in events:
            tx.append(event)
        raise Refused

    return work


def appends(store: Recorded, commits: int, chance: Random) -> None:
    """Single commits and groups, some works of which take their writes back; a checkpoint now and then."""
    life = store.note_life()
    for number in range(commits):
        group = [appending(next(life)) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
        if chance.random() < 0.2:
            group.insert(0, refusing(ev.AgentStarted(version="never")))
        store.commit(*group)
        if number % 5 == 4:
            store.checkpoint()
        if number % 4 == 3:
            store.note_head()


def failing_syncs(store: Recorded, chance: Random) -> None:
    """Syncs that fail, each followed by the way back: reopen, and more work."""
    life = store.note_life()
    for _ in range(4):
        for _ in range(chance.choice((2, 3, 5))):
            store.commit(appending(next(life)))
        store.vfs.fail_sync = True
        try:
            store.commit(appending(next(life), ev.AgentStarted(version="x" * chance.choice((10, 9_000)))))
        except StorageFailed:
            store.file.reopen()
        if chance.random() < 0.5:
            store.checkpoint()


def rebuilding(store: Recorded, chance: Random) -> None:
    appends(store, 6, chance)
    rebuild(store.engine)
    store.commit(appending(ev.AgentStarted(version="after the rebuild")))


def forking(store: Recorded, chance: Random) -> None:
    appends(store, 7, chance)
    head = store.engine.head()[0]
    fork(store.engine, head - 4, {})
    store.note_head()
    store.commit(appending(ev.AgentStarted(version="after the fork")))
    store.checkpoint()
    fork(store.engine, 0, {})
    store.commit(appending(ev.AgentStarted(version="after the second")))
