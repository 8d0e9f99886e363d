"""Two histories of one kiosk: every one of them is seen, told to people, and counted once."""

from dataclasses import replace

import httpx

from agent.domain import events as ev
from sync import envelope as wire
from tests.central.kiosks import Journal, Kiosk
from tests.central.test_ingest import TOTALS, code_of
from tests.servers import Centre

ALARMS = "SELECT code, severity FROM alarms ORDER BY first_at, code"


async def test_the_same_seq_with_another_hash_is_a_fork_and_an_alarm(centre: Centre, kiosk: Kiosk) -> None:
    """A disk image of yesterday went on without us; nothing of it is taken for a duplicate."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    image = journal.copy(2)
    await kiosk.send(journal)
    image.stack("other", 2000)
    refused = await kiosk.send(image)  # shorter than what we have: one look-up
    assert code_of(refused) == "fork"
    assert refused.json()["watermark"] == {
        "journal_id": str(journal.journal_id),
        "seq": len(journal.rows),
        "hash": journal.head.hex(),
    }
    for number in range(10):
        image.stack(f"more-{number}", 2000)
    assert code_of(await kiosk.send(image)) == "fork"  # longer than what we have: compared in the batch
    beyond = await kiosk.post(kiosk.packed(image, image.rows[len(journal.rows) :]))
    assert code_of(beyond) == "fork"  # right behind the watermark, with another predecessor
    assert await centre.all("SELECT code, severity, count FROM alarms") == [("journal_fork", "critical", 3)]
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)


async def test_an_older_image_goes_on_in_a_new_journal_and_the_tail_stays(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 1000)
    image = journal.copy()
    journal.pay("p2", 2000)
    await kiosk.send(journal)
    image.pay("p3", 1000)
    following = image.forked(len(journal.copy(5).rows))
    answer = await kiosk.send(following)
    assert answer.status_code == 200, answer.text
    assert [row[:4] for row in await centre.all(f"{TOTALS} ORDER BY 1")] == [
        ("p1", "completed", 1000, 1000),
        ("p2", "completed", 1000, 2000),  # it happened before the image was put back: it stays
        ("p3", "completed", 1000, 1000),
    ]
    ((facts, detail),) = await centre.all("SELECT facts, detail FROM alarms WHERE code = 'journal_forked'")
    assert (facts["orphaned_from"], facts["orphaned_to"]) == (6, len(journal.rows))
    assert facts["orphaned_stacked_minor"] == {"EUR": 2000}
    assert "20.00 EUR stacked" in detail
    states = await centre.all("SELECT journal_id, state, continued_at_seq FROM journals ORDER BY opened_at")
    assert states == [(journal.journal_id, "continued", 5), (following.journal_id, "open", None)]
    assert await centre.one("SELECT current_journal_id FROM kiosks") == following.journal_id


async def test_rows_appended_again_are_not_counted_again(centre: Centre, kiosk: Kiosk) -> None:
    """The same image put back twice forks twice; both forks bring the same facts with the same ids."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    image = journal.copy(3)
    image.pay("p2", 500, 700)
    image.append(ev.DeviceAlarmed(device="acceptor", code="table_changed"))
    await kiosk.send(journal)
    first, second = image.forked(3), image.forked(3)
    for fork in (first, second, image.forked(1)):
        answer = await kiosk.send(fork)
        assert answer.json()["accepted"] == len(fork.rows), answer.text
    rows = await centre.all(f"{TOTALS} ORDER BY 1")
    assert rows == [("p1", "completed", 1000, 1000, 0, 0), ("p2", "completed", 1000, 1200, 200, 0)]
    assert await centre.one("SELECT count(*) FROM transaction_notes") == 3
    assert await centre.one("SELECT sum(amount_minor) FROM claims") == 200
    assert await centre.one("SELECT count FROM alarms WHERE code = 'device_alarm'") == 1


async def test_a_clone_is_told_and_both_branches_are_kept(centre: Centre, kiosk: Kiosk) -> None:
    """Two copies of one disk at work: neither may block the other, and a person must know."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    await kiosk.send(journal)
    clone = journal.copy()
    journal.pay("p2", 1000)
    await kiosk.send(journal)
    clone.pay("p3", 1000)
    assert code_of(await kiosk.send(clone)) == "fork"
    branch = clone.forked(5)
    await kiosk.send(branch)
    original = len(journal.rows)
    journal.pay("p4", 1000)
    assert code_of(await kiosk.send(journal, original)) == "journal_superseded"
    other = journal.forked(original)
    assert (await kiosk.send(other)).status_code == 200
    codes = [code for code, _ in await centre.all(ALARMS)]
    assert "kiosk_cloned" in codes
    assert "journal_superseded" in codes
    branch.pay("p5", 1000)
    assert (await kiosk.send(branch)).status_code == 200
    other.pay("p6", 1000)
    assert (await kiosk.send(other)).status_code == 200
    assert await centre.one("SELECT count(*) FROM transactions WHERE collected_minor = 1000") == 6


async def test_a_continued_journal_takes_rows_up_to_its_continuation(centre: Centre, kiosk: Kiosk) -> None:
    """An office restored from an older backup: the new journal is here before the end of the old one."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    following = journal.forked(len(journal.rows))
    await kiosk.send(journal, 1, 2)
    assert (await kiosk.send(following)).status_code == 200
    ((facts,),) = await centre.all("SELECT facts FROM alarms WHERE code = 'journal_gap'")
    assert (facts["missing_from"], facts["missing_to"]) == (3, len(journal.rows))
    assert (await kiosk.send(journal, 3)).json()["accepted"] == len(journal.rows) - 2
    assert await centre.all(TOTALS) == [("p1", "completed", 1000, 1000, 0, 0)]
    journal.append(ev.AgentStarted(version="1"))
    assert code_of(await kiosk.send(journal, len(journal.rows))) == "journal_superseded"


