"""The pool of connections to Postgres, and which of its errors mean "later again"."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from sync.central.settings import DatabaseSettings

Connection = AsyncConnection[tuple[Any, ...]]
Pool = AsyncConnectionPool[Connection]
T = TypeVar("T")

UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed)
"""Postgres is away, restarting, or gave up waiting: nothing is known of the work in hand, and it may be repeated."""

TRIES = 3


def make_pool(settings: DatabaseSettings) -> Pool:
    """Closed at first: `await pool.open()`. A connection that waits for a lock or works too long is told to give up."""
    options = (
        f"-c statement_timeout={settings.statement_timeout_ms} -c lock_timeout={settings.statement_timeout_ms} "
        f"-c idle_in_transaction_session_timeout={2 * settings.statement_timeout_ms}"
    )
    timeout_s = max(1, round(settings.connect_timeout_s))
    return AsyncConnectionPool(
        settings.url(),
        kwargs={"options": options, "application_name": "kiosk-central", "connect_timeout": timeout_s, **_PREPARED},
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        timeout=settings.connect_timeout_s,
        reconnect_timeout=settings.connect_timeout_s,
        open=False,
    )


_GAVE_UP = (PoolTimeout, PoolClosed, psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)
"""We have waited as long as we may; the caller had better come again later."""
_PREPARED = {"prepare_threshold": 2}  # the road in runs the same dozen statements for ever


async def attempt(pool: Pool, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` on a connection, in a transaction that commits behind it; again on a fresh one when Postgres went
    away under it. `work` must be safe to repeat even if its commit went through unheard."""
    for left in reversed(range(TRIES)):
        try:
            async with pool.connection() as connection:
                return await work(connection)
        except UNAVAILABLE as error:
            if left == 0 or isinstance(error, _GAVE_UP):
                raise
            await pool.check()  # throws out the connections that died with it
    raise AssertionError("unreachable")
