"""Stop five of the road: a signed batch becomes rows, watermark and office tables in one Postgres transaction.

Token and size are checked before (`kiosk_api`). Then: signature, unpack, chain; the kiosk's row is locked, one hash
compared on overlap, what is new written with one COPY, tables changed set-wise, watermark moved, commit. A batch may
come any number of times, from several processes at once, and with its answer lost: rows are written once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from loguru import logger

from agent.domain.chain import JournalRow, genesis_hash
from sync.central import journals
from sync.central.alarms import raise_alarms
from sync.central.database import Connection, Pool, attempt
from sync.central.digest import Changes, Parked, digest
from sync.central.journals import State
from sync.central.problems import Alarm, Mark, Refused
from sync.central.projections import write
from sync.envelope import (
    SIGNATURE_CONTEXT,
    Batch,
    BatchTooLarge,
    IngestAnswer,
    MalformedBatch,
    Refusal,
    chained,
    unpack,
    wire_row,
)

KEYS_MAX = 100_000  # public keys kept per process, 32 bytes each
THREAD_ROWS_MIN = 100
THREAD_BYTES_MIN = 8 << 10  # smaller batches are read faster than a thread is reached
_DATA_ERRORS = (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.InternalError)

_LOCK = "SELECT public_key, revoked_at FROM kiosks WHERE kiosk_id = %s FOR UPDATE"
_COPY = (
    "COPY events (kiosk_id, journal_id, seq, id, type, schema_number, occurred_us, boot_id, monotonic_us, trace_id, "
    "actor, subject, body, hash, wire) FROM STDIN (FORMAT BINARY)"
)
_COPY_TYPES = ("uuid", "uuid", "int8", "uuid", "text", "int4", "int8", "uuid", "int8", *["text"] * 3, *["bytea"] * 3)
_MOVE = "UPDATE journals SET seq = %s, hash = %s, updated_at = now() WHERE kiosk_id = %s AND journal_id = %s"
_PARK = """
INSERT INTO parked_events (kiosk_id, journal_id, seq, type, reason)
SELECT %s, %s, * FROM unnest(%s::bigint[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING"""


@dataclass(frozen=True, slots=True)
class _Work:
    """A batch that is proven to be the kiosk's and whole in itself."""

    kiosk_id: UUID
    journal_id: UUID
    rows: list[JournalRow]
    public_key: bytes
    careful: bool = False  # one savepoint a row, after Postgres has refused something of the whole


class Ingest:
    """One per process, any number of processes. `changed(kiosk_id)` is called after each commit that brought rows."""

    def __init__(self, pool: Pool, changed: Callable[[UUID], None]) -> None:
        self._pool = pool
        self._changed = changed
        self._keys: dict[UUID, bytes] = {}

    async def accept(self, kiosk_id: UUID, body: bytes, signature: bytes) -> IngestAnswer:
        """Raises `Refused` (after its alarm is committed), or one of `database.UNAVAILABLE`."""
        try:
            key = await self._verified(kiosk_id, body, signature)
            work = await self._read(kiosk_id, key, body)
            try:
                mark, accepted = await attempt(self._pool, lambda connection: self._commit(connection, work))
            except _DATA_ERRORS as error:
                logger.warning("a batch of kiosk {} is taken row by row: {}", kiosk_id, error)
                careful = replace(work, careful=True)
                mark, accepted = await attempt(self._pool, lambda connection: self._commit(connection, careful))
        except Refused as refusal:
            await self._refused(kiosk_id, refusal)
            raise
        if accepted:
            self._changed(kiosk_id)
        return IngestAnswer(mark.wire(), accepted)

    async def _verified(self, kiosk_id: UUID, body: bytes, signature: bytes) -> bytes:
        """The kiosk's public key, with which `signature` is right."""
        known = self._keys.get(kiosk_id)
        if known is not None and is_signed(known, body, signature):
            return known
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT public_key FROM kiosks WHERE kiosk_id = %s", (kiosk_id,))
            row = await cursor.fetchone()
        if row is None:
            raise unknown(kiosk_id)
        if not is_signed(row[0], body, signature):
            raise _wrong_signature("the batch is not signed with this kiosk's key")
        if len(self._keys) >= KEYS_MAX:
            self._keys.clear()
        self._keys[kiosk_id] = row[0]
        return bytes(row[0])

    async def _read(self, kiosk_id: UUID, key: bytes, body: bytes) -> _Work:
        read = asyncio.to_thread(read_batch, body) if len(body) > THREAD_BYTES_MIN else None
        batch, rows = read_batch(body) if read is None else await read
        if batch.kiosk_id != str(kiosk_id):
            raise _wrong_signature("the batch names another kiosk than the token does")
        return _Work(kiosk_id, UUID(bytes=batch.journal_id), rows, key)

    async def _commit(self, connection: Connection, work: _Work) -> tuple[Mark, int]:
        state = await self._locked(connection, work)
        alarms: list[Alarm] = []
        if state is None:
            state, alarms = await journals.open_journal(connection, work.kiosk_id, work.journal_id, work.rows[0])
        if work.rows[-1].seq < state.mark.seq:
            await self._compare_known(connection, work, state)
            return state.mark, 0
        rows = journals.new_rows(state, work.rows)
        if not rows:
            return state.mark, 0
        await self._write(connection, work, rows, alarms)
        return Mark(work.journal_id, rows[-1].seq, rows[-1].hash), len(rows)

    async def _locked(self, connection: Connection, work: _Work) -> State | None:
        """Behind the lock: is it (still) this kiosk's key, and where does the journal stand? One round trip."""
        async with connection.pipeline():
            kiosk = await connection.execute(_LOCK, (work.kiosk_id,))
            journal = await connection.execute(journals.FIND, (work.kiosk_id, work.journal_id))
        row = await kiosk.fetchone()
        if row is None:
            raise unknown(work.kiosk_id)
        if row[1] is not None:
            raise revoked()
        if row[0] != work.public_key:
            self._keys.pop(work.kiosk_id, None)
            raise _wrong_signature("the kiosk has another key since a moment ago")
        return journals.found(work.journal_id, await journal.fetchone())

    async def _compare_known(self, connection: Connection, work: _Work, state: State) -> None:
        last = work.rows[-1]
        if await journals.hash_at(connection, work.kiosk_id, work.journal_id, last.seq) != last.hash:
            raise journals.fork(state.mark, last.seq)

    async def _write(self, connection: Connection, work: _Work, rows: list[JournalRow], alarms: list[Alarm]) -> None:
        """COPY, then everything else and the COMMIT in one round trip."""
        async with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_COPY_TYPES)
            for row in rows:
                await copy.write_row((work.kiosk_id, work.journal_id, *_columns(row)))
        if work.careful:
            changes, parked = Changes(), await self._write_one_by_one(connection, work, rows)
        else:
            many = len(rows) > THREAD_ROWS_MIN
            reading = asyncio.to_thread(digest, work.kiosk_id, work.journal_id, rows) if many else None
            changes, parked = digest(work.kiosk_id, work.journal_id, rows) if reading is None else await reading
        async with connection.pipeline():
            await write(connection, work.kiosk_id, changes)
            await connection.execute(_MOVE, (rows[-1].seq, rows[-1].hash, work.kiosk_id, work.journal_id))
            if parked:
                alarms = [*alarms, *await _park(connection, work, parked)]
            if alarms:
                await raise_alarms(connection, work.kiosk_id, alarms)
            await connection.commit()

    async def _write_one_by_one(self, connection: Connection, work: _Work, rows: list[JournalRow]) -> list[Parked]:
        """The slow road, behind a row that `digest` let through and Postgres did not: only that one is parked."""
        parked: list[Parked] = []
        for row in rows:
            changes, unread = digest(work.kiosk_id, work.journal_id, [row])
            parked += unread
            try:
                async with connection.transaction():
                    await write(connection, work.kiosk_id, changes)
            except _DATA_ERRORS as error:
                parked.append(Parked(row.seq, row.type, str(error).partition("\n")[0]))
        return parked

    async def _refused(self, kiosk_id: UUID, refusal: Refused) -> None:
        """The transaction is gone; its alarm stays."""
        logger.warning("kiosk {}: {}: {}", kiosk_id, refusal.refusal, refusal.message)
        alarm = refusal.alarm
        if alarm is not None:
            async with self._pool.connection() as connection:
                await raise_alarms(connection, kiosk_id, [alarm])
            self._changed(kiosk_id)


def _columns(row: JournalRow) -> tuple[Any, ...]:
    texts = (row.type, row.trace_id, row.actor, row.subject)
    exact = None
    if any("\x00" in text for text in texts):
        exact = msgspec.msgpack.encode(wire_row(row))
        texts = tuple(text.replace("\x00", "\N{SYMBOL FOR NULL}") for text in texts)  # type: ignore[assignment]
    kind, trace_id, actor, subject = texts
    head = (row.seq, row.id, kind, row.schema, row.occurred_at, row.boot_id, row.monotonic_us)
    return (*head, trace_id, actor, subject, row.body, row.hash, exact)


async def _park(connection: Connection, work: _Work, parked: Sequence[Parked]) -> list[Alarm]:
    columns = [list(column) for column in zip(*((each.seq, each.type, each.reason) for each in parked), strict=True)]
    await connection.execute(_PARK, (work.kiosk_id, work.journal_id, *columns))
    return [
        Alarm(
            "event_parked",
            each.type[:200],
            f"row {each.seq} ({each.type}) is stored but not understood: {each.reason}",
            {"journal_id": str(work.journal_id), "seq": each.seq, "type": each.type},
        )
        for each in parked
    ]


def is_signed(public_key: bytes, body: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, SIGNATURE_CONTEXT + body)
    except InvalidSignature:
        return False
    return True


def read_batch(body: bytes) -> tuple[Batch, list[JournalRow]]:
    """Raises `Refused`: too large, malformed, or a chain that does not hold."""
    try:
        batch = unpack(body)
    except (BatchTooLarge, MalformedBatch) as error:
        raise Refused(Refusal(error.code), error.message) from error
    try:
        rows = chained(batch)
    except MalformedBatch as error:
        if error.details.get("reason") == Refusal.CHAIN_BROKEN:
            raise _chain_broken(error.message, batch) from error
        raise Refused(Refusal.MALFORMED_BATCH, error.message) from error
    if rows[0].seq == 1 and rows[0].prev_hash != genesis_hash(UUID(bytes=batch.journal_id)):
        raise _chain_broken("row 1 does not follow the journal's genesis hash", batch)
    return batch, rows


def _chain_broken(text: str, batch: Batch) -> Refused:
    journal_id, first = str(UUID(bytes=batch.journal_id)), batch.rows[0].seq
    facts = {"journal_id": journal_id, "from_seq": first, "to_seq": batch.rows[-1].seq}
    return Refused(
        Refusal.CHAIN_BROKEN, text, alarm=Alarm("chain_broken", journal_id, text, facts, severity="critical")
    )


def _wrong_signature(text: str) -> Refused:
    return Refused(Refusal.WRONG_SIGNATURE, text, alarm=Alarm("wrong_signature", "", text, {}, severity="critical"))


def unknown(kiosk_id: UUID) -> Refused:
    return Refused(Refusal.UNKNOWN_KIOSK, f"no kiosk {kiosk_id} is enrolled here")


def revoked() -> Refused:
    return Refused(Refusal.KIOSK_REVOKED, "this kiosk's identity was revoked by the office")
