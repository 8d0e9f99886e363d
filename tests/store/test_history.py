"""Rebuild, fork and verify agree with what was written step by step, for any history a kiosk could have."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.domain import events as ev
from agent.domain.events import Event
from agent.domain.money import Money
from agent.store.connection import query
from agent.store.fork import ForkRefused
from agent.store.journal import SqliteStore
from agent.store.rebuild import history
from agent.store.verify import verify
from agent.store.witness import read_witness
from tests.domain.strategies import DEVICES, note_histories
from tests.store.helpers import open_now, open_store
from tests.store.projections import TakingsProjection

DERIVED = ("ledger_entries", "ledger_pending", "balances", "open_records", "takings", "seen_notes")
FIVE = Money(500, "EUR")


def derived(store: SqliteStore) -> dict[str, list[tuple[Any, ...]]]:
    with store.read() as reader:
        return {table: sorted(query(reader.connection, f"SELECT * FROM {table}"), key=repr) for table in DERIVED}


def sound(store: SqliteStore) -> bool:
    with store.read() as reader:
        return verify(reader, read_witness(store.path.parent)).damages == ()


def append_all(store: SqliteStore, events: Sequence[Event]) -> None:
    for event in events:
        store.transact_now(lambda tx, event=event: tx.append(event), actor="a")  # type: ignore[misc]


def escrowed(note_id: str) -> ev.NoteEscrowed:
    return ev.NoteEscrowed(device="validator", note_id=note_id, value=FIVE, note_code=3)


@settings(max_examples=25)
@given(note_histories(), st.data())
def test_a_rebuild_gives_what_the_events_gave_one_by_one_also_over_forks(
    events: list[Event], data: st.DataObject
) -> None:
    """Users, keys and cursors stay; ledger and projections come out the same; machines find the same records."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_now(Path(folder), [TakingsProjection()])
        try:
            cut = data.draw(st.integers(0, len(events)), "events before the fork")
            append_all(store, events[:cut])
            store.transact_now(lambda tx: tx.execute("INSERT INTO cursors VALUES ('x', 0)"), actor="a")
            opened = [_open(store, device) for device in DEVICES]
            head = _head(store)
            common = data.draw(st.integers(0, head), "common seq")
            store.fork_now(common)
            assert [_open(store, device) for device in DEVICES] == opened
            append_all(store, events[cut:])
            assert sound(store)
            before = derived(store)
            assert store.rebuild_now() == head + 1 + len(events) - cut
            assert derived(store) == before
            assert sound(store)
        finally:
            store.close_now()


def _open(store: SqliteStore, device: str) -> list[Event]:
    with store.read() as reader:
        return reader.open_events(device)


def _head(store: SqliteStore) -> int:
    with store.read() as reader:
        return reader.head()[0]


async def test_a_fork_continues_in_a_new_journal_that_names_the_old(tmp_path: Path) -> None:
    async with open_store(tmp_path, [TakingsProjection()]) as store:
        old_id = store.journal_id
        rows = await store.record([escrowed(f"n{number}") for number in range(4)], actor="device:v", trace_id="t")
        await store.advance("cash_system", 4)
        new_id = await store.fork(3)
        assert (store.journal_id, new_id == old_id) == (new_id, False)
        with store.read() as reader:
            opened, *again = reader.rows(0, 10)
        assert opened.body == (
            b'{"previous_hash":"%s","previous_journal_id":"%s","previous_seq":3}'
            % (rows[1].hash.hex().encode(), str(old_id).encode())
        )
        assert [(row.seq, row.id, row.body, row.occurred_at) for row in again] == [
            (seq, row.id, row.body, row.occurred_at) for seq, row in enumerate(rows[2:], 2)
        ]
        assert all(row.actor == "device:v" and row.trace_id == "t" and row.boot_id == store.boot_id for row in again)
        assert await store.cursor("cash_system") == 2  # it had handled row 4, which is row 2 now
        assert sound(store)
        await store.record([escrowed("later")], actor="a")
    async with open_store(tmp_path, [TakingsProjection()]) as store:
        assert store.journal_id == new_id
        assert sound(store)
        with store.read() as reader:
            assert len(reader.open_events("validator")) == 5


