"""Writes a batch's `Changes` set-wise: one statement a table, in the transaction that holds the watermark lock.

Every statement is a no-op for what is already there, so the same facts may come again (after a fork, or when parked
rows are tried anew) and nothing is counted twice. Sums are always recomputed from the rows they are sums of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from typing import Any
from uuid import UUID

from sync.central.alarms import raise_alarms
from sync.central.database import Connection
from sync.central.digest import Changes

_PAYMENT_COLUMNS = (
    "payment_id text, amount_minor bigint, currency text, reference text, created_us bigint, deadline_us bigint, "
    "finished_us bigint, paid_minor bigint, state text, rank smallint, reason text"
)
_NOTE_COLUMNS = (
    "note_id text, payment_id text, device text, note_code bigint, value_minor bigint, currency text, "
    "journal_id uuid, stacked_seq bigint, stacked_us bigint"
)
_CLAIM_COLUMNS = (
    "claim_id text, code text, payment_id text, amount_minor bigint, currency text, reason text, issued_us bigint"
)
_DOUBT_COLUMNS = (
    "doubt_id text, device text, payment_id text, amount_minor bigint, currency text, reason text, evidence text, "
    "opened_us bigint"
)
_RESOLUTION_COLUMNS = (
    "doubt_id text, device text, payment_id text, amount_minor bigint, currency text, outcome text, "
    "found_minor bigint, found_currency text, resolution text, resolved_by text, resolved_us bigint"
)
_CAPTURED_COLUMNS = "blob_id text, kind text, sha256 bytea, size_bytes bigint, object_key text, captured_us bigint"
_UPLOADED_COLUMNS = "blob_id text, sha256 bytea, size_bytes bigint, object_key text"
_DISCARDED_COLUMNS = "blob_id text, last_error text"
_DEVICE_COLUMNS = (
    "device text, state text, fault text, detail text, protocol text, model text, serial text, firmware text, "
    "since_us bigint"
)


def _source(columns: str) -> str:
    """`unnest(…) AS n (…)`: the batch's values as rows, by array parameters named after the columns."""
    pairs = [column.split() for column in columns.split(", ")]
    arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in pairs)
    return f"unnest({arrays}) AS n ({', '.join(name for name, _ in pairs)})"


def _insert(table: str, columns: str, conflict: str, select: str | None = None) -> str:
    names = ", ".join(column.split()[0] for column in columns.split(", "))
    chosen = select or ", ".join(f"n.{name}" for name in names.split(", "))
    source = _source(columns)  # every part is a constant of this file; values travel as parameters
    return f"INSERT INTO {table} (kiosk_id, {names}) SELECT %(kiosk)s, {chosen} FROM {source} {conflict}"  # noqa: S608


