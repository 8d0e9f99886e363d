"""Projections, ledger and open records from the journal: the same code as an append, over all that ever happened.

The order of history: of each past journal the rows up to where the next one continues it, then the present journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apsw

from agent.domain.chain import JournalRow
from agent.domain.wire import event_of
from agent.store.connection import query
from agent.store.engine import Engine
from agent.store.ledger import TABLES
from agent.store.ports import Projection
from agent.store.reader import COLUMNS, row_of

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all) now and then."""

_STEP = 2_000


def ignore_progress(_done: int, _total: int) -> None:
    """For callers that do not watch."""


def history(connection: apsw.Connection, after: tuple[int, int] = (-1, 0)) -> Iterator[tuple[int, JournalRow]]:
    """(epoch, row) of everything behind `after` that is part of the present state, in order."""
    for epoch, continued in query(connection, "SELECT epoch, continued_seq FROM journals ORDER BY epoch"):
        if epoch < after[0]:
            continue
        start = after[1] if epoch == after[0] else 0
        for row in epoch_rows(connection, epoch, start, last=continued):
            yield epoch, row


def epoch_rows(
    connection: apsw.Connection, epoch: int, after: int = 0, last: int | None = None
) -> Iterator[JournalRow]:
    """Rows of one journal of the file, in steps, so that no statement stays open while the caller works."""
    present = query(connection, "SELECT max(epoch) FROM journals")[0][0]
    source = "journal WHERE ?1 = ?1" if epoch == present else "journal_past WHERE epoch = ?1"
    sql = f"SELECT {COLUMNS} FROM {source} AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT {_STEP}"  # noqa: S608
    while True:
        found = query(connection, sql, epoch, after, last if last is not None else 2**62)
        for values in found:
            yield row_of(values)
        if len(found) < _STEP:
            return
        after = found[-1][0]


def history_length(connection: apsw.Connection) -> int:
    sql = (
        "SELECT (SELECT count(*) FROM journal) + "
        "(SELECT coalesce(sum(continued_seq), 0) FROM journals WHERE continued_seq IS NOT NULL)"
    )
    return int(query(connection, sql)[0][0])


def rebuild(engine: Engine, progress: Progress = ignore_progress) -> int:
    """All projections and the ledger from scratch, in one transaction; users, keys and cursors stay. Returns rows."""
    with engine.transaction():
        for table in TABLES:
            engine.writer.execute(f"DELETE FROM {table}")  # noqa: S608 - our own constants
        for projection in engine.projections:
            _make_anew(engine, projection)
        return _replay(engine, engine.projections, (-1, 0), ledger=True, progress=progress)


def attend(engine: Engine, progress: Progress = ignore_progress) -> None:
    """At start: bring new, changed and long absent projections up to the journal's head; note which ones are absent.

    A projection that a process does not bring (its module is off, or a tool opened the store) is marked with the seq
    it stands at, and catches up from there when it is back.
    """
    found: dict[str, Any] = {}
    for name, version, epoch, seq in query(
        engine.connection, "SELECT name, version, absent_epoch, absent_seq FROM projections"
    ):
        found[name] = (version, None if epoch is None else (epoch, seq))
    here = {projection.name: projection for projection in engine.projections}
    absent = [name for name, (_, since) in found.items() if name not in here and since is None]
    stale = [p for p in engine.projections if found.get(p.name) != (p.version, None)]
    if not absent and not stale:
        return
    with engine.transaction():
        for name in absent:
            engine.writer.execute(
                "UPDATE projections SET absent_epoch = ?, absent_seq = ? WHERE name = ?",
                *(engine.position.epoch, engine.position.seq, name),
            )
        for projection in stale:
            version, since = found.get(projection.name, (None, None))
            start = since
            if version != projection.version or since is None or since[0] != engine.position.epoch:
                _make_anew(engine, projection)
                start = None
            _replay(engine, [projection], start or (-1, 0), ledger=False, progress=progress)
            _note(engine, projection)


def _make_anew(engine: Engine, projection: Projection) -> None:
    for table in projection.tables:
        engine.writer.execute(f"DROP TABLE IF EXISTS {_quoted(table)}")
    query(engine.connection, projection.schema)
    engine.writer.forget_columns()
    _note(engine, projection)


def _note(engine: Engine, projection: Projection) -> None:
    engine.writer.execute(
        "INSERT OR REPLACE INTO projections VALUES (?, ?, NULL, NULL)", projection.name, projection.version
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _replay(
    engine: Engine, projections: Sequence[Projection], after: tuple[int, int], *, ledger: bool, progress: Progress
) -> int:
    total, done = history_length(engine.connection), 0
    for epoch, row in history(engine.connection, after):
        event = event_of(row)
        if ledger:
            engine.apply_ledger(epoch, row.seq, event)
        for projection in projections:
            if type(event) in projection.handles:
                projection.apply(engine.writer, row, event)
        done += 1
        if done % _STEP == 0:
            progress(done, total)
    progress(done, total)
    return done
