"""The journal row and its SHA-256 chain. The bytes hashed here are the bytes stored at both ends.

Hash input, version 1: the byte 01, then each field as a 4-byte big-endian length and its bytes, in this order:
seq (8 bytes), id (16), type, schema (4), occurred_at (8, signed), boot_id (16), monotonic_us (8), trace_id, actor,
subject, body, prev_hash (32). Integers are big-endian, texts UTF-8, the body its exact bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from uuid import UUID

CHAIN_VERSION = 1
HASH_BYTES = 32
_HEAD = struct.Struct(">BIQI16s")
_MIDDLE = struct.Struct(">IIIqI16sIQ")
_LENGTH = struct.Struct(">I")
_TEXTS_KEPT = 512  # types, actors and subjects come again and again; hashing is on the writer thread's path


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One immutable fact. `occurred_at` is µs since 1970 UTC as the kiosk's clock had it; `monotonic_us` orders rows
    of one `boot_id` truly. `prev_hash` and `hash` are 32 bytes."""

    seq: int
    id: UUID
    type: str
    schema: int
    occurred_at: int
    boot_id: UUID
    monotonic_us: int
    trace_id: str
    actor: str
    subject: str
    body: bytes
    prev_hash: bytes
    hash: bytes


def genesis_hash(journal_id: UUID) -> bytes:
    """What the first row of a journal names as its predecessor: SHA-256 of the 16 bytes of its id."""
    return sha256(journal_id.bytes).digest()


def row_hash(
    *,
    seq: int,
    id: UUID,
    type: str,
    schema: int,
    occurred_at: int,
    boot_id: UUID,
    monotonic_us: int,
    trace_id: str,
    actor: str,
    subject: str,
    body: bytes,
    prev_hash: bytes,
) -> bytes:
    """SHA-256 over the fields as the module docstring lays them out. Raises `struct.error` on a number out of range."""
    parts = (
        _HEAD.pack(CHAIN_VERSION, 8, seq, 16, id.bytes),
        _text(type),
        _MIDDLE.pack(4, schema, 8, occurred_at, 16, boot_id.bytes, 8, monotonic_us),
        _text(trace_id),
        _text(actor),
        _text(subject),
        _LENGTH.pack(len(body)),
        body,
        _LENGTH.pack(len(prev_hash)),
        prev_hash,
    )
    return sha256(b"".join(parts)).digest()


@lru_cache(_TEXTS_KEPT)
def _text(text: str) -> bytes:
    """Length and bytes of a text field."""
    raw = text.encode()
    return _LENGTH.pack(len(raw)) + raw


def rehash(row: JournalRow) -> bytes:
    """The hash that `row` ought to carry, computed from its other fields."""
    return row_hash(
        seq=row.seq,
        id=row.id,
        type=row.type,
        schema=row.schema,
        occurred_at=row.occurred_at,
        boot_id=row.boot_id,
        monotonic_us=row.monotonic_us,
        trace_id=row.trace_id,
        actor=row.actor,
        subject=row.subject,
        body=row.body,
        prev_hash=row.prev_hash,
    )


def first_break(rows: list[JournalRow], seq: int, prev_hash: bytes) -> tuple[int, str] | None:
    """Check that `rows` continue the chain after (`seq`, `prev_hash`).

    Returns None when they do, else (seq expected there, reason): `gap` (seq does not follow), `broken_link`
    (prev_hash is not its predecessor's hash) or `wrong_hash` (the row's bytes do not give its hash).
    """
    for row in rows:
        seq += 1
        if row.seq != seq:
            return seq, "gap"
        if row.prev_hash != prev_hash:
            return seq, "broken_link"
        if rehash(row) != row.hash:
            return seq, "wrong_hash"
        prev_hash = row.hash
    return None
