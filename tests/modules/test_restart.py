"""Power may go at any commit: whatever the file holds then, the next start brings every payment to its right end."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.domain.money import Money
from agent.domain.wire import encode
from agent.store.connection import FILE_NAME
from drivers.ports import DeviceState
from tests.modules.rig import EPOCH_US, HandAcceptor, Rig, eur, rig


@dataclass
class Cut:
    """One commit: the file as it was then, and the device beside it."""

    seq: int
    folder: Path
    device: HandAcceptor


@dataclass
class Cutter:
    """Keeps a copy of file and device at every commit. The copy is taken before anybody hears of the commit, so no
    verb that follows it has been called: the worst moment to die."""

    rig: Rig
    folder: Path
    cuts: list[Cut] = field(default_factory=list)

    def __call__(self, seq: int) -> None:
        folder = self.folder / f"at-{seq}"
        folder.mkdir(parents=True)
        self.rig.store.snapshot(folder / FILE_NAME)
        self.cuts.append(Cut(seq, folder, copy.deepcopy(self.rig.acceptor)))


async def _busy_hour(r: Rig) -> None:
    """Every road that a payment can take."""
    over = await r.create(2500, allowed_minor=[500, 1000, 2000, 5000])
    await r.pay(2000)
    await r.pay(10000)  # goes back
    await r.pay(5000)
    assert r.state(over) == "completed"
    cancelled = await r.create(5000)
    await r.pay(1000)
    await r.insert(2000)
    await r.cancel(cancelled)
    await r.obey()
    part = await r.create(5000, allow_partial=True)
    await r.pay(2000)
    await r.finish(part)
    doubted = await r.create(5000, timeout_s=60)
    await r.insert(2000)
    await r.doubt()
    await r.pay(1000)
    await r.extend(doubted)
    await r.wait(61)
    assert r.state(doubted) == "expired"
    exact = await r.create(1000)
    await r.pay(1000)
    assert r.state(exact) == "completed"


async def _end_of(cut: Cut) -> dict[str, tuple[str, int, int]]:
    """Start again from the cut; the device does what it is told, the customer walks away."""
    again = Rig(cut.folder, seed=cut.seq)
    again.acceptor = again.devices.acceptors["cashcode"] = cut.device
    again.acceptor.inhibit()
    again.clock.wall_us = EPOCH_US + 10_000_000_000
    await again.open()
    try:
        await _say_again(again)
        await again.pump()
        await again.obey()
        await again.wait(400, step=50)
        again.check_books()
        with again.store.read() as reader:
            rows = reader.all("SELECT * FROM payments")
            doubts = reader.all("SELECT * FROM doubts WHERE open = 1")
            lying = reader.all("SELECT * FROM unit_contents")
        assert all(not row["open"] for row in rows), [dict(row) for row in rows]
        box = Counter(cut.device.box)
        for doubt in doubts:
            box[Money(doubt["amount_minor"], doubt["currency"])] -= 1
        assert {Money(row["value_minor"], row["currency"]): row["count"] for row in lying} == +box
        assert again.acceptor.enabled is False
        assert again.acceptor.escrow is None
        return {row["id"]: (row["state"], row["paid_minor"], row["claimed_minor"]) for row in rows}
    finally:
        await again.close()


async def _say_again(again: Rig) -> None:
    """What the device had said and the file does not hold: its event is repeated until it is acknowledged."""
    with again.store.read() as reader:
        recorded = {row.body for row in reader.rows(0, 10_000)}
    missing = [event for event in again.acceptor.unreported if encode(event) not in recorded]
    if missing:
        await again.report(again.acceptor, *missing)


async def test_a_power_cut_at_every_commit(tmp_path: Path) -> None:
    made = Rig(tmp_path / "live")
    await made.open()
    cutter = Cutter(made, tmp_path / "cuts")
    unsubscribe = made.store.subscribe(cutter)
    try:
        await _busy_hour(made)
        made.check_books()
        with made.store.read() as reader:
            last = {
                row["id"]: (row["state"], row["paid_minor"], row["claimed_minor"])
                for row in reader.all("SELECT * FROM payments WHERE open = 0")
            }
    finally:
        unsubscribe()
        await made.close()
    assert len(cutter.cuts) > 40
    finished: set[str] = set()
    for cut in cutter.cuts:
        ends = await _end_of(cut)
        assert {key: ends[key] for key in finished} == {key: last[key] for key in finished}, cut.seq
        finished |= {key for key in ends if ends[key] == last.get(key) and _was_final(cut, key)}
    assert finished == set(last)


def _was_final(cut: Cut, payment_id: str) -> bool:
    import apsw

    connection = apsw.Connection(str(cut.folder / FILE_NAME))
    try:
        kinds = "('cash.payment.completed', 'cash.payment.cancelled', 'cash.payment.expired', 'cash.payment.failed')"
        sql = f"SELECT 1 FROM journal WHERE seq <= ? AND subject = ? AND type IN {kinds}"
        return connection.execute(sql, (cut.seq, f"payment/{payment_id}")).fetchone() is not None
    finally:
        connection.close()


async def test_a_collecting_payment_goes_on_with_the_time_it_had(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(3000, timeout_s=120)
        await r.pay(1000)
        await r.restart(seconds=40)
        assert r.acceptor.enabled == frozenset(map(eur, (500, 1000, 2000, 5000, 10000)))
        assert r.payment(payment).remaining_s == pytest.approx(80, abs=1)
        await r.pay(2000)
        assert r.state(payment) == "completed"


@pytest.mark.parametrize(("jump_s", "left_s"), [(86_400, 30), (-86_400, 120), (0, 117)])
async def test_the_time_left_is_sane_whatever_the_wall_clock_says(tmp_path: Path, jump_s: int, left_s: int) -> None:
    """A dead battery sets the clock to another year: never less than the grace, never more than the whole time."""
    async with rig(tmp_path, restart_grace_s=30) as r:
        payment = await r.create(3000, timeout_s=120)
        r.clock.jump(jump_s)
        await r.restart(seconds=3)
        assert r.payment(payment).remaining_s == pytest.approx(left_s, abs=1)
        await r.cancel(payment)


async def test_rows_that_come_twice_change_nothing(tmp_path: Path) -> None:
    """The bus delivers at least once: after a restart with a lost cursor every handler sees the whole journal again."""
    async with rig(tmp_path) as r:
        payment = await r.create(1500)
        await r.pay(5000)
        later = await r.create(5000)
        await r.pay(1000)
        before = r.types()
        told = len(r.acceptor.told)
        await r.restart(forget_cursor=True)
        assert r.types() == before
        assert len(r.acceptor.told) == told
        assert (r.state(payment), r.state(later)) == ("completed", "collecting")
        await r.cancel(later)


async def test_an_undecided_note_is_decided_anew(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(1000)
        await r.service.stop()  # the escrow is recorded, nobody decides any more
        note = "0199c1d2-0000-7000-8000-000000000001"
        r.acceptor.escrow = (note, eur(1000))
        escrowed = ev.NoteEscrowed(device="cashcode", note_id=note, value=eur(1000), note_code=1)
        await r.store.record([escrowed], actor="device:cashcode", trace_id=note)
        await r.restart()
        assert r.acceptor.asked == ("stack", payment)
        assert [each.note_id for each in r.events(ev.StackRequested)] == [note]
        await r.obey()
        assert r.state(payment) == "completed"


async def test_a_note_decided_before_the_crash_is_told_again_and_not_decided_twice(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(1000)
        note = await r.insert(1000)
        r.acceptor.told.clear()  # the verb was lost with the process
        await r.restart()
        assert r.acceptor.told[-1] == ("stack", note, payment)
        assert len(r.events(ev.StackRequested)) == 1
        await r.obey()
        assert r.state(payment) == "completed"


async def test_a_device_that_is_away_at_the_start_gets_its_time(tmp_path: Path) -> None:
    """After a power cut the validator needs longer than the agent: that alone fails no payment."""
    async with rig(tmp_path, device_lost_s=60) as r:
        payment = await r.create(3000)
        r.acceptor.state = r.second.state = DeviceState.STARTING
        await r.restart(seconds=5)
        await r.wait(40)
        assert r.state(payment) == "collecting"
        r.acceptor.state = DeviceState.READY
        await r.wait(40)
        assert r.state(payment) == "collecting"
        await r.cancel(payment)