async def test_a_cursor_at_the_common_point_begins_the_new_journal(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1"), escrowed("n2")], actor="a")
        await store.advance("bus", 2)
        await store.fork(2)
        assert await store.cursor("bus") == 0


async def test_a_fork_waits_for_handlers_and_knows_its_journal(tmp_path: Path) -> None:
    """Rows before the common point are not in the new journal: whoever has not handled them would never see them."""
    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1"), escrowed("n2")], actor="a")
        await store.advance("bus", 1)
        with pytest.raises(ForkRefused, match="bus"):
            await store.fork(2)
        with pytest.raises(ForkRefused, match="head is 3"):
            await store.fork(4)
        assert sound(store)
        await store.fork(1)


async def test_past_journals_cannot_be_changed_either(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.fork(1)
        for sql in ("UPDATE journal_past SET actor = 'x'", "DELETE FROM journal_past"):
            with pytest.raises(apsw.ConstraintError, match="append-only"):
                await store.transact(lambda tx, sql=sql: tx.execute(sql), actor="a")  # type: ignore[misc]


async def test_a_rebuild_mends_tables_and_leaves_users_keys_and_cursors(tmp_path: Path) -> None:
    async with open_store(tmp_path, [TakingsProjection()]) as store:
        stacked = ev.NoteStacked(device="validator", note_id="n1", value=FIVE, note_code=3, payment_id=None)
        await store.record([escrowed("n1"), stacked], actor="a")
        await store.advance("bus", 2)

        def spoil(tx: Any) -> None:
            tx.execute("UPDATE balances SET posted_minor = 7")
            tx.execute("DELETE FROM takings")
            tx.execute("DELETE FROM open_records")
            tx.execute("INSERT INTO idempotency_keys VALUES ('ui', '/x', 'k', x'00', 200, '{}')")

        await store.transact(spoil, actor="a")
        assert not sound(store)
        heard: list[tuple[int, int]] = []
        assert await store.rebuild(lambda done, total: heard.append((done, total))) == 3
        assert heard[-1] == (3, 3)
        assert sound(store)
        with store.read() as reader:
            assert reader.one("SELECT count, minor FROM takings") == {"count": 1, "minor": 500}
            assert reader.one("SELECT count(*) AS n FROM idempotency_keys") == {"n": 1}
        assert await store.cursor("bus") == 2


class Versioned(TakingsProjection):
    """Its second version counts in another table."""

    schema = TakingsProjection.schema + "CREATE TABLE IF NOT EXISTS extra (note_id TEXT);"
    tables: Sequence[str] = (*TakingsProjection.tables, "extra")

    def apply(self, tx: Any, row: Any, event: Event) -> None:
        super().apply(tx, row, event)
        tx.execute("INSERT INTO extra VALUES (?)", row.subject)


def _extras(store: SqliteStore) -> int:
    with store.read() as reader:
        row = reader.one("SELECT count(*) AS n FROM extra")
        return -1 if row is None else int(row["n"])


def test_a_changed_projection_is_rebuilt_at_the_next_start(tmp_path: Path) -> None:
    store = open_now(tmp_path, [TakingsProjection()])
    append_all(store, [escrowed("n1"), escrowed("n2")])
    store.close_now()
    store = open_now(tmp_path, [Versioned(version=2)])
    assert _extras(store) == 2
    assert len(derived(store)["seen_notes"]) == 2
    store.close_now()


def test_a_projection_that_was_away_catches_up_from_where_it_stood(tmp_path: Path) -> None:
    """A tool that opens the store without the modules must not cost the next start a rebuild."""
    store = open_now(tmp_path, [Versioned()])
    append_all(store, [escrowed("n1"), escrowed("n2")])
    store.close_now()
    for note_id in ("n3", "n4"):
        store = open_now(tmp_path)
        append_all(store, [escrowed(note_id)])
        store.close_now()
    heard: list[int] = []
    store = open_now(tmp_path, [Versioned()], progress=lambda done, _total: heard.append(done))
    assert heard == [2]
    assert _extras(store) == 4
    store.close_now()


def test_a_projection_that_was_away_over_a_fork_is_rebuilt(tmp_path: Path) -> None:
    store = open_now(tmp_path, [Versioned()])
    append_all(store, [escrowed("n1"), escrowed("n2")])
    store.close_now()
    store = open_now(tmp_path)
    store.fork_now(2)
    store.close_now()
    store = open_now(tmp_path, [Versioned()])
    assert _extras(store) == 2
    store.close_now()


def test_a_rebuild_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    class Broken(TakingsProjection):
        broken = False

        def apply(self, tx: Any, row: Any, event: Event) -> None:
            if self.broken:
                raise ZeroDivisionError
            super().apply(tx, row, event)

    projection = Broken()
    store = open_now(tmp_path, [projection])
    append_all(store, [escrowed("n1"), escrowed("n2")])
    before = derived(store)
    projection.broken = True
    with pytest.raises(ZeroDivisionError):
        store.rebuild_now()
    projection.broken = False
    assert derived(store) == before
    append_all(store, [escrowed("n3")])
    assert sound(store)
    store.close_now()


def test_history_skips_what_follows_again(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    append_all(store, [escrowed("n1"), escrowed("n2"), escrowed("n3")])
    store.fork_now(2)
    store.fork_now(1)
    with store.read() as reader:
        places = [(epoch, row.seq, row.type.rpartition(".")[2]) for epoch, row in history(reader.connection)]
    assert places == [
        (0, 1, "opened"),
        (0, 2, "escrowed"),
        (1, 1, "opened"),
        (2, 1, "opened"),
        (2, 2, "escrowed"),
        (2, 3, "escrowed"),
    ]
    store.close_now()
