"""Every subscriber sees every row, in order, at its own pace, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from agent.domain.chain import JournalRow
from agent.domain.errors import StoreError
from agent.domain.events import AgentStarted, AgentStopped, StackerRemoved
from agent.runtime.bus import RETRY_FIRST_S, SPAN_ROWS_MAX, STORE_RETRY_S, Bus
from agent.store.journal import SqliteStore
from tests.runtime.fakes import FakeClock, eventually, turns

RETRY_MAX_S = 1.0


class Listener:
    """Remembers what it heard; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.heard: list[tuple[int, str]] = []
        self.calls = 0
        self.failures = failures

    async def __call__(self, row: JournalRow, event: Any) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise ValueError("a defect")
        self.heard.append((row.seq, event.version if isinstance(event, AgentStarted) else event.TYPE))


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Bus]:
    bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


async def started(store: SqliteStore, *versions: str) -> list[JournalRow]:
    return await store.record([AgentStarted(version=version) for version in versions], actor="agent")


async def test_rows_before_and_after_the_start_come_in_order_and_once(store: SqliteStore, clock: FakeClock) -> None:
    listener, bus = Listener(), Bus(store, clock, RETRY_MAX_S)
    await started(store, "a", "b")
    bus.add("one", {AgentStarted: listener})
    async with running(bus):
        await eventually(lambda: len(listener.heard) == 2)
        rows = await started(store, "c")
        await bus.drained()
        await eventually(lambda: len(listener.heard) == 3)
        assert [what for _, what in listener.heard] == ["a", "b", "c"]
        assert bus.head() == rows[-1].seq == bus.positions()["one"].seq


async def test_the_cursor_survives_a_restart(store: SqliteStore, clock: FakeClock) -> None:
    listener = Listener()
    await started(store, "a")
    for expected in (["a"], ["a", "b"]):
        bus = Bus(store, clock, RETRY_MAX_S)
        bus.add("one", {AgentStarted: listener})
        async with running(bus):
            await eventually(lambda wanted=expected: [what for _, what in listener.heard] == wanted)  # type: ignore[misc]
            await bus.drained()
        await started(store, "b")
    assert listener.calls == 2


async def test_only_the_types_asked_for_are_handed_on(store: SqliteStore, clock: FakeClock) -> None:
    listener, bus = Listener(), Bus(store, clock, RETRY_MAX_S)
    bus.add("one", {AgentStopped: listener})
    async with running(bus):
        await started(store, "a")
        await store.record([AgentStopped(reason="x")], actor="agent")
        await eventually(lambda: listener.heard)
    assert [what for _, what in listener.heard] == ["agent.stopped"]


async def test_a_long_backlog_is_gone_through_without_holding_up_the_loop(store: SqliteStore, clock: FakeClock) -> None:
    """Weeks of rows that concern nobody are stepped over in long strides; what concerns somebody is found."""
    listener, bus = Listener(), Bus(store, clock, RETRY_MAX_S)
    other = [StackerRemoved(device="x")] * (SPAN_ROWS_MAX + 100)
    await store.record([*other, AgentStarted(version="a"), *other, AgentStarted(version="b")], actor="agent")
    bus.add("one", {AgentStarted: listener})
    bus.add("nobody", {})
    async with running(bus):
        await bus.drained()
        assert [what for _, what in listener.heard] == ["a", "b"]
        assert {position.seq for position in bus.positions().values()} == {bus.head()}
    assert await store.cursor("one") == await store.cursor("nobody") == bus.head()


