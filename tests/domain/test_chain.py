"""The chain: the hash input as documented, byte for byte, and every change of a row is found."""

from __future__ import annotations

import struct
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.domain.chain import JournalRow, first_break, genesis_hash, rehash
from tests.domain.strategies import TEXTS

JOURNAL = UUID("018f0000-0000-7000-8000-000000000001")
U64 = st.integers(0, 2**64 - 1)

ROWS = st.builds(
    JournalRow,
    seq=st.integers(0, 2**63),
    id=st.uuids(),
    type=TEXTS,
    schema=st.integers(0, 2**32 - 1),
    occurred_at=st.integers(-(2**63), 2**63 - 1),
    boot_id=st.uuids(),
    monotonic_us=U64,
    trace_id=TEXTS,
    actor=TEXTS,
    subject=TEXTS,
    body=st.binary(max_size=64),
    prev_hash=st.binary(min_size=32, max_size=32),
    hash=st.just(b""),
)


def as_documented(row: JournalRow) -> bytes:
    """The module's docstring, written again without looking at its code."""
    fields = [
        row.seq.to_bytes(8, "big"),
        row.id.bytes,
        row.type.encode(),
        row.schema.to_bytes(4, "big"),
        struct.pack(">q", row.occurred_at),
        row.boot_id.bytes,
        row.monotonic_us.to_bytes(8, "big"),
        row.trace_id.encode(),
        row.actor.encode(),
        row.subject.encode(),
        row.body,
        row.prev_hash,
    ]
    return b"\x01" + b"".join(len(field).to_bytes(4, "big") + field for field in fields)


@given(ROWS)
def test_the_hash_is_over_the_documented_bytes(row: JournalRow) -> None:
    assert rehash(row) == sha256(as_documented(row)).digest()


def test_a_golden_row() -> None:
    """Computed once from the documented layout with a script of its own: the format must never drift."""
    row = JournalRow(
        seq=1,
        id=UUID(int=2),
        type="t",
        schema=1,
        occurred_at=-1,
        boot_id=UUID(int=3),
        monotonic_us=4,
        trace_id="",
        actor="a",
        subject="s",
        body=b"{}",
        prev_hash=bytes(32),
        hash=b"",
    )
    assert rehash(row).hex() == "0ed4c255603f6f76d3b5565c5a0e06166fd486fc69d83299060b114927395932"


def chain(length: int) -> list[JournalRow]:
    rows: list[JournalRow] = []
    previous = genesis_hash(JOURNAL)
    for seq in range(1, length + 1):
        row = JournalRow(seq, UUID(int=seq), "t", 1, seq, JOURNAL, seq, "", "a", "s", b"{}", previous, b"")
        rows.append(replace(row, hash=rehash(row)))
        previous = rows[-1].hash
    return rows


def test_genesis_is_the_hash_of_the_journals_id() -> None:
    assert genesis_hash(JOURNAL) == sha256(JOURNAL.bytes).digest()


def test_an_untouched_chain_has_no_break_wherever_one_begins() -> None:
    rows = chain(6)
    assert first_break(rows, 0, genesis_hash(JOURNAL)) is None
    assert first_break(rows[3:], 3, rows[2].hash) is None
    assert first_break([], 6, rows[-1].hash) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": UUID(int=99)},
        {"type": "u"},
        {"schema": 2},
        {"occurred_at": 0},
        {"boot_id": UUID(int=5)},
        {"monotonic_us": 0},
        {"trace_id": "x"},
        {"actor": "b"},
        {"subject": "t"},
        {"body": b"{ }"},
        {"hash": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_changed_field_breaks_the_chain_at_its_row(change: dict[str, object]) -> None:
    rows = chain(5)
    rows[2] = replace(rows[2], **change)  # type: ignore[arg-type]
    assert first_break(rows, 0, genesis_hash(JOURNAL)) == (3, "wrong_hash")


def test_a_missing_a_foreign_and_a_moved_row_are_told_apart() -> None:
    rows = chain(5)
    assert first_break(rows[:2] + rows[3:], 0, genesis_hash(JOURNAL)) == (3, "gap")
    assert first_break(rows, 0, bytes(32)) == (1, "broken_link")
    forged = replace(rows[3], prev_hash=bytes(32))
    assert first_break([*rows[:3], replace(forged, hash=rehash(forged))], 0, genesis_hash(JOURNAL)) == (
        4,
        "broken_link",
    )
    assert first_break([rows[0], *rows], 0, genesis_hash(JOURNAL)) == (2, "gap")
