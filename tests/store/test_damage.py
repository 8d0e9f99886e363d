"""Acknowledged bytes that were cut or changed afterwards are found and named, by verify and at the next start."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.domain.errors import StoreError
from agent.domain.money import Money
from agent.store.connection import FILE_NAME, connect_writer, query
from agent.store.errors import JournalDamaged, StorageFailed
from agent.store.inspect import inspecting
from agent.store.reader import reading
from agent.store.verify import Verdict, verify
from agent.store.witness import NAME as WITNESS
from agent.store.witness import Seen, Witness, read_witness
from tests.store.helpers import open_now
from tests.store.projections import TakingsProjection

NOTES = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store with a few hundred facts, all of them in the main file."""
    place = tmp_path / "state"
    store = open_now(place, [TakingsProjection()])
    value = Money(500, "EUR")
    for number in range(NOTES):
        note = f"note-{number}"
        events = [
            ev.NoteEscrowed(device="v", note_id=note, value=value, note_code=3),
            ev.NoteStacked(device="v", note_id=note, value=value, note_code=3, payment_id="p"),
        ]
        store.transact_now(lambda tx, events=events: [tx.append(event) for event in events], actor="v")  # type: ignore[misc]
    store.close_now()
    return place


def judge(folder: Path) -> Verdict:
    with inspecting(folder) as connection, reading(connection) as reader:
        return verify(reader, read_witness(folder))


def tamper(folder: Path, sql: str) -> None:
    """As someone with the disk in hand would: with the triggers out of the way."""
    connection = connect_writer(folder / FILE_NAME)
    triggers = query(connection, "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
    for name, _ in triggers:
        query(connection, f"DROP TRIGGER {name}")
    query(connection, sql)
    for _, text in triggers:
        query(connection, text)
    connection.close()


def first(verdict: Verdict) -> tuple[int, str]:
    assert not verdict.sound
    return verdict.damages[0].seq, verdict.damages[0].reason


def test_an_untouched_journal_is_sound(folder: Path) -> None:
    verdict = judge(folder)
    assert (verdict.sound, verdict.rows, verdict.seq) == (True, 1 + 2 * NOTES, 1 + 2 * NOTES)


@pytest.mark.parametrize(
    ("sql", "seq", "reason"),
    [
        ("UPDATE journal SET body = CAST(replace(body, '500', '100') AS BLOB) WHERE seq = 10", 10, "wrong_hash"),
        ("UPDATE journal SET body = 'text' WHERE seq = 9", 9, "wrong_hash"),
        ("UPDATE journal SET actor = x'ff' WHERE seq = 9", 9, "wrong_hash"),
        ("UPDATE journal SET id = x'00' WHERE seq = 9", 0, "file_corrupt"),
        ("UPDATE journal SET occurred_at = occurred_at + 1 WHERE seq = 11", 11, "wrong_hash"),
        ("UPDATE journal SET hash = zeroblob(32) WHERE seq = 12", 12, "wrong_hash"),
        ("UPDATE journal SET prev_hash = zeroblob(32) WHERE seq = 13", 13, "broken_link"),
        ("DELETE FROM journal WHERE seq = 14", 14, "gap"),
        ("DELETE FROM journal WHERE seq > 30", 31, "rows_missing"),
        ("UPDATE journals SET journal_id = zeroblob(16)", 1, "broken_link"),
        ("UPDATE balances SET posted_minor = posted_minor + 1 WHERE account = 'customer'", 0, "ledger_differs"),
        ("UPDATE ledger_entries SET amount_minor = 1 WHERE seq = 5 AND n = 0", 5, "ledger_differs"),
        ("DELETE FROM open_records WHERE seq = 7", 7, "open_records_differ"),
        ("INSERT INTO ledger_pending VALUES ('t', 0, 1, 0, 'x', 'EUR', 1)", 0, "ledger_differs"),
    ],
)
def test_every_tampering_is_named_with_its_first_row(folder: Path, sql: str, seq: int, reason: str) -> None:
    tamper(folder, sql)
    assert first(judge(folder)) == (seq, reason)


def test_a_row_rewritten_with_a_right_hash_breaks_its_successor(folder: Path) -> None:
    """And the last row, which has none, is held by the witness."""
    from dataclasses import replace

    from agent.domain.chain import rehash

    for seq, expected in ((20, (21, "broken_link")), (1 + 2 * NOTES, (1 + 2 * NOTES, "row_changed"))):
        copy = folder.parent / f"copy-{seq}"
        shutil.copytree(folder, copy)
        with inspecting(copy) as connection, reading(connection) as reader:
            (row,) = reader.rows(seq - 1, 1)
        forged = replace(row, actor="nobody")
        tamper(copy, f"UPDATE journal SET actor = 'nobody', hash = x'{rehash(forged).hex()}' WHERE seq = {seq}")
        assert first(judge(copy)) == expected


def test_a_first_row_that_opens_something_else_is_found(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    store.fork_now(1)
    store.close_now()
    connection = connect_writer(tmp_path / FILE_NAME)
    query(connection, "UPDATE journals SET continued_seq = 0 WHERE epoch = 0")
    connection.close()
    assert first(judge(tmp_path)) == (1, "wrong_start")


def test_a_past_journal_that_ends_too_early_is_found(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="1")), actor="a")
    store.fork_now(2)
    store.close_now()
    tamper(tmp_path, "DELETE FROM journal_past WHERE seq = 2")
    assert first(judge(tmp_path)) == (2, "rows_missing")


