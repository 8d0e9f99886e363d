"""Rows reach the office: all of them, in order, once, whatever lies between. The promise behind `DESIGN` 2.4."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from sync import envelope as wire
from sync.envelope import Refusal
from tests.edge import office_double as double
from tests.edge.clock import soon
from tests.edge.office_double import FAULTS, Fault, OfficeDouble, Refused
from tests.edge.rig import Rig


async def test_a_commit_wakes_the_uplink_without_any_time_passing(rig: Rig) -> None:
    """Online, the office hears of a note when it is stacked, not at the next poll."""
    before = rig.clock.monotonic()
    await rig.record(3)
    await soon(rig.arrived)
    assert rig.clock.monotonic() == before
    assert rig.edge.status().lag_rows == 0


async def test_a_row_arrives_within_milliseconds(rig: Rig) -> None:
    """The edge's own share of `commit → row in Postgres`, without network and database."""
    taken = []
    for _ in range(50):
        await rig.record()
        start = time.perf_counter()
        while not rig.arrived():  # noqa: ASYNC110 - measured to the turn
            await asyncio.sleep(0)
        taken.append(time.perf_counter() - start)
    assert sorted(taken)[25] < 0.03


async def test_bytes_are_carried_not_made_anew(rig: Rig) -> None:
    await rig.record(5, detail="ü \u2028 €")
    await rig.converge(10)
    (journal,) = rig.office.kiosk.journals.values()
    assert journal.rows == rig.rows()


async def test_central_away_for_days_loses_nothing_and_needs_nobody(rig: Rig, scale: Callable[[int, int], int]) -> None:
    """Offline is normal: rows pile up, back-off stays bounded, and the office has all of it when it is back."""
    rig.office.always = double.away
    for _ in range(scale(6, 60)):
        await rig.record(20)
        asked = len(rig.office.requests)
        await rig.clock.run(3_600)
        tries = len(rig.office.requests) - asked
        assert 60 <= tries <= 400  # 60 s at most between two, and no hammering
        assert rig.edge.status().lag_rows is None or rig.edge.status().lag_rows
        assert not rig.edge.status().online
        assert rig.edge.status().error_code == "centre_unavailable"
        assert rig.edge.status().alarm is None  # being away is no alarm
    await rig.converge(120)
    status = rig.edge.status()
    assert (status.lag_rows, status.online, status.error_code, status.retry_in_s) == (0, True, None, None)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("times", [1, 4])
async def test_every_fault_of_the_road_is_only_a_delay(rig: Rig, fault: Fault, times: int) -> None:
    rig.office.faults.extend([fault] * times)
    await rig.record(10)
    await rig.converge(600)
    assert rig.edge.status().alarm is None


async def test_an_answer_lost_after_the_commit_is_found_by_asking_again(rig: Rig) -> None:
    await rig.record(1)
    await rig.converge()
    rig.office.batches.clear()
    rig.office.faults.append(double.lost_answer)
    await rig.record(10)
    await rig.clock.run(5)
    assert rig.office.batches == [list(range(3, 13))]  # sent once: the watermark said that it had arrived
    assert rig.arrived()


async def test_patience_asked_for_is_kept_to(rig: Rig) -> None:
    rig.office.faults.append(double.busy)
    await rig.record()
    await rig.clock.settle()
    asked = len(rig.office.requests)
    assert 7 <= (rig.edge.status().retry_in_s or 0) <= 7.7
    await rig.record()  # a commit is no reason to ask earlier
    await rig.clock.run(6.9)
    assert len(rig.office.requests) == asked
    await rig.clock.run(1.0)
    assert rig.arrived()


async def test_an_urge_ends_the_wait(rig: Rig) -> None:
    """`kiosk sync now`: the technician has just plugged the cable in."""
    rig.office.always = double.away
    await rig.record(3)
    await rig.clock.run(600)
    rig.office.always = None
    status = await asyncio.wait_for(rig.edge.sync_now(), 5)
    assert (status.lag_rows, status.error_code) == (0, None)


async def test_an_urge_while_the_office_is_away_says_why(rig: Rig) -> None:
    rig.office.always = double.away
    await rig.record(3)
    await rig.clock.run(600)
    status = await asyncio.wait_for(rig.edge.sync_now(), 5)
    assert status.error_code == "centre_unavailable"
    assert "refused" in (status.error_text or "")


