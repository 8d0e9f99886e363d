"""Connections to the kiosk's file, always with the same pragmas. apsw only: one SQLite library per file and process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

FILE_NAME = "journal.db"
APPLICATION_ID = 0x4B494F53  # "KIOS", so that file(1) and people can tell
PAGE_SIZE_BYTES = 4096
LOG_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24  # sqlite.org/fileformat2.html, "The Write-Ahead Log"
_BUSY_TIMEOUT_MS = 5_000
_STATEMENTS_MAX = 256  # statements kept prepared per connection
_CACHE_KIB = 16_384
_GROWTH_BYTES = 1 << 20  # the main file grows in steps, so that few checkpoints change its size


def connect_writer(path: Path, *, vfs: str | None = None, synchronous: str = "FULL") -> apsw.Connection:
    """The one connection that writes. Nothing checkpoints by itself: the writer thread decides when.

    `synchronous` is an argument for one reason: the crash tests prove that anything below FULL loses rows.
    """
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, vfs)
    _set(connection, f"page_size={PAGE_SIZE_BYTES}")
    _set(connection, "journal_mode=WAL")
    _set(connection, f"synchronous={synchronous}")
    _set(connection, "journal_size_limit=-1")  # the log keeps its size: growing it costs a second sync
    _set(connection, "recursive_triggers=ON")  # else REPLACE deletes rows behind the triggers' back
    _set(connection, "temp_store=MEMORY")
    _set(connection, f"cache_size=-{_CACHE_KIB}")
    return connection


def connect_reader(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that cannot write; works beside a running agent, from any process."""
    return _connect(path, apsw.SQLITE_OPEN_READONLY, vfs)


def query(connection: apsw.Connection, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """All rows of a query, as tuples; also runs statements and scripts that give none."""
    return connection.execute(sql, parameters).fetchall()


def _connect(path: Path, flags: int, vfs: str | None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=_STATEMENTS_MAX)
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # closing must not write
    connection.wal_autocheckpoint(0)
    return connection


def _set(connection: apsw.Connection, pragma: str) -> None:
    query(connection, f"PRAGMA {pragma}")
