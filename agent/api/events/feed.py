"""One reader of the journal for all clients: every row is read and made into a message once, then fanned out."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from loguru import logger

from agent.api.events.messages import Message
from agent.domain.errors import StoreError
from agent.store.ports import Store

_PAGE = 256
_RETRY_S = 1.0

TOO_SLOW = "too_slow"
SHUTDOWN = "shutdown"
JOURNAL_CHANGED = "journal_changed"
SESSION_ENDED = "session_ended"
CLIENT_GONE = "client_gone"
CLIENT_TALKED = "client_talked"


class Subscription:
    """What one client has still to be sent, at most `limit` messages; one more and it is ended as too slow."""

    def __init__(self, seq: int, limit: int) -> None:
        self.seq = seq  # rows up to here are not in the buffer
        self.ended = ""
        self._limit = limit
        self._buffer: deque[Message] = deque()
        self._news = asyncio.Event()

    def push(self, message: Message) -> None:
        if self.ended:
            return
        if len(self._buffer) >= self._limit:
            self.end(TOO_SLOW)
            return
        self._buffer.append(message)
        self._news.set()

    def end(self, reason: str) -> None:
        """The client gets nothing more but this reason, at once; the first reason counts."""
        if not self.ended:
            self.ended = reason
            self._buffer.clear()
            self._news.set()

    async def take(self, timeout_s: float) -> list[Message]:
        """All that waits; empty after `timeout_s` without news, and when the subscription has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        self._news.clear()
        taken = list(self._buffer)
        self._buffer.clear()
        return taken


class Feed:
    """`start` and `close` once each, on the loop that serves the clients."""

    def __init__(self, store: Store, buffer_messages: int) -> None:
        self._store = store
        self._buffer_messages = buffer_messages
        self._subscriptions: set[Subscription] = set()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.journal_id = store.journal_id
        self.seq = 0

    def start(self) -> None:
        loop = asyncio.get_running_loop()

        def wake(_: int) -> None:
            loop.call_soon_threadsafe(self._woken.set)

        with self._store.read() as reader:
            self.seq = reader.head()[0]
        self._unsubscribe = self._store.subscribe(wake)
        self._task = loop.create_task(self._run(), name="event-feed")

    async def close(self) -> None:
        """End every stream with the reason `shutdown`. May be called twice, and before the server stops."""
        self._closed = True
        self._end_all(SHUTDOWN)
        if self._task is not None:
            self._unsubscribe()
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def subscribe(self) -> Subscription:
        """From the row after `seq` on. The caller must `leave`."""
        subscription = Subscription(self.seq, self._buffer_messages)
        self._subscriptions.add(subscription)
        if self._closed:
            subscription.end(SHUTDOWN)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def clients(self) -> int:
        return len(self._subscriptions)

    def _end_all(self, reason: str) -> None:
        for subscription in self._subscriptions:
            subscription.end(reason)

    async def _run(self) -> None:
        failing = False
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._drain()
                failing = False
            except StoreError as error:
                if not failing:
                    logger.warning("the event feed cannot read the journal: {reason}", reason=error.message)
                failing = True
                await asyncio.sleep(_RETRY_S)
                self._woken.set()

    async def _drain(self) -> None:
        """Reads on the loop: a page is a few milliseconds at most, a thread's hop costs more for the usual one row."""
        more = True
        while more:
            with self._store.read() as reader:
                head = reader.head()[0]
                if self._store.journal_id != self.journal_id or head < self.seq:
                    self.journal_id, self.seq = self._store.journal_id, head
                    self._end_all(JOURNAL_CHANGED)
                    return
                rows = reader.rows(self.seq, _PAGE)
            for row in rows:
                message = Message(self.journal_id, row)
                for subscription in self._subscriptions:
                    subscription.push(message)
                self.seq = row.seq
            more = len(rows) == _PAGE
            await asyncio.sleep(0)