async def test_a_failing_handler_is_tried_again_and_holds_up_nobody(
    store: SqliteStore, clock: FakeClock, log_lines: list[str]
) -> None:
    """Told once, retried with growing pauses up to the bound, and told again when it works."""
    broken, sound = Listener(failures=6), Listener()
    bus = Bus(store, clock, RETRY_MAX_S)
    bus.add("broken", {AgentStarted: broken})
    bus.add("sound", {AgentStarted: sound})
    async with running(bus):
        await started(store, "a", "b")
        await eventually(lambda: len(sound.heard) == 2)
        pauses = []
        await eventually(clock.waiting)
        while clock.waiting():
            [pause] = clock.waiting()
            pauses.append(round(pause, 3))
            assert bus.positions()["broken"].failing.startswith("seq 2: ValueError")
            await clock.advance(pause)
        await eventually(lambda: len(broken.heard) == 2)
        assert pauses == [RETRY_FIRST_S * factor for factor in (1, 2, 4, 8)] + [RETRY_MAX_S] * 2
        assert bus.positions()["broken"].failing == ""
    told = [line for line in log_lines if "handler of agent.started" in line]
    assert [line.split()[0] for line in told if line.startswith(("ERROR", "INFO"))] == ["ERROR", "INFO"]


async def test_an_unreadable_row_is_passed_over_and_told(
    store: SqliteStore, clock: FakeClock, log_lines: list[str]
) -> None:
    """A row that this version cannot read must not stand in the way of those behind it."""

    class Torn:
        """The store, with the body of row 2 written by somebody who knows other fields."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        @contextmanager
        def read(self) -> Any:
            with store.read() as reader:
                yield TornReader(reader)

    class TornReader:
        def __init__(self, reader: Any) -> None:
            self.head = reader.head
            self.one = reader.one
            self._reader = reader

        def rows(self, after: int, limit: int) -> list[JournalRow]:
            return [replace(row, body=b"{}") if row.seq == 2 else row for row in self._reader.rows(after, limit)]

    listener, bus = Listener(), Bus(Torn(), clock, RETRY_MAX_S)
    bus.add("one", {AgentStarted: listener})
    await started(store, "a", "b")
    async with running(bus):
        await eventually(lambda: listener.heard)
        await bus.drained()
        assert listener.heard == [(3, "b")]
        assert bus.positions()["one"].parked == 1
    assert any("row cannot be read" in line for line in log_lines)
    assert await store.cursor("one") == 3


async def test_a_store_that_is_away_is_waited_for(store: SqliteStore, clock: FakeClock) -> None:
    away = True

    class Flaky:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def cursor(self, name: str) -> int:
            if away:
                raise StoreError("away")
            return await store.cursor(name)

        async def advance(self, name: str, seq: int) -> None:
            if away:
                raise StoreError("away")
            await store.advance(name, seq)

    listener, bus = Listener(), Bus(Flaky(), clock, RETRY_MAX_S)
    bus.add("one", {AgentStarted: listener})
    await started(store, "a")
    async with running(bus):
        await turns()
        assert clock.waiting() == [STORE_RETRY_S]
        away = False
        await clock.advance(STORE_RETRY_S)
        await bus.drained()
    assert listener.heard == [(2, "a")]


async def test_after_a_fork_rows_repeat_and_none_is_missed(
    store: SqliteStore, clock: FakeClock, recorded: Callable[[], list[Any]]
) -> None:
    """The seq a handler was at belongs to the old journal: it must not be written into the new one."""
    gate = asyncio.Event()
    heard: list[str] = []

    async def slow(row: JournalRow, event: Any) -> None:
        await gate.wait()
        heard.append(event.device)

    bus = Bus(store, clock, RETRY_MAX_S)
    bus.add("one", {StackerRemoved: slow})
    await started(store, "a", "b", "c")
    async with running(bus):
        await bus.drained()
        await store.record([StackerRemoved(device="x")], actor="device:x")
        await turns()
        await store.fork(2)
        await store.record([StackerRemoved(device="y")], actor="device:y")
        gate.set()
        await eventually(lambda: heard[-1:] == ["y"])
        await bus.drained()
    assert heard == ["x", "x", "y"]
    with store.read() as reader:
        assert await store.cursor("one") == reader.head()[0]