async def test_an_office_restored_from_an_older_backup_is_resent_what_it_lost(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    await kiosk.send(journal)
    async with centre.pool.connection() as connection:
        for table in ("transactions", "transaction_notes"):
            await connection.execute(f"DELETE FROM {table}".encode())
        await connection.execute("DELETE FROM events WHERE seq > 2")
        await connection.execute("UPDATE journals SET seq = 2, hash = %s", (journal.rows[1].hash,))
    mark = await kiosk.watermark(journal)
    assert mark.seq == 2
    assert (await kiosk.send(journal, mark.seq + 1)).json()["accepted"] == len(journal.rows) - 2
    assert (await kiosk.watermark(journal)).hash == journal.head.hex()


async def test_a_replaced_disk_is_an_alarm_that_says_what_is_here(
    centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    journal.pay("p1", 1000)
    await kiosk.send(journal)
    renewed = await Kiosk.enrolled(
        client, await centre.code("", kiosk_id=(await centre.one("SELECT kiosk_id FROM kiosks")))
    )
    assert renewed.kiosk_id == kiosk.kiosk_id
    assert code_of(await kiosk.send(journal)) == "wrong_signature"  # the old disk's key ended with it
    fresh = Journal.opened()
    assert (await renewed.send(fresh)).status_code == 200
    ((facts, severity),) = await centre.all("SELECT facts, severity FROM alarms WHERE code = 'journal_replaced'")
    assert (facts["replaced"], severity) == ({str(journal.journal_id): len(journal.rows)}, "critical")
    assert await centre.one("SELECT state FROM journals WHERE journal_id = %s", journal.journal_id) == "replaced"


async def test_a_false_predecessor_is_refused(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 1000)
    await kiosk.send(journal)
    name = str(journal.journal_id)
    for seq in (0, 2, len(journal.rows)):
        liar = Journal()
        liar.append(ev.JournalOpened(previous_journal_id=name, previous_seq=seq, previous_hash="00" * 32))
        assert code_of(await kiosk.send(liar)) == "fork"
        assert (await kiosk.watermark(liar)).seq == 0
    for broken in (
        {"previous_journal_id": "no uuid", "previous_seq": 1, "previous_hash": "00"},
        {"previous_journal_id": name, "previous_seq": None, "previous_hash": "00"},
        {"previous_journal_id": name, "previous_seq": 2**64, "previous_hash": "00"},
    ):
        liar = Journal()
        liar.append(ev.JournalOpened(**broken))
        assert code_of(await kiosk.send(liar)) == "malformed_batch"


async def test_a_predecessor_that_never_arrived_is_an_alarm_and_no_obstacle(centre: Centre, kiosk: Kiosk) -> None:
    lost = Journal.opened()
    lost.pay("p1", 1000)
    following = lost.forked(3)
    assert (await kiosk.send(following)).status_code == 200
    assert [code for code, _ in await centre.all(ALARMS)] == ["journal_predecessor_unknown"]


async def test_the_same_alarm_again_counts_up_and_opens_anew(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    packed = kiosk.packed(journal)
    await kiosk.post(packed, signature=bytes(64))
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE alarms SET acknowledged_at = now(), acknowledged_by = 'ada'")
    await kiosk.post(packed, signature=bytes(64))
    assert await centre.all("SELECT code, count, acknowledged_at, acknowledged_by FROM alarms") == [
        ("wrong_signature", 2, None, "")
    ]


async def test_a_kiosk_that_forks_to_nothing_in_common(centre: Centre, kiosk: Kiosk) -> None:
    """Continuing after row 0: the office has the journal, but no row of it is the kiosk's."""
    journal = Journal.opened()
    await kiosk.send(journal)
    other = replace(journal.copy(), rows=[])
    other.append(ev.JournalOpened(), actor="other")
    other.stack("n1", 500)
    assert code_of(await kiosk.send(other)) == "fork"
    hashes = [(row.seq, row.hash.hex()) for row in other.rows]
    request = wire.CommonPrefixRequest(str(journal.journal_id), hashes)
    assert (await kiosk.call(wire.PATH_COMMON_PREFIX, request)).json() == {"seq": 0}
    assert (await kiosk.send(other.forked(0))).status_code == 200
    assert await centre.one("SELECT count(*) FROM transaction_notes") == 1
