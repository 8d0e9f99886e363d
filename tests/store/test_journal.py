"""The store's verbs on real files: append, group, refuse, read, wake, cursors, close."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import apsw
import pytest

from agent.domain import events as ev
from agent.domain import ledger
from agent.domain.chain import JournalRow, first_break, genesis_hash
from agent.domain.errors import NotFound, UnbalancedEntries
from agent.domain.events import Event
from agent.domain.money import Money
from agent.store.errors import StoreClosed
from agent.store.ports import ProjectionWriter, Store, Transaction
from agent.store.verify import verify
from tests.store.helpers import EPOCH_US, RealClock, StepClock, open_now, open_store, small_settings
from tests.store.projections import TakingsProjection

FIVE = Money(500, "EUR")


def escrowed(note_id: str, device: str = "validator") -> ev.NoteEscrowed:
    return ev.NoteEscrowed(device=device, note_id=note_id, value=FIVE, note_code=3)


def stacked(note_id: str, payment_id: str | None = "p", device: str = "validator") -> ev.NoteStacked:
    return ev.NoteStacked(device=device, note_id=note_id, value=FIVE, note_code=3, payment_id=payment_id)


def acknowledged(note_id: str) -> ev.CreditAcknowledged:
    return ev.CreditAcknowledged(device="validator", note_id=note_id)


async def test_the_store_is_what_the_port_asks_for(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        port: Store = store
        assert port.journal_id.version == 7


async def test_a_new_journal_opens_with_its_own_first_row(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with store.read() as reader:
            (row,) = reader.rows(0, 10)
        assert row.type == ev.JournalOpened.TYPE
        assert (row.seq, row.prev_hash) == (1, genesis_hash(store.journal_id))


async def test_rows_say_when_who_and_about_what(tmp_path: Path) -> None:
    clock = StepClock(monotonic=5.0)
    async with open_store(tmp_path, clock=clock) as store:
        clock.advance(0.25)
        (row,) = await store.record([escrowed("n1")], actor="device:validator", trace_id="n1")
        assert (row.occurred_at, row.monotonic_us) == (EPOCH_US + 250_000, 5_250_000)
        assert (row.actor, row.trace_id, row.subject) == ("device:validator", "n1", "device/validator")
        assert (row.boot_id, row.id.version, row.schema) == (store.boot_id, 7, 1)
        with store.read() as reader:
            assert reader.rows(1, 10) == [row]
            assert reader.head() == (row.seq, row.hash)


async def test_the_chain_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1")], actor="a")
        first_boot, journal_id = store.boot_id, store.journal_id
    async with open_store(tmp_path, seed=2) as store:
        await store.record([stacked("n1")], actor="a")
        assert store.journal_id == journal_id
        assert store.boot_id != first_boot
        with store.read() as reader:
            assert first_break(reader.rows(0, 10), 0, genesis_hash(journal_id)) is None
            assert reader.rows(3, 10) == []


async def test_many_producers_share_commits_and_every_one_gets_its_own_rows(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        before = store.health()
        answers = await asyncio.gather(*(store.record([escrowed(f"n{number}")], actor="a") for number in range(200)))
        after = store.health()
        assert sorted(rows[0].seq for rows in answers) == list(range(2, 202))
        assert after.works - before.works == 200
        assert after.commits - before.commits < 100
        assert 0 < after.last_commit_s <= after.slowest_commit_s


async def test_a_work_that_raises_undoes_only_itself_and_takes_no_seq(tmp_path: Path) -> None:
    """The neighbours in its group commit are stored, and the chain shows no gap where it was."""

    def refusing(tx: Transaction) -> None:
        tx.append(escrowed("never"))
        raise NotFound("no such payment")

    async with open_store(tmp_path, [TakingsProjection()]) as store:
        for group in (1, 3):
            works = [store.transact(refusing, actor="a") for _ in range(group)]
            answers = await asyncio.gather(
                store.record([escrowed(f"a{group}")], actor="a"),
                *works,
                store.record([escrowed(f"b{group}")], actor="a"),
                return_exceptions=True,
            )
            assert [type(answer) for answer in answers[1:-1]] == [NotFound] * group
        with pytest.raises(NotFound):  # alone in its commit
            await store.transact(refusing, actor="a")
        with store.read() as reader:
            assert [row.seq for row in reader.rows(0, 100)] == [1, 2, 3, 4, 5]
            assert reader.one("SELECT count(*) AS n FROM open_records WHERE record_id = 'never'") == {"n": 0}
            assert reader.one("SELECT count(*) AS n FROM seen_notes") == {"n": 4}


class Failing(TakingsProjection):
    """Has a defect that one note of many brings to light."""

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None:
        super().apply(tx, row, event)
        if isinstance(event, ev.NoteEvent) and event.note_id == "broken":
            raise ZeroDivisionError


async def test_a_defect_met_by_one_of_many_records_undoes_only_that_one(tmp_path: Path) -> None:
    """Records that wait together go without savepoints; the others are written again when one of them fails."""
    async with open_store(tmp_path, [Failing()]) as store:
        await store.advance("bus", 1)
        names = ["n1", "n2", "broken", "n3"]
        answers = await asyncio.gather(
            *(store.record([escrowed(name)], actor="a") for name in names), return_exceptions=True
        )
        assert [isinstance(answer, ZeroDivisionError) for answer in answers] == [False, False, True, False]
        assert [answer[0].seq for answer in answers if isinstance(answer, list)] == [2, 3, 4]
        with pytest.raises(ZeroDivisionError):
            await store.record([escrowed("broken")], actor="a")
        with store.read() as reader:
            assert [row.seq for row in reader.rows(0, 100)] == [1, 2, 3, 4]
            assert reader.one("SELECT count(*) AS n FROM seen_notes") == {"n": 3}
            assert verify(reader, None).damages == ()


async def test_a_work_that_is_not_a_record_runs_once_whatever_else_fails(tmp_path: Path) -> None:
    runs: list[int] = []

    def counting(tx: Transaction) -> None:
        runs.append(tx.append(escrowed(f"c{len(runs)}")).seq)
        if len(runs) == 2:
            raise NotFound("after all")

    clock = StepClock()
    async with open_store(tmp_path, [Failing()], clock=clock) as store:
        await asyncio.gather(
            store.record([escrowed("broken")], actor="a"), store.transact(counting, actor="a"), return_exceptions=True
        )
        await store.advance("bus", 1)
        clock.advance(5.0)  # the cursor rides on the next commit
        with pytest.raises(NotFound):
            await store.transact(counting, actor="a")
        assert runs == [2, 3]


async def test_a_work_sees_its_own_writes_and_the_group_before_it(tmp_path: Path) -> None:
    def look(tx: Transaction) -> tuple[int, int, list[Event]]:
        before = tx.head()[0]
        tx.append(escrowed("n1"))
        tx.execute("INSERT INTO meta VALUES ('key', 'value')")
        found = tx.one("SELECT value FROM meta WHERE key = ?", "key")
        assert found == {"value": "value"}
        assert tx.rows(before, 5)[0].seq == before + 1
        return before, tx.head()[0], list(tx.open_events("validator"))

    async with open_store(tmp_path) as store:
        assert await store.transact(look, actor="a") == (1, 2, [escrowed("n1")])


async def test_entries_that_do_not_balance_are_refused_in_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug in a ledger rule: the event is refused whole, and the chain goes on as if it had never been."""
    lopsided = [ledger.Entry(ledger.State.POSTED, ledger.CUSTOMER, FIVE, "t")]
    async with open_store(tmp_path) as store:
        monkeypatch.setitem(ledger._RULES, ev.NoteEscrowed, lambda _event, _pending: lopsided)
        with pytest.raises(UnbalancedEntries):
            await store.record([escrowed("n1")], actor="a")
        with store.read() as reader:
            assert reader.head()[0] == 1


