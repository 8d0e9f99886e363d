"""The in-process bus is the journal: each subscriber reads it from a cursor of its own and falls behind alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

from loguru import logger

from agent.api.module import Handler
from agent.domain.chain import JournalRow
from agent.domain.clock import Clock
from agent.domain.errors import StoreError
from agent.domain.events import Event
from agent.domain.wire import Unreadable, event_of
from agent.store.ports import Store

T = TypeVar("T")
BATCH_ROWS_MAX = 256
SPAN_ROWS_MAX = 8_192  # so many rows are looked through at once for types that somebody wants
RETRY_FIRST_S = 0.1
STORE_RETRY_S = 0.5


@dataclass(slots=True)
class Position:
    """How far a subscriber is, for diagnostics. `failing`: the last error of the row that it tries again."""

    seq: int = 0
    failing: str = ""
    parked: int = 0


class Subscription:
    """One subscriber: its handlers by event type, its cursor, its own pace."""

    def __init__(
        self, name: str, handlers: Mapping[type[Event], Handler], store: Store, clock: Clock, retry_max_s: float
    ) -> None:
        self.name = name
        self.position = Position()
        self._handlers = {kind.TYPE: handler for kind, handler in handlers.items()}
        self._store = store
        self._clock = clock
        self._retry_max_s = retry_max_s
        marks = ", ".join("?" * len(handlers))
        self._first = f"SELECT min(seq) AS seq FROM journal WHERE seq > ? AND seq <= ? AND type IN ({marks})"  # noqa: S608
        self._cursor = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._log = logger.bind(subscriber=name)

    def wake(self) -> None:
        """There may be new rows. On the loop."""
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Wait until every row that is there has been handled."""
        await self._idle.wait()

    async def run(self) -> None:
        """Forever: read what is behind the cursor, hand it on, remember how far."""
        while True:
            self._wake.clear()
            journal_id = self._store.journal_id
            rows, upto = await self._patiently(self._read)
            for row in rows:
                await self._deliver(row)
                self.position.seq = row.seq
            if upto > self._cursor:
                self.position.seq = upto
                await self._patiently(partial(self._remember, journal_id, upto))
                await asyncio.sleep(0)  # a long backlog must not keep the devices waiting
            else:
                if not self._wake.is_set():
                    self._idle.set()
                await self._wake.wait()

    async def _read(self) -> tuple[list[JournalRow], int]:
        """The next rows, and up to where they answer. Of a long backlog only what concerns this subscriber is read.

        The store's cursor is the truth: a fork moves it, a failed file may have put it back.
        """
        after = self._cursor = self.position.seq = await self._store.cursor(self.name)
        with self._store.read() as reader:
            head, _ = reader.head()
            if head - after > BATCH_ROWS_MAX:
                upto = min(head, after + SPAN_ROWS_MAX)
                found = reader.one(self._first, after, upto, *self._handlers)
                if found is None or found["seq"] is None:
                    return [], upto
                after = found["seq"] - 1
            rows = reader.rows(after, BATCH_ROWS_MAX)
            return rows, rows[-1].seq if rows else after

    async def _remember(self, journal_id: UUID, seq: int) -> None:
        """Not after a fork: `seq` would be a number of the journal before, and rows may repeat anyway."""
        if self._store.journal_id == journal_id:
            await self._store.advance(self.name, seq)

    async def _deliver(self, row: JournalRow) -> None:
        handler = self._handlers.get(row.type)
        if handler is None:
            return
        event = event_of(row)
        if isinstance(event, Unreadable):
            self.position.parked += 1
            self._log.bind(seq=row.seq).error("row cannot be read and is passed over: {why}", why=event.reason)
            return
        await self._until_done(handler, row, event)

    async def _until_done(self, handler: Handler, row: JournalRow, event: Event) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await handler(row, event)
            except Exception as error:  # noqa: BLE001 - a module's defect must not end the others' supply
                if not self.position.failing:
                    log = self._log.bind(seq=row.seq, trace_id=row.trace_id).opt(exception=error)
                    log.error("handler of {type} failed and is tried again: {error}", type=row.type, error=repr(error))
                self.position.failing = f"seq {row.seq}: {type(error).__name__}: {error}"
            else:
                break
            await self._clock.sleep_until(self._clock.monotonic() + delay_s)
            delay_s = min(2 * delay_s, self._retry_max_s)
        if self.position.failing:
            self.position.failing = ""
            self._log.bind(seq=row.seq).info("handler of {type} works again", type=row.type)

    async def _patiently(self, read: Callable[[], Awaitable[T]]) -> T:
        """The store may be away for a while; its own guard tells people."""
        while True:
            try:
                return await read()
            except StoreError as error:
                self._log.debug("waits for the store: {error}", error=error.message)
            await self._clock.sleep_until(self._clock.monotonic() + STORE_RETRY_S)


class Bus:
    """Wakes every subscription after every commit; each runs as a task of its own."""

    def __init__(self, store: Store, clock: Clock, retry_max_s: float) -> None:
        self._store = store
        self._clock = clock
        self._retry_max_s = retry_max_s
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: Callable[[], None] = lambda: None
        self._head = 0

    def add(self, name: str, handlers: Mapping[type[Event], Handler]) -> None:
        """`name` is the cursor's: stable across releases."""
        self._subscriptions[name] = Subscription(name, handlers, self._store, self._clock, self._retry_max_s)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        with self._store.read() as reader:
            self._head = reader.head()[0]
        self._unsubscribe = self._store.subscribe(lambda seq: _on_loop(loop, self._committed, seq))
        self._tasks = [
            asyncio.create_task(each.run(), name=f"bus {name}") for name, each in self._subscriptions.items()
        ]

    async def stop(self) -> None:
        self._unsubscribe()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def head(self) -> int:
        """Seq of the last commit that the loop has heard of."""
        return self._head

    def positions(self) -> Mapping[str, Position]:
        return {name: each.position for name, each in self._subscriptions.items()}

    async def drained(self) -> None:
        """Wait until every subscription has handled every row that is there."""
        if self._tasks:
            await asyncio.gather(*(each.drained() for each in self._subscriptions.values()))

    def _committed(self, seq: int) -> None:
        self._head = seq
        for subscription in self._subscriptions.values():
            subscription.wake()


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], seq: int) -> None:
    """From the writer thread; a loop that is closed needs to hear nothing any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, seq)
