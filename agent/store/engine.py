"""The writing side of the file, for one thread: appends with chain, ledger and projections, and group commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import apsw

from agent.domain.chain import JournalRow, genesis_hash, row_hash
from agent.domain.clock import Clock
from agent.domain.events import Event, JournalOpened
from agent.domain.ids import Randomness, uuid7
from agent.domain.wire import encode
from agent.store.connection import query
from agent.store.errors import DISK_ERRORS, JournalDamaged, StorageFailed
from agent.store.ledger import post
from agent.store.ports import Projection, Row
from agent.store.reader import SqlReader

_INSERT_ROW = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SET_CURSOR = "INSERT INTO cursors VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET seq = ?2"


class SqlWriter(SqlReader):
    """Implements `ports.ProjectionWriter`. A disk error is remembered even when the caller swallows it."""

    def __init__(self, connection: apsw.Connection) -> None:
        super().__init__(connection)
        self.failure: StorageFailed | None = None

    def execute(self, sql: str, *parameters: object) -> None:
        """One statement; its rows, if any, are thrown away."""
        try:
            for _ in self._cursor.execute(sql, parameters):
                pass
        except DISK_ERRORS as error:
            raise self.failed(error) from error

    def failed(self, error: apsw.Error) -> StorageFailed:
        self.failure = StorageFailed(f"the state file cannot be written: {error}")
        return self.failure


class WorkTransaction:
    """Implements `ports.Transaction` for one work; `actor` and `trace_id` go into every row it appends."""

    __slots__ = ("_actor", "_engine", "_trace_id", "_writer")

    def __init__(self, engine: Engine, actor: str, trace_id: str) -> None:
        self._engine = engine
        self._writer = engine.writer
        self._actor = actor
        self._trace_id = trace_id

    def append(self, event: Event) -> JournalRow:
        return self._engine.append(event, self._actor, self._trace_id)

    def all(self, sql: str, *parameters: object) -> list[Row]:
        return self._writer.all(sql, *parameters)

    def one(self, sql: str, *parameters: object) -> Row | None:
        return self._writer.one(sql, *parameters)

    def execute(self, sql: str, *parameters: object) -> None:
        self._writer.execute(sql, *parameters)

    def head(self) -> tuple[int, bytes]:
        return self._engine.head()

    def rows(self, after: int, limit: int) -> list[JournalRow]:
        return self._writer.rows(after, limit)

    def open_events(self, device: str) -> list[Event]:
        return self._writer.open_events(device)


class Position(NamedTuple):
    """Where the journal stands: rolled back together with the savepoint that moved it."""

    epoch: int
    journal_id: UUID
    seq: int
    hash: bytes


NOWHERE = Position(-1, UUID(int=0), 0, b"")


class Work(NamedTuple):
    """What a caller wants done in a transaction. `repeatable`: it only appends, so running it twice is running it."""

    run: Callable[[WorkTransaction], Any]
    actor: str
    trace_id: str
    repeatable: bool = False


class Outcome(NamedTuple):
    """What became of a work: its result, or the exception it raised; then it left nothing in the file."""

    value: Any = None
    error: BaseException | None = None


class Engine:
    """Owns the writing connection. After `StorageFailed` it must be thrown away with its connection."""

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        projections: Sequence[Projection],
        clock: Clock,
        randomness: Randomness,
        boot_id: UUID,
    ) -> None:
        self.connection = connection
        self.writer = SqlWriter(connection)
        self.projections = tuple(projections)
        self.boot_id = boot_id
        self.wal_pages = 0  # committed pages of the log that the main file may not have yet
        self._clock = clock
        self._randomness = randomness
        self._execute = connection.cursor().execute
        self._by_type: dict[type[Event], list[Projection]] = {}
        for projection in self.projections:
            for handled in projection.handles:
                self._by_type.setdefault(handled, []).append(projection)
        connection.set_wal_hook(self._on_wal)
        self.load()

    def load(self) -> None:
        """Read where the journal stands; makes the first journal in an empty file."""
        found = query(self.connection, "SELECT epoch, journal_id FROM journals ORDER BY epoch DESC LIMIT 1")
        if found:
            self.position = Position(found[0][0], UUID(bytes=found[0][1]), *self.writer.head())
            return
        self.position = NOWHERE
        with self.transaction():
            self.open_journal(0, JournalOpened())

    def open_journal(self, epoch: int, opened: JournalOpened) -> None:
        """Go on in a new journal, inside the open transaction."""
        journal_id = self.new_id()
        self.position = Position(epoch, journal_id, 0, genesis_hash(journal_id))
        self._execute("INSERT INTO journals VALUES (?, ?, NULL)", (epoch, journal_id.bytes))
        self.append(opened, "agent", "")

    def new_id(self) -> UUID:
        return uuid7(self._clock.now_us() // 1000, self._randomness(10))

    def now_us(self) -> int:
        return self._clock.now_us()

    def head(self) -> tuple[int, bytes]:
        return self.position.seq, self.position.hash

    def hash_of(self, seq: int) -> bytes:
        """Hash of a row of the present journal; the genesis hash for 0."""
        if seq == 0:
            return genesis_hash(self.position.journal_id)
        row = self.writer.one("SELECT hash FROM journal WHERE seq = ?", seq)
        if row is None:
            raise JournalDamaged(f"row {seq} is missing from the journal", seq=seq, reason="gap")
        return bytes(row["hash"])

    # --- appending -------------------------------------------------------------------------------------------------

    def append(self, event: Event, actor: str, trace_id: str) -> JournalRow:
        """Row, ledger entries, open records and projections of `event`, in the open transaction."""
        now_us = self._clock.now_us()
        row = self.chain(
            id_=uuid7(now_us // 1000, self._randomness(10)),
            type_=event.TYPE,
            schema=event.SCHEMA,
            occurred_at=now_us,
            boot_id=self.boot_id,
            monotonic_us=int(self._clock.monotonic() * 1_000_000),
            trace_id=trace_id,
            actor=actor,
            subject=event.subject(),
            body=encode(event),
        )
        self.apply_ledger(self.position.epoch, row.seq, event)
        for projection in self._by_type.get(type(event), ()):
            projection.apply(self.writer, row, event)
        return row

    def chain(
        self,
        *,
        id_: UUID,
        type_: str,
        schema: int,
        occurred_at: int,
        boot_id: UUID,
        monotonic_us: int,
        trace_id: str,
        actor: str,
        subject: str,
        body: bytes,
    ) -> JournalRow:
        """Write the next row of the chain and nothing else."""
        here = self.position
        seq, prev_hash = here.seq + 1, here.hash
        digest = row_hash(
            seq=seq,
            id=id_,
            type=type_,
            schema=schema,
            occurred_at=occurred_at,
            boot_id=boot_id,
            monotonic_us=monotonic_us,
            trace_id=trace_id,
            actor=actor,
            subject=subject,
            body=body,
            prev_hash=prev_hash,
        )
        values = (schema, occurred_at, boot_id.bytes, monotonic_us, trace_id, actor, subject, body, prev_hash, digest)
        try:
            self._execute(_INSERT_ROW, (seq, id_.bytes, type_, *values))
        except DISK_ERRORS as error:
            raise self.writer.failed(error) from error
        self.position = Position(here.epoch, here.journal_id, seq, digest)
        middle = (occurred_at, boot_id, monotonic_us, trace_id, actor, subject)
        return JournalRow(seq, id_, type_, schema, *middle, body, prev_hash, digest)

    def apply_ledger(self, epoch: int, seq: int, event: Event) -> None:
        try:
            post(self._execute, epoch, seq, event)
        except DISK_ERRORS as error:
            raise self.writer.failed(error) from error

    # --- transactions ----------------------------------------------------------------------------------------------

    def transaction(self) -> _Transaction:
        """BEGIN … COMMIT around the engine's own work; any exception rolls back. Disk errors become `StorageFailed`."""
        return _Transaction(self)

    def commit(self, works: Sequence[Work], cursors: Mapping[str, int] | None = None) -> list[Outcome]:
        """Run `works` in one transaction, each undone alone if it raises, and return once the commit is on the disk.

        Raises `StorageFailed` when it may not be: then none of them is acknowledged. Each work has a savepoint, unless
        the transaction can be it: for a single one, and for works that may be run again if one of them fails.
        """
        try:
            if (len(works) == 1 and not cursors) or all(work.repeatable for work in works):
                outcomes = self._together(works, cursors, savepoints=False)
                if outcomes is not None:
                    return outcomes
            return self._together(works, cursors, savepoints=True) or []
        except DISK_ERRORS as error:
            raise self.writer.failed(error) from error

    def _together(
        self, works: Sequence[Work], cursors: Mapping[str, int] | None, *, savepoints: bool
    ) -> list[Outcome] | None:
        """None, and nothing done, when a work raised that had others beside it and no savepoint."""
        before = self.position
        self._execute("BEGIN IMMEDIATE")
        if cursors:
            self.set_cursors(cursors)
        outcomes: list[Outcome] = []
        for work in works:
            outcome = self._attempt(work, savepoints)
            outcomes.append(outcome)
            if outcome.error is not None and not savepoints:
                self._execute("ROLLBACK")
                self.position = before
                return outcomes if len(works) == 1 and not cursors else None
        self._execute("COMMIT")
        return outcomes

    def set_cursors(self, cursors: Mapping[str, int]) -> None:
        for name, seq in cursors.items():
            self._execute(_SET_CURSOR, (name, seq))

    def _attempt(self, work: Work, savepoint: bool) -> Outcome:
        saved = self.position
        if savepoint:
            self._execute("SAVEPOINT work")
        try:
            outcome = Outcome(work.run(WorkTransaction(self, work.actor, work.trace_id)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets it
            outcome = Outcome(error=error)
        if self.writer.failure is not None:
            raise self.writer.failure
        if not self.connection.in_transaction:
            raise StorageFailed("SQLite gave the transaction up", cause=str(outcome.error)) from outcome.error
        if savepoint and outcome.error is not None:
            self.position = saved
            self._execute("ROLLBACK TO work")
        if savepoint:
            self._execute("RELEASE work")
        return outcome

    # --- the log ---------------------------------------------------------------------------------------------------

    def count_log(self) -> None:
        """Learn how many pages of the log are committed; moves nothing."""
        pages, _ = self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        self.wal_pages = max(0, pages)

    def _on_wal(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def checkpoint(self) -> bool:
        """Copy the log into the main file as far as readers and the disk's space allow; True when all of it went.

        A full disk is no failure here: everything is in the log, which has its space already.
        """
        try:
            return self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.FullError:
            return False

    def truncate_log(self) -> bool:
        """The same, and cut the log to nothing: proof that everything in it reached the main file."""
        return self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def _checkpoint(self, mode: int) -> bool:
        try:
            pages, moved = self.connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            return False
        except apsw.FullError:
            raise
        except DISK_ERRORS as error:
            raise self.writer.failed(error) from error
        if pages == moved:
            self.wal_pages = 0
        return pages == moved

    def close(self) -> None:
        self.connection.close()


class _Transaction:
    """The context manager behind `Engine.transaction`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._saved = self._engine.position
        self._run("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._run("COMMIT")
        elif self._engine.connection.in_transaction:
            self._run("ROLLBACK")
            self._engine.position = self._saved
        if isinstance(error, DISK_ERRORS):
            raise self._engine.writer.failed(error) from error

    def _run(self, sql: str) -> None:
        try:
            query(self._engine.connection, sql)
        except DISK_ERRORS as error:
            raise self._engine.writer.failed(error) from error