async def test_balances_follow_a_note_from_escrow_to_the_box(tmp_path: Path) -> None:
    def balances() -> dict[str, tuple[int, int]]:
        with store.read() as reader:
            return {
                str(row["account"]): (row["posted_minor"], row["pending_minor"])
                for row in reader.all("SELECT * FROM balances WHERE currency = ?", "EUR")
            }

    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1")], actor="a")
        assert balances() == {"customer": (0, -500), "stacker:validator": (0, 500)}
        await store.record([stacked("n1")], actor="a")
        assert balances() == {"customer": (-500, 0), "stacker:validator": (500, 0)}
        with store.read() as reader:
            assert reader.all("SELECT * FROM ledger_pending") == []


async def test_open_records_hold_what_a_machine_is_built_from(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1"), escrowed("n2", "other"), stacked("n1")], actor="a")
        await store.record([escrowed("n3"), stacked("n3"), acknowledged("n3")], actor="a")
    async with open_store(tmp_path) as store:
        with store.read() as reader:
            assert reader.open_events("validator") == [escrowed("n1"), stacked("n1")]
            assert reader.open_events("other") == [escrowed("n2", "other")]
        await store.record([acknowledged("n1")], actor="a")
        with store.read() as reader:
            assert reader.open_events("validator") == []


async def test_subscribers_are_woken_with_the_last_seq_after_the_commit(tmp_path: Path) -> None:
    heard: list[int] = []

    def broken(_seq: int) -> None:
        raise RuntimeError("a subscriber's own trouble")

    async with open_store(tmp_path) as store:
        store.subscribe(broken)
        unsubscribe = store.subscribe(heard.append)
        await store.record([escrowed("n1"), stacked("n1")], actor="a")
        await store.transact(lambda tx: tx.head(), actor="a")  # appended nothing: nobody is woken
        unsubscribe()
        await store.record([acknowledged("n1")], actor="a")
        assert heard == [3]


async def test_cursors_are_remembered_and_never_run_ahead_of_what_was_advanced(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert await store.cursor("cash_system") == 0
        await store.advance("cash_system", 1)
        assert await store.cursor("cash_system") == 1
    async with open_store(tmp_path) as store:
        assert await store.cursor("cash_system") == 1


async def test_a_cursor_is_on_the_disk_within_a_second_or_so_without_any_commit(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.advance("sync", 1)
        for _ in range(100):
            with store.read() as reader:
                if reader.one("SELECT seq FROM cursors WHERE name = 'sync'") == {"seq": 1}:
                    return
            await asyncio.sleep(0.05)
        pytest.fail("the cursor was not written")


async def test_cursors_ride_on_commits_of_a_busy_store(tmp_path: Path) -> None:
    clock = StepClock()
    async with open_store(tmp_path, clock=clock) as store:
        await store.advance("sync", 1)
        clock.advance(2.0)
        await store.record([escrowed("n1")], actor="a")
        with store.read() as reader:
            assert reader.one("SELECT seq FROM cursors WHERE name = 'sync'") == {"seq": 1}


async def test_readers_see_one_moment_and_do_not_block_the_writer(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with store.read() as reader:
            assert reader.head()[0] == 1
            await store.record([escrowed("n1")], actor="a")
            assert reader.head()[0] == 1
        with store.read() as reader:
            assert reader.head()[0] == 2
            with pytest.raises(apsw.ReadOnlyError):
                reader.connection.execute("DELETE FROM cursors")


async def test_readers_work_from_any_thread(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:

        def read() -> int:
            with store.read() as reader:
                return reader.head()[0]

        assert await asyncio.gather(*(asyncio.to_thread(read) for _ in range(12))) == [1] * 12


async def test_rows_by_name_and_the_absence_of_rows(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with store.read() as reader:
            assert reader.one("SELECT 1 AS a, 'x' AS b") == {"a": 1, "b": "x"}
            assert reader.one("SELECT 1 AS a WHERE 0") is None
            assert reader.all("SELECT 1 AS a WHERE 0") == []
            assert reader.all("SELECT 1 AS a UNION SELECT 2") == [{"a": 1}, {"a": 2}]


async def test_the_journal_refuses_to_be_changed(tmp_path: Path) -> None:
    """Also by a module's own SQL, and by REPLACE, which deletes without saying so."""
    async with open_store(tmp_path) as store:
        await store.record([escrowed("n1")], actor="a")
        for sql in (
            "UPDATE journal SET actor = 'x' WHERE seq = 2",
            "DELETE FROM journal WHERE seq = 2",
            "REPLACE INTO journal SELECT * FROM journal WHERE seq = 2",
        ):
            with pytest.raises(apsw.ConstraintError, match="append-only"):
                await store.transact(lambda tx, sql=sql: tx.execute(sql), actor="a")  # type: ignore[misc]
        with store.read() as reader:
            assert len(reader.rows(0, 10)) == 2


async def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        task = asyncio.create_task(store.record([escrowed("n1")], actor="a"))
        await asyncio.sleep(0)
        task.cancel()
        (row,) = await store.record([escrowed("n2")], actor="a")
        assert row.seq in (2, 3)
        assert task.cancelled() or task.cancelling()


def test_answers_for_a_loop_that_has_ended_are_dropped(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    gate = threading.Event()
    try:

        async def abandon() -> None:
            store.subscribe(lambda _seq: None)
            blocker = asyncio.get_running_loop().create_task(store.transact(lambda _tx: gate.wait(5), actor="a"))
            await asyncio.sleep(0.05)
            blocker.cancel()

        asyncio.run(abandon())
        gate.set()
        assert store.transact_now(lambda tx: tx.head()[0], actor="a") == 1
    finally:
        store.close_now()


def test_verbs_without_a_loop(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    try:
        row = store.transact_now(lambda tx: tx.append(escrowed("n1")), actor="a", trace_id="t")
        assert (row.seq, row.trace_id) == (2, "t")
        with pytest.raises(NotFound):
            store.transact_now(_not_found, actor="a")
        assert store.cursor_now("x") == 0
        assert store.rebuild_now() == 2
    finally:
        store.close_now()


def _not_found(_tx: Transaction) -> None:
    raise NotFound("no")


async def test_a_closed_store_says_so_and_closing_twice_is_fine(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    await store.close()
    await store.close()
    with pytest.raises(StoreClosed):
        await store.record([escrowed("n1")], actor="a")
    with pytest.raises(StoreClosed), store.read():
        pass


async def test_what_waits_at_the_close_is_still_written(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    tasks = [asyncio.create_task(store.record([escrowed(f"n{number}")], actor="a")) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await store.close()
    assert sorted(rows[0].seq for rows in await asyncio.gather(*tasks)) == list(range(2, 52))


async def test_the_log_keeps_its_size_and_is_moved_when_the_store_is_idle(tmp_path: Path) -> None:
    """No growth means no second sync per commit; no truncation in normal work."""
    settings = small_settings(tmp_path, wal_size_mib=0.25)
    log = tmp_path / "journal.db-wal"
    async with open_store(tmp_path, settings=settings, clock=RealClock()) as store:
        size = log.stat().st_size
        assert size >= 0.25 * (1 << 20)
        for number in range(120):
            await store.record([escrowed(f"n{number}")], actor="a")
        assert log.stat().st_size <= size + 64 * 4120
        for _ in range(100):
            if store.health().log_pages == 0:
                break
            await asyncio.sleep(0.05)
        assert store.health().log_pages == 0
    assert log.stat().st_size >= size
