"""Rows set aside, tried anew: after an update of the office that knows their types, or once their cause is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from agent.domain.chain import JournalRow
from sync.central.database import Connection
from sync.central.digest import digest
from sync.central.projections import write

AT_ONCE = 500

_LIST = """
SELECT p.kiosk_id, p.journal_id, p.seq, p.type, p.reason FROM parked_events p
WHERE (p.kiosk_id, p.journal_id, p.seq) > (%s, %s, %s) ORDER BY 1, 2, 3 LIMIT %s"""
_FIELDS = (
    *("seq", "id", "type", "schema", "occurred_at", "boot_id", "monotonic_us"),
    *("trace_id", "actor", "subject", "body", "hash"),
)
_EVENT = """
SELECT seq, id, type, schema_number, occurred_us, boot_id, monotonic_us, trace_id, actor, subject, body, hash
FROM events WHERE kiosk_id = %s AND journal_id = %s AND seq = %s"""
_FREE = "DELETE FROM parked_events WHERE kiosk_id = %s AND journal_id = %s AND seq = %s"
_WHY = "UPDATE parked_events SET reason = %s WHERE kiosk_id = %s AND journal_id = %s AND seq = %s"


@dataclass(frozen=True, slots=True)
class Parked:
    kiosk_id: UUID
    journal_id: UUID
    seq: int
    type: str
    reason: str


async def listed(connection: Connection, after: Parked | None = None) -> list[Parked]:
    """In order, at most `AT_ONCE`, behind `after`."""
    least = (UUID(int=0), UUID(int=0), 0) if after is None else (after.kiosk_id, after.journal_id, after.seq)
    cursor = await connection.execute(_LIST, (*least, AT_ONCE))
    return [Parked(*row) for row in await cursor.fetchall()]


async def retry(connection: Connection) -> tuple[int, int]:
    """Project every parked row that can be understood now; (freed, still parked). Each in its own transaction, behind
    its kiosk's lock, so that it is safe beside ingest and safe to repeat: facts are keyed by their own ids."""
    freed = kept = 0
    last: Parked | None = None
    while found := await listed(connection, last):
        for each in found:
            async with connection.transaction():
                done = await _project(connection, each)
            freed, kept = (freed + 1, kept) if done else (freed, kept + 1)
        last = found[-1]
    return freed, kept


async def _project(connection: Connection, parked: Parked) -> bool:
    place = (parked.kiosk_id, parked.journal_id, parked.seq)
    await connection.execute("SELECT 1 FROM kiosks WHERE kiosk_id = %s FOR UPDATE", (parked.kiosk_id,))
    cursor = await connection.execute(_EVENT, place)
    row = await cursor.fetchone()
    if row is None:
        return False
    changes, unread = digest(parked.kiosk_id, parked.journal_id, [_journal_row(row)])
    reason = unread[0].reason if unread else ""
    try:
        async with connection.transaction():
            await write(connection, parked.kiosk_id, changes)
    except psycopg.Error as error:
        reason = str(error).partition("\n")[0]
    await connection.execute(*((_WHY, (reason, *place)) if reason else (_FREE, place)))
    return not reason


def _journal_row(row: tuple[Any, ...]) -> JournalRow:
    """As far as projections look at it: the chain was checked on arrival."""
    values: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
    return JournalRow(**values, prev_hash=b"")
