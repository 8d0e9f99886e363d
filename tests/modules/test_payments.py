"""A payment's whole life: every state, every way out, and what becomes of each note."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.domain import events as ev
from agent.domain.errors import IllegalTransition, NotFound
from agent.domain.money import Money
from agent.store.errors import StorageFailed
from drivers.ports import DeviceState
from modules.cash_system import errors
from tests.modules.rig import Rig, eur, rig


async def test_exact_amount_completes_and_everything_is_sold(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(3000)
        assert r.acceptor.enabled == frozenset(map(eur, (500, 1000, 2000, 5000, 10000)))
        await r.pay(1000)
        assert (r.state(payment), r.payment(payment).missing_minor) == ("collecting", 2000)
        await r.pay(2000)
        assert r.state(payment) == "completed"
        assert r.acceptor.enabled is False
        assert r.payment(payment).paid_minor == 3000
        assert r.claims(payment) == []
        assert r.balances()["sales", "EUR"] == (-3000, 0)
        assert r.balances()["stacker:cashcode", "EUR"] == (3000, 0)


async def test_the_intent_is_committed_before_the_acceptor_is_told(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(1000)
        note = await r.insert(1000)
        assert [each.note_id for each in r.events(ev.StackRequested)] == [note]
        assert r.acceptor.told == [("stack", note, payment)]


async def test_what_is_over_the_amount_becomes_a_claim_with_the_completion(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(1500)
        await r.pay(5000)
        assert r.state(payment) == "completed"
        assert r.claims(payment) == [(3500, "EUR", "overpaid")]
        assert r.payment(payment).paid_minor == 1500
        assert r.types()[-4:] == [
            "cash.payment.completion_started",
            "cash.payment.change_started",
            "cash.claim.issued",
            "cash.payment.completed",
        ]
        assert r.balances()["owed", "EUR"] == (-3500, 0)


async def test_cancel_gives_the_escrowed_note_back_and_the_rest_a_claim(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000)
        await r.pay(2000)
        status, body = await r.cancel(payment)
        assert (status, body["state"]) == (200, "cancelling")
        assert r.state(payment) == "cancelled"
        assert r.claims(payment) == [(2000, "EUR", "cancelled")]
        await r.insert(1000)  # it was in the bezel already
        assert await r.obey() == "return"
        assert r.events(ev.ReturnRequested)[-1].reason == "no_payment"


async def test_cancel_waits_for_the_note_on_its_way_into_the_box(tmp_path: Path) -> None:
    """A note that was asked into the box belongs to the payment, whichever side it comes out on."""
    async with rig(tmp_path) as r:
        payment = await r.create(5000)
        await r.insert(2000)
        await r.cancel(payment)
        assert r.state(payment) == "cancelling"
        await r.obey()
        assert r.state(payment) == "cancelled"
        assert r.claims(payment) == [(2000, "EUR", "cancelled")]


async def test_cancel_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A device that says nothing more: the payment ends, and the note that comes later is owed."""
    async with rig(tmp_path, settle_wait_s=10) as r:
        payment = await r.create(5000)
        note = await r.insert(2000)
        await r.cancel(payment)
        await r.wait(9)
        assert r.state(payment) == "cancelling"
        await r.wait(3)
        assert (r.state(payment), r.claims(payment)) == ("cancelled", [])
        await r.stacked(note, eur(2000), payment)
        assert r.claims(payment) == [(2000, "EUR", "late_note")]


async def test_cancel_with_nothing_collected_owes_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000)
        await r.cancel(payment)
        assert (r.state(payment), r.claims(payment)) == ("cancelled", [])


