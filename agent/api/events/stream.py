"""What one client is sent, in which order: a resume or a snapshot, then what happens; for SSE and WebSocket alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from agent.api.auth.caller import Caller
from agent.api.events.feed import CLIENT_GONE, SESSION_ENDED, Feed, Subscription
from agent.api.events.messages import SNAPSHOT, STREAM_ENDED, Message, control, parse_position, position
from agent.api.settings import ApiSettings
from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.store.ports import Reader, Store

_PAGE = 500


class TooManyStreams(KioskError):
    code: ClassVar[str] = "too_many_streams"
    http_status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Item:
    """`json` None: nothing to show, the client's position moved (or a heartbeat is due)."""

    id: str
    json: bytes | None


Snapshots = Callable[[Reader, Caller], dict[str, Any]]
"""Everything a client that has just come needs to know, of the moment of the reader."""


class Streams:
    """Gives each client its stream. `alive` tells whether a session still stands; asked at every heartbeat."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: ApiSettings,
        snapshot: Snapshots,
        alive: Callable[[str], bool],
    ) -> None:
        self.feed = Feed(store, settings.stream_buffer_messages)
        self.settings = settings
        self._store = store
        self._clock = clock
        self._snapshot = snapshot
        self._alive = alive

    async def close(self) -> None:
        """End every stream at once; see `Feed.close`."""
        await self.feed.close()

    def enter(self) -> Subscription:
        """A place among the clients, to be left again. Raises `TooManyStreams`."""
        if self.feed.clients >= self.settings.streams_max:
            raise TooManyStreams("Too many event streams are open at this kiosk.", retry_after_s=5)
        return self.feed.subscribe()

    def leave(self, subscription: Subscription) -> None:
        self.feed.leave(subscription)

    async def items(self, subscription: Subscription, caller: Caller, resume: str | None) -> AsyncGenerator[list[Item]]:
        """Lists of what to send next, each in one write, never an empty list; ends with the reason as last message."""
        journal_id, seq = self.feed.journal_id, subscription.seq
        start = self._resumable(parse_position(resume), seq)
        if start is None:
            seq, item = self._first(journal_id, caller)
            yield [item]
        else:
            async for page in self._missed(journal_id, start, seq):
                yield _shown(page, caller)
            seq = max(start, seq)
        while not subscription.ended:
            taken = [each for each in await subscription.take(self.settings.heartbeat_s) if each.seq > seq]
            if caller.session_id is not None and not self._alive(caller.session_id):
                subscription.end(SESSION_ENDED)
            if not subscription.ended:
                seq = taken[-1].seq if taken else seq
                yield _shown(taken, caller) or [Item(position(journal_id, seq), None)]
        if subscription.ended != CLIENT_GONE:
            data = {"reason": subscription.ended, "resume_from": position(journal_id, seq)}
            now_us = self._clock.now_us()
            yield [Item(position(journal_id, seq), control(STREAM_ENDED, journal_id, seq, now_us, data))]

    def _resumable(self, wanted: tuple[UUID, int] | None, seq: int) -> int | None:
        """The seq to go on after, or None: foreign, too far behind, or ahead of a file that was put back."""
        if wanted is None or wanted[0] != self.feed.journal_id:
            return None
        if seq - wanted[1] > self.settings.resume_rows_max:
            return None
        if wanted[1] > seq:
            with self._store.read() as reader:
                return wanted[1] if wanted[1] <= reader.head()[0] else None
        return wanted[1]

    def _first(self, journal_id: UUID, caller: Caller) -> tuple[int, Item]:
        """On the loop: modules and devices answer from their memory too."""
        with self._store.read() as reader:
            seq = reader.head()[0]
            data = self._snapshot(reader, caller)
        return seq, Item(position(journal_id, seq), control(SNAPSHOT, journal_id, seq, self._clock.now_us(), data))

    async def _missed(self, journal_id: UUID, start: int, end: int) -> AsyncGenerator[list[Message]]:
        while start < end:
            page = await asyncio.to_thread(self._page, journal_id, start, min(_PAGE, end - start))
            if not page:
                return
            start = page[-1].seq
            yield page

    def _page(self, journal_id: UUID, after: int, limit: int) -> list[Message]:
        """Empty when the journal was left by a fork meanwhile: its rows are not to be had under this id any more."""
        with self._store.read() as reader:
            rows = reader.rows(after, limit)
        return [Message(journal_id, row) for row in rows] if self._store.journal_id == journal_id else []


def _shown(messages: list[Message], caller: Caller) -> list[Item]:
    """What the role sees of them; when it sees nothing of the last, its position moves silently."""
    items = [Item(message.id, message.json(caller.role)) for message in messages]
    return [item for item in items if item.json is not None] + [item for item in items[-1:] if item.json is None]