def test_the_next_start_finds_a_cut_notes_it_and_goes_on(folder: Path) -> None:
    """The witness moves on with the new head, so the finding is kept in the file until a person has seen to it."""
    tamper(folder, "DELETE FROM journal WHERE seq > 30; DELETE FROM open_records WHERE seq > 30;")
    store = open_now(folder, [TakingsProjection()])
    store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="1")), actor="a")
    (damage,) = store.health().damages
    assert (damage.seq, damage.reason) == (31, "rows_missing")
    store.rebuild_now()
    store.close_now()
    store = open_now(folder, [TakingsProjection()])
    assert store.health().damages == (damage,)
    store.close_now()
    assert judge(folder).damages == (damage,)


def test_a_journal_that_was_replaced_by_a_fresh_one_is_found(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob(f"{FILE_NAME}*"):
        path.unlink()
    store = open_now(folder)
    (damage,) = store.health().damages
    assert damage.reason == "rows_missing"
    assert "was here and is gone" in damage.detail
    store.close_now()


def test_a_damaged_tail_stops_the_start(folder: Path) -> None:
    tamper(folder, "UPDATE journal SET actor = 'x' WHERE seq = 70")
    with pytest.raises(JournalDamaged, match="row 70") as caught:
        open_now(folder)
    assert caught.value.details == {"seq": 70, "reason": "wrong_hash"}


def test_an_emptied_journal_stops_the_start(folder: Path) -> None:
    tamper(folder, "DELETE FROM journal")
    with pytest.raises(JournalDamaged, match="rows_missing"):
        open_now(folder)


def test_only_the_tail_is_read_at_the_start(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    events = [ev.AgentStarted(version=str(number)) for number in range(400)]
    store.transact_now(lambda tx: [tx.append(event) for event in events], actor="a")
    store.close_now()
    open_now(tmp_path).close_now()
    tamper(tmp_path, "UPDATE journal SET actor = 'x' WHERE seq = 3")
    open_now(tmp_path).close_now()
    assert first(judge(tmp_path)) == (3, "wrong_hash")


def test_any_byte_of_the_file_cut_or_flipped_is_detected_or_changes_nothing(
    folder: Path, scale: Callable[[int, int], int]
) -> None:
    """Every region of the file: what verify calls sound still holds every acknowledged row, byte for byte."""
    pristine = (folder / FILE_NAME).read_bytes()
    wanted = contents(folder)
    chance = random.Random(5)
    step = max(1, len(pristine) // scale(250, 4_000))
    detected = 0
    for start in range(0, len(pristine), step):
        place = start + chance.randrange(min(step, len(pristine) - start))
        harmed = bytearray(pristine)
        harmed[place] ^= 1 << chance.randrange(8)
        detected += not unharmed(folder, bytes(harmed), wanted, f"bit in byte {place}")
    for cut in (1, 511, 4096, 4097, len(pristine) // 2, len(pristine) - 1):
        assert not unharmed(folder, pristine[:-cut], wanted, f"cut by {cut}")
    assert detected > 20


def contents(folder: Path) -> list[tuple[object, ...]]:
    with inspecting(folder) as connection:
        return query(connection, "SELECT * FROM journal")


def unharmed(folder: Path, data: bytes, wanted: list[tuple[object, ...]], what: str) -> bool:
    """True when verify is content; then nothing of the journal may have changed."""
    for name in (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        (folder / name).unlink(missing_ok=True)
    (folder / FILE_NAME).write_bytes(data)
    try:
        if not judge(folder).sound:
            return False
        assert contents(folder) == wanted, what
    except StoreError:
        return False
    return True


def test_the_log_cut_behind_acknowledged_rows_is_found_by_the_witness(tmp_path: Path) -> None:
    """Power loss with a disk that lied about its syncs: the file is whole in itself, only older."""
    place, older = tmp_path / "state", tmp_path / "older"
    store = open_now(place)
    store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="1")), actor="a")
    shutil.copytree(place, older)
    store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="2")), actor="a")
    store.close_now()
    shutil.copy(place / WITNESS, older / WITNESS)
    assert first(judge(older)) == (3, "rows_missing")
    assert judge(place).sound


def test_the_witness_survives_a_torn_write_of_itself(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    journal_id = store.journal_id
    store.close_now()
    witness = Witness(tmp_path)
    for seq in (1, 2, 3):
        witness.write(Seen(journal_id, seq, bytes([seq]) * 32))
    assert witness.seq == 3
    witness.close()
    assert read_witness(tmp_path) == Seen(journal_id, 3, b"\x03" * 32)
    raw = bytearray((tmp_path / WITNESS).read_bytes())
    newest = 0 if b", 3, " in bytes(raw[:512]) else 512
    raw[newest + 70] ^= 1
    (tmp_path / WITNESS).write_bytes(raw)
    assert read_witness(tmp_path) == Seen(journal_id, 2, b"\x02" * 32)
    (tmp_path / WITNESS).write_bytes(os.urandom(100))
    assert read_witness(tmp_path) is None
    (tmp_path / WITNESS).unlink()
    assert read_witness(tmp_path) is None


def test_a_file_that_cannot_be_read_at_all_is_a_verdict_or_a_clear_error(folder: Path) -> None:
    data = bytearray((folder / FILE_NAME).read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    (folder / FILE_NAME).write_bytes(data)
    assert judge(folder).damages[0].reason == "file_corrupt"
    with pytest.raises(StorageFailed):
        open_now(folder)