async def test_cancel_is_idempotent_and_refused_when_the_payment_ended_otherwise(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first = await r.create(1000)
        await r.cancel(first)
        status, body = await r.cancel(first)
        assert (status, body["state"]) == (200, "cancelled")
        second = await r.create(1000)
        await r.pay(1000)
        with pytest.raises(IllegalTransition):
            await r.cancel(second)
        with pytest.raises(NotFound):
            await r.cancel("nobody")


async def test_the_last_note_wins_over_a_cancel_that_comes_after_it(tmp_path: Path) -> None:
    """Stacked and committed, the handler not yet run: the customer has paid, so the payment completes."""
    async with rig(tmp_path) as r:
        payment = await r.create(1000)
        await r.insert(1000)
        note = r.acceptor.told[-1][1]
        r.acceptor.box[eur(1000)] += 1
        stacked = ev.NoteStacked(device="cashcode", note_id=note, value=eur(1000), note_code=1, payment_id=payment)
        await r.store.record([stacked], actor="device:cashcode")
        with pytest.raises(errors.AmountReached):
            await r.cancel(payment)
        await r.pump()
        assert r.state(payment) == "completed"


async def test_two_clients_at_once_start_one_payment(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        results = await asyncio.gather(*(r.create(1000) for _ in range(8)), return_exceptions=True)
        made = [each for each in results if isinstance(each, str)]
        refused = [each for each in results if isinstance(each, errors.PaymentInProgress)]
        assert (len(made), len(refused)) == (1, 7)
        assert all(each.details["payment_id"] == made[0] for each in refused)


async def test_cancel_and_last_note_at_the_same_moment_end_in_one_way(tmp_path: Path) -> None:
    for turn in range(10):
        async with rig(tmp_path / str(turn), seed=turn) as r:
            payment = await r.create(1000)
            await r.insert(1000)
            cancel = r.cancel(payment)
            obey = r.obey()
            await asyncio.gather(*((cancel, obey) if turn % 2 else (obey, cancel)), return_exceptions=True)
            await r.pump()
            outcome = (r.state(payment), r.claims(payment))
            assert outcome in (("completed", []), ("cancelled", [(1000, "EUR", "cancelled")]))


async def test_time_runs_out(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000, timeout_s=60)
        await r.pay(1000)
        await r.wait(58)
        assert r.state(payment) == "collecting"
        await r.wait(4)
        assert r.state(payment) == "expired"
        assert r.claims(payment) == [(1000, "EUR", "expired")]
        assert r.acceptor.enabled is False


async def test_a_jump_of_the_wall_clock_does_not_end_a_payment(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000, timeout_s=60)
        r.clock.jump(86_400)
        await r.wait(30)
        assert r.state(payment) == "collecting"
        assert 25 <= (r.payment(payment).remaining_s or 0) <= 30


async def test_extend_starts_the_time_anew_and_has_a_limit(tmp_path: Path) -> None:
    async with rig(tmp_path, extensions_max=2) as r:
        payment = await r.create(5000, timeout_s=60)
        await r.wait(50)
        await r.extend(payment)
        assert r.payment(payment).remaining_s == pytest.approx(60, abs=1)
        await r.wait(50)
        assert r.state(payment) == "collecting"
        await r.extend(payment)
        assert r.payment(payment).extensions_left == 0
        with pytest.raises(errors.ExtensionLimit):
            await r.extend(payment)
        await r.cancel(payment)


async def test_an_extension_that_comes_with_the_expiry_is_not_overruled(tmp_path: Path) -> None:
    """The timer rang for the old deadline: the transaction sees the new one and lets the payment live."""
    async with rig(tmp_path) as r:
        payment = await r.create(5000, timeout_s=60)
        await r.wait(59)
        r.clock.forward(2)  # due, and the timer task has not had its turn
        await r.run(r.service.extending(payment))
        await r.service.settle(payment)
        await r.wait(5)
        assert r.state(payment) == "collecting"


async def test_finish_takes_a_part_where_that_is_allowed(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000, allow_partial=True)
        with pytest.raises(errors.NothingCollected):
            await r.finish(payment)
        await r.pay(2000)
        await r.finish(payment)
        assert (r.state(payment), r.payment(payment).paid_minor, r.claims(payment)) == ("completed", 2000, [])
        status, body = await r.finish(payment)
        assert (status, body["state"]) == (200, "completed")


async def test_finish_is_refused_where_the_whole_is_due(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000)
        await r.pay(2000)
        with pytest.raises(errors.PartialNotAllowed):
            await r.finish(payment)
        await r.cancel(payment)
        with pytest.raises(IllegalTransition):
            await r.finish(payment)


@pytest.mark.parametrize(
    ("minor", "currency", "options", "reason"),
    [
        (0, "EUR", {}, "unknown_value"),
        (2000, "USD", {}, "foreign_currency"),
        (2000, "EUR", {"allowed_minor": [500, 1000]}, "denomination_not_allowed"),
        (5000, "EUR", {"max_overpay_minor": 500}, "overpaid_too_much"),
    ],
)
async def test_notes_that_must_not_be_kept_go_back(
    tmp_path: Path, minor: int, currency: str, options: dict[str, Any], reason: str
) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(3000, **options)
        assert await r.pay(minor, currency) == "return"
        request = r.events(ev.ReturnRequested)[-1]
        assert (request.reason, request.payment_id) == (reason, payment)
        assert r.payment(payment).collected_minor == 0
        await r.cancel(payment)


async def test_acceptors_take_only_what_helps(tmp_path: Path) -> None:
    """Denominations that would be given back anyway are not let in; the set shrinks with what is missing."""
    async with rig(tmp_path) as r:
        payment = await r.create(3000, max_overpay_minor=0, allowed_minor=[500, 1000, 2000])
        assert r.acceptor.enabled == {eur(500), eur(1000), eur(2000)}
        await r.pay(2000)
        assert r.acceptor.enabled == {eur(500), eur(1000)}
        await r.pay(500)
        assert r.acceptor.enabled == {eur(500)}
        await r.pay(500)
        assert (r.state(payment), r.acceptor.enabled) == ("completed", False)


async def test_a_note_beyond_the_amount_is_not_taken_while_the_last_is_on_its_way(tmp_path: Path) -> None:
    """Two acceptors, one payment: what is in flight counts as paid until the device says otherwise."""
    async with rig(tmp_path) as r:
        payment = await r.create(1000)
        await r.insert(1000)
        await r.insert(1000, acceptor=r.second)
        assert await r.obey(r.second) == "return"
        assert r.events(ev.ReturnRequested)[-1].reason == "amount_reached"
        await r.obey()
        assert (r.state(payment), r.claims(payment)) == ("completed", [])


async def test_a_note_of_another_currency_that_was_stacked_anyway_is_owed(tmp_path: Path) -> None:
    """The device said EUR in escrow and stacked USD: it is real money, and not this payment's."""
    async with rig(tmp_path) as r:
        payment = await r.create(3000)
        note = await r.insert(1000)
        r.acceptor.escrow = None
        await r.stacked(note, Money(1000, "USD"), payment)
        assert r.claims(payment) == [(1000, "USD", "foreign_note")]
        assert (r.state(payment), r.payment(payment).collected_minor) == ("collecting", 0)
        await r.cancel(payment)
        assert len(r.claims(payment)) == 1


async def test_a_note_without_a_payment_goes_back_and_one_that_stacks_itself_is_unattributed(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.insert(1000)
        assert await r.obey() == "return"
        await r.stacked("a-note", eur(1000), None)
        assert r.balances()["unattributed", "EUR"] == (-1000, 0)


async def test_no_payment_starts_while_no_money_may_be_taken(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        r.devices.reasons = ["disk_low"]
        with pytest.raises(errors.AcceptanceInhibited) as refused:
            await r.create(1000)
        assert refused.value.details["reasons"] == ["disk_low"]
        assert r.service.acceptance().reasons == ["disk_low"]
        r.devices.reasons = []
        with pytest.raises(errors.NoAcceptor):
            await r.create(1000, "USD")
        r.acceptor.state = r.second.state = DeviceState.FAULTED
        with pytest.raises(errors.NoAcceptor):
            await r.create(1000)
        assert not r.service.acceptance().accepting


async def test_no_payment_starts_that_no_note_could_pay(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        for options in ({"allowed_minor": [300]}, {"max_overpay_minor": 0}, {"max_overpay_minor": 199}):
            with pytest.raises(errors.NoAcceptor):
                await r.create(300, **options)
        await r.cancel(await r.create(300, max_overpay_minor=200))


async def test_the_timers_outlive_a_store_that_fails_for_a_while(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(5000, timeout_s=60)
        whole = r.store.read
        r.store.read = _failing  # type: ignore[method-assign]
        r.clock.forward(30)
        await r.clock.quiet()
        r.clock.forward(10)
        await r.clock.quiet()
        r.store.read = whole  # type: ignore[method-assign]
        await r.wait(30)
        assert r.state(payment) == "expired"


def _failing() -> Any:
    raise StorageFailed("the disk is away")


async def test_limits_of_amount_and_time(tmp_path: Path) -> None:
    async with rig(tmp_path, amount_max_minor=10_000, timeout_max_s=300) as r:
        with pytest.raises(errors.AmountTooLarge):
            await r.create(10_001)
        with pytest.raises(errors.TimeoutTooLong):
            await r.create(100, timeout_s=301)


async def test_an_inhibit_in_the_middle_gives_notes_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(3000)
        r.devices.reasons = ["commits_slow"]
        await r.pay(1000)
        assert r.events(ev.ReturnRequested)[-1].reason == "acceptance_inhibited"
        r.devices.reasons = []
        assert await r.pay(1000) == "stack"
        await r.cancel(payment)


async def test_a_device_that_stays_away_fails_the_payment(tmp_path: Path) -> None:
    """What was paid is owed; a device that comes back in time changes nothing."""
    async with rig(tmp_path, device_lost_s=30) as r:
        payment = await r.create(5000, timeout_s=600)
        await r.pay(2000)
        r.acceptor.state = r.second.state = DeviceState.OFFLINE
        await r.record(ev.DeviceOffline(device="cashcode", reason="unplugged"))
        await r.wait(20)
        r.acceptor.state = DeviceState.READY
        await r.record(ev.DeviceOnline(device="cashcode", protocol="hand"))
        await r.wait(20)
        assert r.state(payment) == "collecting"
        r.acceptor.state = DeviceState.FAULTED
        await r.record(ev.DeviceFaulted(device="cashcode", code="stacker_full"))
        await r.wait(40)
        assert r.state(payment) == "failed"
        assert r.payment(payment).reason == "device_lost"
        assert r.claims(payment) == [(2000, "EUR", "failed")]


async def test_a_doubt_is_an_amount_and_the_payment_goes_on(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(2000)
        await r.insert(1000)
        await r.doubt()
        assert (r.payment(payment).in_doubt_minor, r.state(payment)) == (1000, "collecting")
        await r.pay(2000)
        assert (r.state(payment), r.claims(payment)) == ("completed", [])
        assert r.payment(payment).in_doubt_minor == 1000


async def test_a_cancelled_payment_does_not_wait_for_a_doubt(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(2000)
        await r.insert(1000)
        await r.cancel(payment)
        assert r.state(payment) == "cancelling"
        await r.doubt()
        assert r.state(payment) == "cancelled"


async def test_rebuilt_tables_are_the_same(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        first = await r.create(1500)
        await r.pay(5000)
        second = await r.create(5000)
        await r.pay(1000)
        await r.insert(2000)
        doubt = await r.doubt()
        await r.cancel(second)
        await r.resolve(doubt, "stacked")
        third = await r.create(1000)
        await r.extend(third)
        before = _tables(r)
        await r.store.rebuild()
        assert _tables(r) == before
        assert {first, second, third} == {row["id"] for row in before["payments"]}
        await r.cancel(third)


def _tables(r: Rig) -> dict[str, list[dict[str, object]]]:
    with r.store.read() as reader:
        names = ("payments", "notes", "claims", "doubts", "unit_contents", "balances")
        return {name: [dict(row) for row in reader.all(f"SELECT * FROM {name} ORDER BY 1, 2, 3")] for name in names}
