"""What the office's views read, as plain dicts; each call is one consistent look at Postgres."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from sync.central.database import Connection

Row = dict[str, Any]
PAGE_ROWS = 50
PAGE_ROWS_MAX = 200

_KIOSKS = """
SELECT k.kiosk_id, k.name, k.enrolled_at, k.revoked_at, k.current_journal_id, s.agent_version, s.disk_free_bytes,
    greatest(s.last_seen_at, j.updated_at) AS last_seen_at,
    greatest(s.last_seen_at, j.updated_at) > now() - make_interval(secs => %(ttl)s) AS seen_lately,
    j.seq AS watermark_seq, s.head_seq, s.oldest_unsent_us,
    CASE WHEN s.journal_id IS NULL THEN 0 ELSE greatest(0, s.head_seq - coalesce(h.seq, 0)) END AS lag,
    (SELECT count(*) FROM alarms a WHERE a.kiosk_id = k.kiosk_id AND a.acknowledged_at IS NULL) AS open_alarms,
    (SELECT count(*) FROM doubts d WHERE d.kiosk_id = k.kiosk_id AND d.outcome IS NULL) AS open_doubts,
    (SELECT coalesce(array_agg(v.device || ': ' || coalesce(nullif(v.fault, ''), v.state) ORDER BY v.device), '{}')
     FROM device_health v WHERE v.kiosk_id = k.kiosk_id AND v.state <> 'online') AS troubles,
    (SELECT coalesce(sum(g.continued_at_seq - g.seq), 0)::bigint FROM journals g
     WHERE g.kiosk_id = k.kiosk_id AND g.continued_at_seq > g.seq) AS missing_rows
FROM kiosks k
LEFT JOIN kiosk_status s ON s.kiosk_id = k.kiosk_id
LEFT JOIN journals j ON j.kiosk_id = k.kiosk_id AND j.journal_id = k.current_journal_id
LEFT JOIN journals h ON h.kiosk_id = k.kiosk_id AND h.journal_id = s.journal_id
WHERE %(kiosk)s::uuid IS NULL OR k.kiosk_id = %(kiosk)s
ORDER BY k.name, k.kiosk_id"""

_NOTES = """
SELECT kiosk_id, payment_id, note_id, device, value_minor, currency, stacked_seq, stacked_us
FROM transaction_notes WHERE (kiosk_id, payment_id) IN (SELECT * FROM unnest(%s::uuid[], %s::text[]))
ORDER BY stacked_us, stacked_seq"""

_TRANSACTION = "SELECT t.*, k.name AS kiosk_name FROM transactions t JOIN kiosks k USING (kiosk_id)"
_TRANSACTIONS = (
    _TRANSACTION
    + """
WHERE (%(kiosk)s::uuid IS NULL OR t.kiosk_id = %(kiosk)s) AND (%(state)s = '' OR t.state = %(state)s)
  AND (%(text)s = '' OR t.payment_id = %(text)s OR strpos(lower(t.reference), lower(%(text)s)) > 0)
  AND (%(before)s::bigint IS NULL OR t.created_us < %(before)s OR t.created_us IS NULL
       OR (t.created_us = %(before)s AND t.payment_id > %(after)s))
ORDER BY t.created_us DESC NULLS LAST, t.payment_id LIMIT %(limit)s"""
)
_CHANGED = (
    _TRANSACTION
    + """