PAYMENTS = _insert(
    "transactions AS t",
    _PAYMENT_COLUMNS,
    """ON CONFLICT (kiosk_id, payment_id) DO UPDATE SET
    amount_minor = coalesce(t.amount_minor, excluded.amount_minor), currency = coalesce(t.currency, excluded.currency),
    reference = CASE WHEN t.amount_minor IS NULL THEN excluded.reference ELSE t.reference END,
    created_us = coalesce(t.created_us, excluded.created_us),
    deadline_us = greatest(t.deadline_us, excluded.deadline_us),
    state = CASE WHEN excluded.rank > t.rank THEN excluded.state ELSE t.state END,
    reason = CASE WHEN excluded.rank > t.rank THEN excluded.reason ELSE t.reason END,
    finished_us = CASE WHEN excluded.rank > t.rank THEN excluded.finished_us ELSE t.finished_us END,
    paid_minor = CASE WHEN excluded.rank > t.rank THEN excluded.paid_minor ELSE t.paid_minor END,
    rank = greatest(t.rank, excluded.rank)""",
    "n.payment_id, n.amount_minor, n.currency, coalesce(n.reference, ''), n.created_us, n.deadline_us, n.finished_us, "
    "n.paid_minor, n.state, n.rank, n.reason",
)
NOTES = _insert("transaction_notes", _NOTE_COLUMNS, "ON CONFLICT (kiosk_id, note_id) DO NOTHING")
CLAIMS = _insert("claims", _CLAIM_COLUMNS, "ON CONFLICT (kiosk_id, claim_id) DO NOTHING")
DOUBTS = _insert(
    "doubts AS t",
    _DOUBT_COLUMNS,
    """ON CONFLICT (kiosk_id, doubt_id) DO UPDATE SET evidence = excluded.evidence, opened_us = excluded.opened_us,
    reason = excluded.reason WHERE t.opened_us IS NULL""",
)
RESOLUTIONS = _insert(
    "doubts AS t",
    _RESOLUTION_COLUMNS,
    """ON CONFLICT (kiosk_id, doubt_id) DO UPDATE SET outcome = excluded.outcome, found_minor = excluded.found_minor,
    found_currency = excluded.found_currency, resolution = excluded.resolution, resolved_by = excluded.resolved_by,
    resolved_us = excluded.resolved_us WHERE t.outcome IS NULL""",
)
CAPTURED = _insert("blobs", _CAPTURED_COLUMNS, "ON CONFLICT (kiosk_id, blob_id) DO NOTHING")
UPLOADED = """
UPDATE blobs AS t SET
    state = CASE WHEN n.sha256 = t.sha256 AND n.size_bytes = t.size_bytes AND n.object_key = t.object_key
                 THEN 'pending' ELSE 'mismatch' END,
    last_error = CASE WHEN n.sha256 = t.sha256 AND n.size_bytes = t.size_bytes AND n.object_key = t.object_key
                 THEN '' ELSE 'the blob.stored row names another object than the blob.captured row' END,
    attempts = 0, next_try_at = now(), lease_until = NULL
FROM {source}
WHERE t.kiosk_id = %(kiosk)s AND t.blob_id = n.blob_id AND t.state IN ('captured', 'mismatch')
""".replace("{source}", _source(_UPLOADED_COLUMNS))
DISCARDED = """
UPDATE blobs AS t SET state = 'discarded', last_error = n.last_error, next_try_at = NULL, lease_until = NULL
FROM {source}
WHERE t.kiosk_id = %(kiosk)s AND t.blob_id = n.blob_id AND t.state IN ('captured', 'mismatch')
""".replace("{source}", _source(_DISCARDED_COLUMNS))
DEVICES = _insert(
    "device_health AS t",
    _DEVICE_COLUMNS,
    """ON CONFLICT (kiosk_id, device) DO UPDATE SET state = coalesce(excluded.state, t.state),
    fault = excluded.fault, detail = excluded.detail, since_us = excluded.since_us,
    protocol = coalesce(nullif(excluded.protocol, ''), t.protocol),
    model = coalesce(nullif(excluded.model, ''), t.model),
    serial = coalesce(nullif(excluded.serial, ''), t.serial),
    firmware = coalesce(nullif(excluded.firmware, ''), t.firmware)""",
    "n.device, n.state, n.fault, n.detail, coalesce(n.protocol, ''), coalesce(n.model, ''), coalesce(n.serial, ''), "
    "coalesce(n.firmware, ''), n.since_us",
)
TOTALS = """
UPDATE transactions AS t SET
    collected_minor =
        coalesce((SELECT sum(n.value_minor) FROM transaction_notes n WHERE n.kiosk_id = t.kiosk_id
                  AND n.payment_id = t.payment_id AND n.currency = t.currency), 0)
      + coalesce((SELECT sum(d.found_minor) FROM doubts d WHERE d.kiosk_id = t.kiosk_id
                  AND d.payment_id = t.payment_id AND d.outcome IN ('stacked', 'explained')
                  AND d.found_currency = t.currency), 0),
    claimed_minor = coalesce((SELECT sum(c.amount_minor) FROM claims c WHERE c.kiosk_id = t.kiosk_id
                  AND c.payment_id = t.payment_id AND c.currency = t.currency), 0),
    in_doubt_minor = coalesce((SELECT sum(d.amount_minor) FROM doubts d WHERE d.kiosk_id = t.kiosk_id
                  AND d.payment_id = t.payment_id AND d.outcome IS NULL AND d.currency = t.currency), 0),
    changed_at = clock_timestamp(), version = t.version + 1
WHERE t.kiosk_id = %(kiosk)s AND t.payment_id = ANY(%(touched)s::text[])"""


def _arrays(columns: str, rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    names = [column.split()[0] for column in columns.split(", ")]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _keyed(values: Mapping[str, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(key, *rest) for key, rest in sorted(values.items())]


def statements(kiosk_id: UUID, changes: Changes) -> Iterator[tuple[str, dict[str, Any]]]:
    """(SQL, parameters) in an order in which each finds what it builds on; nothing for tables without changes."""
    payments = {key: astuple(change) for key, change in changes.payments.items()}
    for sql, columns, values in (
        (PAYMENTS, _PAYMENT_COLUMNS, payments),
        (NOTES, _NOTE_COLUMNS, changes.notes),
        (CLAIMS, _CLAIM_COLUMNS, changes.claims),
        (DOUBTS, _DOUBT_COLUMNS, changes.doubts),
        (RESOLUTIONS, _RESOLUTION_COLUMNS, changes.resolutions),
        (CAPTURED, _CAPTURED_COLUMNS, changes.captured),
        (UPLOADED, _UPLOADED_COLUMNS, changes.uploaded),
        (DISCARDED, _DISCARDED_COLUMNS, changes.discarded),
        (DEVICES, _DEVICE_COLUMNS, changes.devices),
    ):
        if values:
            yield sql, {"kiosk": kiosk_id, **_arrays(columns, _keyed(values))}
    if payments:
        yield TOTALS, {"kiosk": kiosk_id, "touched": sorted(payments)}


async def write(connection: Connection, kiosk_id: UUID, changes: Changes) -> None:
    """Raises `psycopg.DataError` and its like only for values that `digest` ought to have refused."""
    for sql, parameters in statements(kiosk_id, changes):
        await connection.execute(sql.encode(), parameters)
    if changes.alarms:
        await raise_alarms(connection, kiosk_id, changes.alarms, once=True)
