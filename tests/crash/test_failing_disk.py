"""A disk that refuses: nothing is acknowledged that may be missing, the store says so, and comes back by itself."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.store.errors import StorageFailed
from agent.store.journal import Callbacks, SqliteStore
from agent.store.verify import verify
from tests.crash.vfs import FailingVfs, Kind
from tests.store.helpers import open_now

_NUMBERS = itertools.count(1)
DEADLINE_S = 20.0


@pytest.fixture
def vfs() -> Iterator[FailingVfs]:
    vfs = FailingVfs(f"failing-{next(_NUMBERS)}")
    yield vfs
    vfs.unregister()


class Watcher:
    """What the agent would hear."""

    def __init__(self) -> None:
        self.failures: list[StorageFailed] = []
        self.recovered = threading.Event()
        self.callbacks = Callbacks(on_failure=self.failures.append, on_recovered=self.recovered.set)


def started(number: int) -> ev.AgentStarted:
    return ev.AgentStarted(version=str(number))


async def until_recovered(watcher: Watcher) -> None:
    assert await asyncio.to_thread(watcher.recovered.wait, DEADLINE_S), "the store did not come back"


def versions(store: SqliteStore) -> list[str]:
    with store.read() as reader:
        assert verify(reader, None).damages == ()
        return [row.body.decode() for row in reader.rows(0, 1000) if row.type == ev.AgentStarted.TYPE]


async def test_a_failed_sync_is_never_acknowledged_and_the_store_comes_back(tmp_path: Path, vfs: FailingVfs) -> None:
    """DESIGN 8: refuse all who waited, tell the agent, refuse at once while failed, reopen, checkpoint, resume."""
    watcher = Watcher()
    store = open_now(tmp_path, vfs=vfs.name, callbacks=watcher.callbacks)
    failing = threading.Event()
    failing.set()
    try:
        rows = await store.record([started(1)], actor="agent")
        vfs.order = lambda kind, _file: apsw.IOError if kind is Kind.SYNC and failing.is_set() else None
        waiting = [store.record([started(number)], actor="agent") for number in range(2, 6)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, StorageFailed) for answer in answers)
        assert len(watcher.failures) == 1
        with pytest.raises(StorageFailed):
            await store.record([started(7)], actor="agent")
        with pytest.raises(StorageFailed):
            store.read()
        assert store.health().failed is not None
        failing.clear()
        await until_recovered(watcher)
        assert store.health().failed is None
        again = await store.record([started(8)], actor="agent")
        assert again[0].seq > rows[0].seq
        held = versions(store)
        assert held == ['{"version":"1"}', '{"version":"8"}']
    finally:
        await store.close()


async def test_closing_a_failed_store_ends_its_attempts(tmp_path: Path, vfs: FailingVfs) -> None:
    watcher = Watcher()
    store = open_now(tmp_path, vfs=vfs.name, callbacks=watcher.callbacks)
    vfs.order = lambda kind, _file: apsw.IOError if kind is Kind.SYNC else None
    with pytest.raises(StorageFailed):
        await store.record([started(1)], actor="agent")
    await asyncio.wait_for(store.close(), DEADLINE_S)
    assert not watcher.recovered.is_set()


@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", [Kind.SYNC, Kind.WRITE], ids=["sync", "write"])
async def test_an_error_at_every_single_place_loses_nothing(
    kind: Kind, error: type[apsw.Error], tmp_path: Path, vfs: FailingVfs
) -> None:
    """Fail the n-th write or sync, once, for every n of the workload: acknowledged rows stay, the rest is whole."""
    met = True
    for place in itertools.count():
        if not met:
            break
        met = await _fail_at(place, kind, error, tmp_path / str(place), vfs)
    assert place > 3  # it did fail at several places


async def _fail_at(place: int, kind: Kind, error: type[apsw.Error], folder: Path, vfs: FailingVfs) -> bool:
    vfs.order = lambda _kind, _file: None
    watcher = Watcher()
    store = open_now(folder, vfs=vfs.name, callbacks=watcher.callbacks)
    count = itertools.count()
    vfs.order = lambda at, _file: error if at is kind and next(count) == place else None
    told: list[JournalRow] = []
    try:
        for number in range(5):
            try:
                told += await store.record([started(number)], actor="agent")
            except StorageFailed:
                await until_recovered(watcher)
        with store.read() as reader:
            held = {row.id: row.hash for row in reader.rows(1, 1000)}
            assert verify(reader, None).damages == ()
        assert held == {row.id: row.hash for row in told}
        assert len(told) >= 4
        return bool(watcher.failures)
    finally:
        await store.close()


async def test_a_work_that_swallows_a_disk_error_is_not_acknowledged(tmp_path: Path, vfs: FailingVfs) -> None:
    """A module that catches too much must not turn a lost write into an acknowledged one."""
    watcher = Watcher()
    store = open_now(tmp_path, vfs=vfs.name, callbacks=watcher.callbacks)
    try:
        store.transact_now(lambda tx: tx.execute("CREATE TABLE big (data BLOB)"), actor="test")
        broken = threading.Event()
        broken.set()
        vfs.order = lambda kind, _file: apsw.FullError if kind is Kind.WRITE and broken.is_set() else None

        def work(tx: object) -> str:
            for _ in range(40):  # more than the page cache holds: it spills into the log before the commit
                try:
                    tx.execute("INSERT INTO big VALUES (zeroblob(1000000))")  # type: ignore[attr-defined]
                except StorageFailed:
                    return "swallowed"
            return "nothing spilled"

        with pytest.raises(StorageFailed):
            await store.transact(work, actor="test")
        broken.clear()
        await until_recovered(watcher)
        with store.read() as reader:
            assert reader.one("SELECT count(*) AS n FROM big") == {"n": 0}
    finally:
        await store.close()
