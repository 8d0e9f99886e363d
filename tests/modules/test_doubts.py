"""Money in doubt: it is kept apart with its evidence until a person has decided, and then booked exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.domain.errors import NotFound
from agent.domain.money import Money
from modules.cash_system import errors, queries
from tests.modules.rig import Rig, eur, rig


async def _doubt_of_a_cancelled_payment(r: Rig) -> tuple[str, str]:
    payment = await r.create(5000)
    await r.insert(2000)
    doubt = await r.doubt()
    await r.cancel(payment)
    assert (r.state(payment), r.claims(payment)) == ("cancelled", [])
    return payment, doubt


async def test_nothing_resolves_itself(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        _, doubt = await _doubt_of_a_cancelled_payment(r)
        await r.wait(600, step=60)
        await r.restart(seconds=86_400)
        with r.store.read() as reader:
            (row,) = queries.doubts(reader, 10, open_only=True)
        assert (row["id"], row["amount_minor"], row["reason"]) == (doubt, 2000, "idle_after_stack")
        assert "IDLING" in row["evidence"]
        assert r.balances()["in_doubt", "EUR"] == (0, 2000)


async def test_found_in_the_box_it_is_owed_by_a_payment_that_is_over(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment, doubt = await _doubt_of_a_cancelled_payment(r)
        status, body = await r.resolve(doubt, "stacked")
        assert (status, body["open"], body["found_minor"], body["resolved_by"]) == (200, False, 2000, "user:anna")
        assert r.claims(payment) == [(2000, "EUR", "doubt_resolved")]
        assert r.payment(payment).in_doubt_minor == 0
        assert r.balances()["stacker:cashcode", "EUR"] == (2000, 0)
        assert r.balances()["in_doubt", "EUR"] == (0, 0)


async def test_found_in_the_box_it_is_credit_of_a_payment_that_collects(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(2000)
        await r.insert(2000)
        doubt = await r.doubt()
        await r.resolve(doubt, "stacked")
        assert (r.state(payment), r.claims(payment), r.payment(payment).paid_minor) == ("completed", [], 2000)


async def test_the_customer_has_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment, doubt = await _doubt_of_a_cancelled_payment(r)
        r.acceptor.box.clear()
        await r.resolve(doubt, "returned")
        assert r.claims(payment) == []
        assert all(balance == (0, 0) for balance in r.balances().values())


async def test_a_late_report_for_nobody_explains_it_and_the_customer_is_owed(tmp_path: Path) -> None:
    """The device was in doubt, then reported the note after all: the row is money of nobody until a person joins
    the two."""
    async with rig(tmp_path) as r:
        payment, doubt = await _doubt_of_a_cancelled_payment(r)
        r.acceptor.box.clear()
        await r.stacked("another", eur(2000), None)
        with r.store.read() as reader:
            seq = next(row.seq for row in reader.rows(0, 999) if row.type == ev.NoteStacked.TYPE)
        await r.resolve(doubt, "explained", explained_by_seq=seq)
        assert r.claims(payment) == [(2000, "EUR", "doubt_resolved")]
        assert r.balances()["unattributed", "EUR"] == (0, 0)
        assert r.balances()["stacker:cashcode", "EUR"] == (2000, 0)


async def test_a_late_report_for_the_payment_explains_it_and_adds_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment, doubt = await _doubt_of_a_cancelled_payment(r)
        r.acceptor.box.clear()
        await r.stacked(doubt, eur(2000), payment)
        assert r.claims(payment) == [(2000, "EUR", "late_note")]
        with pytest.raises(errors.NoteAlreadyBooked):
            await r.resolve(doubt, "stacked")
        with r.store.read() as reader:
            seq = next(row.seq for row in reader.rows(0, 999) if row.type == ev.NoteStacked.TYPE)
        await r.resolve(doubt, "explained", explained_by_seq=seq)
        assert r.claims(payment) == [(2000, "EUR", "late_note")]
        assert r.payment(payment).in_doubt_minor == 0


async def test_a_row_explains_one_doubt_of_its_own_device_and_value(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        _, doubt = await _doubt_of_a_cancelled_payment(r)
        _, other = await _doubt_of_a_cancelled_payment(r)
        await r.stacked("x", eur(1000), None)
        await r.stacked("y", eur(2000), None, r.second)
        await r.stacked("z", eur(2000), None)
        with r.store.read() as reader:
            small, foreign, right = [row.seq for row in reader.rows(0, 999) if row.type == ev.NoteStacked.TYPE]
        for seq, refusal in [
            (None, errors.ExplanationInvalid),
            (1, errors.ExplanationInvalid),
            (99_999, errors.ExplanationInvalid),
            (small, errors.AmountDiffers),
            (foreign, errors.ExplanationInvalid),
        ]:
            with pytest.raises(refusal):
                await r.resolve(doubt, "explained", explained_by_seq=seq)
        await r.resolve(doubt, "explained", explained_by_seq=right)
        with pytest.raises(errors.ExplanationInvalid):
            await r.resolve(other, "explained", explained_by_seq=right)
        with pytest.raises(errors.DoubtAlreadyResolved):
            await r.resolve(doubt, "returned")
        with pytest.raises(NotFound):
            await r.resolve("nothing", "returned")


async def test_an_unknown_amount_is_named_by_the_person(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(2000)
        await r.cancel(payment)
        await r.record(
            ev.DoubtOpened(
                device="cashcode",
                doubt_id="d",
                amount=None,
                payment_id=payment,
                reason="unknown_value",
                evidence=(),
                awaits_ack=True,
            )
        )
        with pytest.raises(errors.AmountNeeded):
            await r.resolve("d", "stacked")
        await r.resolve("d", "stacked", amount_minor=5000, currency="EUR")
        assert r.claims(payment) == [(5000, "EUR", "doubt_resolved")]


async def test_a_known_amount_cannot_be_talked_away(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        _, doubt = await _doubt_of_a_cancelled_payment(r)
        with pytest.raises(errors.AmountDiffers):
            await r.resolve(doubt, "stacked", amount_minor=1000, currency="EUR")
        await r.resolve(doubt, "stacked", amount_minor=2000, currency="EUR")


async def test_foreign_money_found_is_owed_in_its_own_currency(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        payment = await r.create(2000)
        await r.record(
            ev.DoubtOpened(
                device="cashcode", doubt_id="d", amount=None, payment_id=payment, reason="unknown_value", evidence=()
            )
        )
        await r.resolve("d", "stacked", amount_minor=5000, currency="USD")
        assert r.claims(payment) == [(5000, "USD", "foreign_note")]
        await r.cancel(payment)
        assert len(r.claims(payment)) == 1
        assert r.balances()["owed", "USD"] == (-5000, 0)


async def test_a_doubt_of_nobody_is_resolved_without_a_claim(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        await r.record(
            ev.DoubtOpened(
                device="cashcode",
                doubt_id="d",
                amount=Money(500, "EUR"),
                payment_id=None,
                reason="power_cut",
                evidence=(),
            )
        )
        await r.resolve("d", "stacked")
        assert r.events(ev.ClaimIssued) == []
        assert r.balances()["unattributed", "EUR"] == (-500, 0)
