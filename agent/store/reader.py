"""Reading the file: one consistent view, rows by column name, and a pool of read-only connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw

from agent.domain.chain import JournalRow, genesis_hash
from agent.domain.errors import StoreError
from agent.domain.events import Event
from agent.domain.wire import decode
from agent.store.connection import connect_reader, query
from agent.store.errors import DISK_ERRORS, StorageFailed, StoreClosed
from agent.store.ports import Row

COLUMNS = "seq, id, type, schema, occurred_at, boot_id, monotonic_us, trace_id, actor, subject, body, prev_hash, hash"
_IDLE_MAX = 8  # connections kept open between uses
_OPEN_EVENTS = """
SELECT coalesce(j.type, p.type), coalesce(j.body, p.body) FROM open_records AS o
LEFT JOIN journal AS j ON j.seq = o.seq AND o.epoch = (SELECT max(epoch) FROM journals)
LEFT JOIN journal_past AS p ON p.epoch = o.epoch AND p.seq = o.seq
WHERE o.device = ? ORDER BY o.epoch, o.seq
"""


def row_of(values: tuple[Any, ...]) -> JournalRow:
    """A journal row from `COLUMNS`."""
    seq, id_, type_, schema, occurred_at, boot_id, *rest = values
    return JournalRow(seq, UUID(bytes=id_), type_, schema, occurred_at, UUID(bytes=boot_id), *rest)


class SqlReader:
    """Implements `agent.store.ports.Reader` on one connection; not for two threads at once."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._cursor = connection.cursor()
        self._names: dict[str, tuple[str, ...]] = {}

    def all(self, sql: str, *parameters: object) -> list[Row]:
        """Rows of a query, as mappings by column name."""
        try:
            cursor = self._cursor.execute(sql, parameters)
            names = self._names.get(sql)
            if names is None:
                try:
                    names = self._names[sql] = tuple(column[0] for column in cursor.get_description())
                except apsw.ExecutionCompleteError:
                    return []
            return [dict(zip(names, row, strict=True)) for row in cursor]
        except DISK_ERRORS as error:
            raise self.failed(error) from error

    def one(self, sql: str, *parameters: object) -> Row | None:
        """The first row of a query, None when there is none."""
        rows = self.all(sql, *parameters)
        return rows[0] if rows else None

    def head(self) -> tuple[int, bytes]:
        row = self.one("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
        return (0, genesis_hash(self.journal_id())) if row is None else (row["seq"], row["hash"])

    def journal_id(self) -> UUID:
        row = self.one("SELECT journal_id FROM journals ORDER BY epoch DESC LIMIT 1")
        if row is None:
            raise StoreError("the file holds no journal yet")
        return UUID(bytes=row["journal_id"])

    def rows(self, after: int, limit: int) -> list[JournalRow]:
        sql = f"SELECT {COLUMNS} FROM journal WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - our own constant
        try:
            return [row_of(values) for values in self._cursor.execute(sql, (after, limit))]
        except DISK_ERRORS as error:
            raise self.failed(error) from error

    def open_events(self, device: str) -> list[Event]:
        try:
            found: list[Any] = self._cursor.execute(_OPEN_EVENTS, (device,)).fetchall()
        except DISK_ERRORS as error:
            raise self.failed(error) from error
        return [decode(type_, body) for type_, body in found]

    def failed(self, error: apsw.Error) -> StorageFailed:
        """What to raise for an error of the disk."""
        return StorageFailed(f"the state file cannot be read: {error}")

    def forget_columns(self) -> None:
        """After tables were made anew."""
        self._names.clear()


@contextmanager
def reading(connection: apsw.Connection) -> Iterator[SqlReader]:
    """A read transaction: everything inside is of one moment."""
    reader = SqlReader(connection)
    try:
        query(connection, "BEGIN")
    except DISK_ERRORS as error:
        raise reader.failed(error) from error
    try:
        yield reader
    finally:
        if connection.in_transaction:
            query(connection, "ROLLBACK")


class ReaderPool:
    """Read-only connections, one per `reading()` at a time, from any thread."""

    def __init__(self, path: Path, *, vfs: str | None) -> None:
        self._path = path
        self._vfs = vfs
        self._lock = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._generation = 0
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        """Raises `StoreClosed`, or `StorageFailed` when the file cannot be read."""
        connection, generation = self._take()
        try:
            with reading(connection) as reader:
                yield reader
        finally:
            self._give(connection, generation)

    def _take(self) -> tuple[apsw.Connection, int]:
        with self._lock:
            if self._closed:
                raise StoreClosed("the store is closed")
            generation = self._generation
            if self._idle:
                return self._idle.pop(), generation
        try:
            return connect_reader(self._path, vfs=self._vfs), generation
        except DISK_ERRORS as error:
            raise StorageFailed(f"the state file cannot be opened for reading: {error}") from error

    def _give(self, connection: apsw.Connection, generation: int) -> None:
        with self._lock:
            if generation == self._generation and not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def renew(self) -> None:
        """Close what is idle now and what is in use when it comes back: the file is about to be reopened."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        self._closed = True
        self.renew()
