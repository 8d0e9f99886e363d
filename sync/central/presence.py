"""Who is there, and "look again" for live views: Redis with TTLs and pub/sub. A convenience, never a truth.

With Redis away nothing waits for it: calls return at once, presence comes from Postgres (`last_seen_at`), and live
views find changes by polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from uuid import UUID

import redis.asyncio as redis
from loguru import logger
from redis.exceptions import RedisError

CHANNEL = "kiosk:changed"
RETRY_S = 2.0
PENDING_MAX = 1_000
_AWAY = (RedisError, OSError, TimeoutError)


class Presence:
    """`start` and `stop` belong to the lifespan. `wait_change` wakes for changes in this process and, by Redis, in
    all others."""

    def __init__(self, url: str | None, ttl_s: float, timeout_ms: int) -> None:
        timeout_s = timeout_ms / 1000
        self._redis: redis.Redis | None = None
        if url is not None:
            self._redis = redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._ttl_ms = round(ttl_s * 1000)
        self._away_until = 0.0
        self._pending: asyncio.Queue[tuple[UUID, bool, bool]] = asyncio.Queue(PENDING_MAX)
        self._changes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def available(self) -> bool:
        """False while Redis is known to be away, or not configured."""
        return self._redis is not None and time.monotonic() >= self._away_until

    def start(self) -> None:
        if self._redis is not None:
            self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._listen())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._redis is not None:
            with contextlib.suppress(*_AWAY):
                await self._redis.aclose()

    def seen(self, kiosk_id: UUID) -> None:
        """The kiosk just spoke to us. Never waits."""
        self._queue(kiosk_id, seen=True, changed=False)

    def changed(self, kiosk_id: UUID) -> None:
        """Something that views show has changed. Never waits."""
        self._wake()
        self._queue(kiosk_id, seen=False, changed=True)

    def _queue(self, kiosk_id: UUID, *, seen: bool, changed: bool) -> None:
        if self.available:
            with contextlib.suppress(asyncio.QueueFull):
                self._pending.put_nowait((kiosk_id, seen, changed))

    async def online(self, kiosk_ids: Iterable[UUID]) -> set[UUID] | None:
        """Those that are there; None: ask Postgres."""
        ids = list(kiosk_ids)
        if self._redis is None or not self.available or not ids:
            return None
        try:
            values = await self._redis.mget([_key(each) for each in ids])
        except _AWAY as error:
            self._lost(error)
            return None
        return {each for each, value in zip(ids, values, strict=True) if value is not None}

    @property
    def changes(self) -> int:
        """Counts up with every change that was heard of; hand it to `wait_change`."""
        return self._changes

    async def wait_change(self, since: int, timeout_s: float) -> None:
        """Returns when there was a change after `since`, else after `timeout_s`."""
        if self._changes != since:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        self._changes += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lost(self, error: BaseException) -> None:
        if self.available:
            logger.warning("redis is away ({}); presence comes from Postgres until it is back", type(error).__name__)
            self._away_until = time.monotonic() + RETRY_S
            self._wake()  # views that rely on being woken turn to polling
        self._away_until = time.monotonic() + RETRY_S

    async def _send(self) -> None:
        assert self._redis is not None  # noqa: S101 - started only with one
        while True:
            kiosk_id, seen, changed = await self._pending.get()
            if not self.available:
                continue
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    if seen:
                        pipe.set(_key(kiosk_id), b"1", px=self._ttl_ms)
                    if changed:
                        pipe.publish(CHANNEL, str(kiosk_id))
                    await pipe.execute()
            except _AWAY as error:
                self._lost(error)

    async def _listen(self) -> None:
        assert self._redis is not None  # noqa: S101 - started only with one
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        if await channel.get_message(ignore_subscribe_messages=True, timeout=RETRY_S):
                            self._wake()
            except _AWAY as error:
                self._lost(error)
            await asyncio.sleep(RETRY_S)


def _key(kiosk_id: UUID) -> str:
    return f"kiosk:present:{kiosk_id}"