WHERE t.changed_at > now() - make_interval(secs => %(seconds)s)
  AND (%(kiosk)s::uuid IS NULL OR t.kiosk_id = %(kiosk)s) ORDER BY t.changed_at LIMIT %(limit)s"""
)
_ONE = _TRANSACTION + " WHERE t.kiosk_id = %(kiosk)s AND t.payment_id = %(payment)s"

_LISTS = {
    "alarms": "SELECT a.*, k.name AS kiosk_name FROM alarms a LEFT JOIN kiosks k USING (kiosk_id) "
    "WHERE (%(kiosk)s::uuid IS NULL OR a.kiosk_id = %(kiosk)s) AND (%(all)s OR a.acknowledged_at IS NULL) "
    "ORDER BY a.acknowledged_at IS NOT NULL, a.last_at DESC LIMIT %(limit)s",
    "doubts": "SELECT d.*, k.name AS kiosk_name FROM doubts d LEFT JOIN kiosks k USING (kiosk_id) "
    "WHERE (%(kiosk)s::uuid IS NULL OR d.kiosk_id = %(kiosk)s) AND (%(all)s OR d.outcome IS NULL) "
    "ORDER BY d.outcome IS NOT NULL, d.opened_us DESC NULLS LAST LIMIT %(limit)s",
    "claims": "SELECT c.*, k.name AS kiosk_name FROM claims c LEFT JOIN kiosks k USING (kiosk_id) "
    "WHERE (%(kiosk)s::uuid IS NULL OR c.kiosk_id = %(kiosk)s) AND (%(all)s OR TRUE) "
    "ORDER BY c.issued_us DESC LIMIT %(limit)s",
    "blobs": "SELECT b.*, k.name AS kiosk_name FROM blobs b LEFT JOIN kiosks k USING (kiosk_id) "
    "WHERE (%(kiosk)s::uuid IS NULL OR b.kiosk_id = %(kiosk)s) AND (%(all)s OR TRUE) "
    "ORDER BY b.captured_us DESC LIMIT %(limit)s",
    "journals": "SELECT j.* FROM journals j WHERE j.kiosk_id = %(kiosk)s AND (%(all)s OR TRUE) "
    "ORDER BY j.opened_at DESC LIMIT %(limit)s",
    "devices": "SELECT v.* FROM device_health v WHERE v.kiosk_id = %(kiosk)s AND (%(all)s OR TRUE) "
    "ORDER BY v.device LIMIT %(limit)s",
    "parked": "SELECT p.* FROM parked_events p WHERE p.kiosk_id = %(kiosk)s AND (%(all)s OR TRUE) "
    "ORDER BY p.parked_at DESC LIMIT %(limit)s",
}


async def _rows(connection: Connection, sql: str, parameters: Any) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql.encode(), parameters)
        return await cursor.fetchall()


async def kiosks(connection: Connection, ttl_s: float, kiosk_id: UUID | None = None) -> list[Row]:
    return await _rows(connection, _KIOSKS, {"ttl": ttl_s, "kiosk": kiosk_id})


async def transactions(
    connection: Connection,
    *,
    kiosk_id: UUID | None = None,
    state: str = "",
    text: str = "",
    before_us: int | None = None,
    after_id: str | None = None,
    limit: int = PAGE_ROWS,
) -> list[Row]:
    """Newest first, each with its `notes`; `text` is a payment's id or part of a reference. The page behind another
    one begins after its last payment: `before_us` is that one's time, `after_id` its id."""
    parameters: Row = {
        "kiosk": kiosk_id,
        "state": state.replace("\x00", ""),
        "text": text.replace("\x00", ""),
        "before": before_us,
    }
    parameters["after"] = None if after_id is None else after_id.replace("\x00", "")
    found = await _rows(connection, _TRANSACTIONS, {**parameters, "limit": min(limit, PAGE_ROWS_MAX)})
    return await _with_notes(connection, found)


async def transaction(connection: Connection, kiosk_id: UUID, payment_id: str) -> Row | None:
    found = await _rows(connection, _ONE, {"kiosk": kiosk_id, "payment": payment_id.replace("\x00", "")})
    return (await _with_notes(connection, found))[0] if found else None


async def changed(connection: Connection, seconds: float, kiosk_id: UUID | None = None) -> list[Row]:
    """Transactions that changed within the last `seconds`, oldest change first."""
    found = await _rows(connection, _CHANGED, {"seconds": seconds, "kiosk": kiosk_id, "limit": PAGE_ROWS_MAX})
    return await _with_notes(connection, found)


async def listing(
    connection: Connection, name: str, *, kiosk_id: UUID | None = None, everything: bool = False, limit: int = PAGE_ROWS
) -> list[Row]:
    """One of the simple lists: what is open, or (`everything`) all of it."""
    return await _rows(connection, _LISTS[name], {"kiosk": kiosk_id, "all": everything, "limit": limit})


async def _with_notes(connection: Connection, found: list[Row]) -> list[Row]:
    keys = [row["kiosk_id"] for row in found], [row["payment_id"] for row in found]
    by_payment: dict[tuple[UUID, str], list[Row]] = {pair: [] for pair in zip(*keys, strict=True)}
    for note in await _rows(connection, _NOTES, keys) if found else []:
        by_payment[note["kiosk_id"], note["payment_id"]].append(note)
    return [{**row, "notes": by_payment[row["kiosk_id"], row["payment_id"]]} for row in found]


def moment(us: int | None) -> datetime | None:
    """A kiosk's time as a moment; None when its clock said something that is none."""
    try:
        return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return None