async def test_batches_keep_to_the_budgets(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(batch_rows=100, batch_kib=16)
    rig.open_store()
    await rig.record(350)
    await rig.record(40, detail="x" * 4_000)
    await rig.start_edge()
    await rig.converge()
    assert [row for batch in rig.office.batches for row in batch] == list(range(1, 392))
    assert max(len(batch) for batch in rig.office.batches) <= 100
    assert max(len(batch) for batch in rig.office.batches if batch[0] > 360) <= 4  # 16 KiB of rows of 4 KiB
    await rig.stop_edge()


async def test_a_smaller_limit_at_the_office_is_found_by_halving(make_rig: Callable[..., Rig]) -> None:
    """A batch that the office (or a proxy before it) finds too large is offered in smaller pieces, in order."""
    rig = make_rig()
    rig.office.rows_max = 7
    rig.open_store()
    await rig.record(200)
    await rig.start_edge()
    await rig.converge()
    assert max(len(batch) for batch in rig.office.batches) <= 7
    assert rig.edge.status().alarm is None


async def test_a_proxy_with_a_limit_of_its_own_is_understood(rig: Rig) -> None:
    """nginx and caddy say 413 in HTML."""

    def small(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        too_large = request.url.path == wire.PATH_INGEST and len(request.content) > 1_000
        return httpx.Response(413, content=b"<html>413</html>") if too_large else None

    rig.office.always = small
    await rig.record(100)
    await rig.clock.until(rig.arrived, 120)


async def test_a_row_larger_than_the_office_takes_is_an_alarm_never_skipped(rig: Rig) -> None:
    rig.office.bytes_max = 2_000
    await rig.record(5)
    await rig.record(1, detail=rig.random.randbytes(3_000).hex())
    await rig.record(5)
    await rig.clock.run(120)
    status = rig.edge.status()
    assert (status.alarm, status.watermark_seq, status.online) == ("row_too_large", 6, True)
    assert "rows 7 to 7" in (status.error_text or "")
    asked = len(rig.office.requests)
    await rig.clock.run(6 * 3_600)
    assert len(rig.office.requests) - asked < 6 * 3_600 / 30 + 200  # heartbeats, and slow tries
    rig.office.bytes_max = wire.COMPRESSED_BYTES_MAX  # the office was given an update
    await rig.converge()
    assert rig.edge.status().alarm is None


async def test_a_row_the_office_cannot_read_is_offered_alone_and_named(rig: Rig) -> None:
    """Rows before it arrive; it is an alarm with its number; nothing behind it overtakes; nothing is ever dropped."""
    await rig.record(20)
    await rig.converge()
    rig.office.poison = {"device.faulted"}
    await rig.record(3)
    await rig.clock.run(60)
    status = rig.edge.status()
    assert (status.alarm, status.watermark_seq) == (Refusal.MALFORMED_BATCH, 21)
    assert "rows 22 to 22" in (status.error_text or "")
    rig.office.poison = set()
    await rig.converge()
    assert rig.edge.status().alarm is None


@pytest.mark.parametrize(
    "code", [Refusal.WRONG_SIGNATURE, Refusal.UNKNOWN_KIOSK, Refusal.KIOSK_REVOKED, Refusal.GAP, "something_new"]
)
async def test_a_lasting_refusal_is_an_alarm_and_slow_but_never_given_up(rig: Rig, code: str) -> None:
    def refuse(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        if request.url.path != wire.PATH_INGEST:
            return None
        status = Refused(code, None if code in set(Refusal) else 422).status
        return httpx.Response(status, headers=double.PROBLEM, json={"code": code, "detail": "because"})

    rig.office.always = refuse
    await rig.record(2)
    await rig.clock.run(300)
    status = rig.edge.status()
    assert (status.alarm, status.online) == (code, True)
    assert "because" in (status.error_text or "")
    tried = rig.office.requests.count(f"POST {wire.PATH_INGEST}")
    await rig.clock.run(4 * 3_600)
    tries = rig.office.requests.count(f"POST {wire.PATH_INGEST}") - tried
    assert 4 * 4 <= tries <= 4 * 60  # at least every 15 min, seldom more than once a minute
    await rig.converge()
    assert rig.edge.status().alarm is None


async def test_a_token_that_ends_or_is_forgotten_is_renewed_without_a_word(rig: Rig) -> None:
    for _ in range(5):
        rig.office.forget_tokens()
        await rig.record()
        await rig.clock.settle()
        assert rig.arrived()
    asked = rig.office.requests.count(f"POST {wire.PATH_TOKEN}")
    for _ in range(100):
        await rig.clock.run(60)
        await rig.record()
        await rig.clock.settle()
        assert rig.arrived()
    assert 10 <= rig.office.requests.count(f"POST {wire.PATH_TOKEN}") - asked <= 13  # a token lives ten minutes
    assert rig.edge.status().error_code is None


@pytest.mark.parametrize("year_us", [0, 86_400_000_000, 4_102_444_800_000_000])
async def test_an_absurd_wall_clock_locks_nobody_out(make_rig: Callable[..., Rig], year_us: int) -> None:
    """1970 and 2100: tokens, back-off and batches never ask the kiosk's wall clock."""
    rig = make_rig()
    rig.clock.set_wall(year_us)
    await rig.start()
    await rig.record(5)
    rig.office.faults.append(double.away)
    await rig.clock.until(rig.arrived, 60)
    rig.clock.set_wall(1_900_000_000_000_000)
    await rig.record(5)
    await rig.clock.until(rig.arrived, 60)


async def test_restart_in_the_middle_of_a_batch_goes_on_where_the_office_is(rig: Rig) -> None:
    for step in ("batch_read", "batch_answered"):
        rig.kill_at = step
        await rig.record(10)
        await rig.clock.run(1)
        assert rig.killed
        rig.killed = False
        await rig.restart()
        await rig.clock.until(rig.arrived, 60)


async def test_the_office_put_back_to_an_older_backup_is_sent_what_it_lost(rig: Rig) -> None:
    """Also while the kiosk has nothing new to say: the heartbeat notices."""
    await rig.record(10)
    await rig.converge()
    backup = rig.office.backup()
    await rig.record(30)
    await rig.converge()
    rig.office.restore(backup)
    await rig.clock.run(40)
    assert rig.arrived()
    assert len(rig.office.kiosk.journals) == 1  # no fork: it is simply the same rows again
    rig.office.restore(backup)
    await rig.record(1)
    await rig.clock.run(40)
    assert rig.arrived()
    assert len(rig.office.kiosk.journals) == 1
    assert rig.edge.status().alarm is None


async def test_heartbeats_carry_telemetry_and_keep_to_the_offices_pace(rig: Rig) -> None:
    rig.office.next_beat_s = 100
    await rig.clock.run(120)
    rig.office.beats.clear()
    await rig.clock.run(1_000)
    assert 9 <= len(rig.office.beats) <= 11
    beat = rig.office.beats[-1]
    assert (beat.journal_id, beat.head_seq, beat.devices) == (str(rig.store.journal_id), 1, {"validator": "idling"})
    assert beat.disk_free_bytes > 0
    assert beat.oldest_unsent_at is None
    rig.office.next_beat_s = 0.0  # an office gone mad does not make the kiosk spin
    await rig.clock.run(120)
    rig.office.beats.clear()
    await rig.clock.run(60)
    assert len(rig.office.beats) <= 13


async def test_rows_flow_though_the_heartbeat_is_refused_or_broken(rig: Rig) -> None:
    def no_beats(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        if request.url.path != wire.PATH_HEARTBEAT:
            return None
        if len(office.requests) % 2:
            return httpx.Response(422, headers=double.PROBLEM, json={"code": "strange"})
        return httpx.Response(500)

    rig.office.always = no_beats
    for _ in range(30):
        await rig.record()
        await rig.clock.run(10)
        assert rig.arrived()


async def test_an_idle_kiosk_is_silent_but_for_heartbeats(rig: Rig) -> None:
    """Idle CPU near zero: an hour costs the heartbeats, a token now and then, and one stat every few seconds."""
    await rig.clock.run(60)
    asked = len(rig.office.requests)
    await rig.clock.run(3_600)
    assert len(rig.office.requests) - asked <= 3_600 / 30 + 2 * 7


async def test_a_damaged_journal_is_not_sent_as_if_it_were_sound(rig: Rig, tmp_path: Path) -> None:
    """A row changed on the disk: the office cannot chain it; the alarm names it, rows before it arrived."""
    import apsw

    await rig.stop_edge()
    await rig.record(6)
    with closing(apsw.Connection(str(rig.store.path))) as raw:
        raw.execute("DROP TRIGGER journal_is_never_updated").fetchall()
        raw.execute("UPDATE journal SET body = x'7b7d' WHERE seq = 4").fetchall()
    await rig.start_edge()
    await rig.clock.run(60)
    status = rig.edge.status()
    assert (status.alarm, status.watermark_seq) == (Refusal.CHAIN_BROKEN, 3)
    assert "rows 4 to 4" in (status.error_text or "")
    await rig.stop_edge()
    with closing(apsw.Connection(str(rig.store.path))) as raw:
        raw.execute("UPDATE journal SET prev_hash = zeroblob(32) WHERE seq = 4").fetchall()
    await rig.start_edge()
    await rig.clock.run(60)
    assert rig.edge.status().alarm == "journal_damaged"
