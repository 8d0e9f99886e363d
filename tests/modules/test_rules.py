"""The pure decisions, at their edges."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from agent.domain import events as ev
from agent.domain import payments
from agent.domain.events import Denomination
from agent.domain.money import Money
from agent.domain.payments import Payment
from modules.cash_system.rules import Situation, next_events, remaining_after_restart, useful_notes, why_return
from modules.cash_system.settings import CashSettings
from tests.modules.rig import eur, table_of


def payment(minor: int = 3000, collected: int = 0, **options: Any) -> Payment:
    event = ev.PaymentCreated(
        payment_id="p", amount=eur(minor), reference="", timeout_s=60, deadline_us=100_000_000, **options
    )
    made = payments.create(event)
    if collected:
        note = ev.NoteStacked(device="d", note_id="n", value=eur(collected), note_code=0, payment_id="p")
        made = payments.apply(made, note)
    return made


def claim(of: Payment, amount: Money, reason: str) -> ev.ClaimIssued:
    return ev.ClaimIssued(claim_id="c", code="X", payment_id=of.id, amount=amount, reason=reason)


def test_without_a_known_table_the_escrow_decides() -> None:
    """A device that has not told its table yet is let loose on every note; what does not fit goes back from escrow."""
    assert useful_notes(payment(), []) is None
    assert useful_notes(payment(allowed_minor=(500,)), []) == frozenset({eur(500)})
    assert useful_notes(payment(3000, collected=3000), []) == frozenset()


def test_of_several_currencies_only_the_payments_own_is_taken() -> None:
    table = [*table_of("EUR", (500,)), *table_of("USD", (500,)), Denomination(code=9, value=Money(500, "RUB"))]
    assert useful_notes(payment(), table) == frozenset({eur(500)})


@pytest.mark.parametrize(
    ("now_us", "left_s"),
    [(100_000_000, 30.0), (50_000_000, 50.0), (0, 60.0), (10**15, 30.0), (-(10**15), 60.0)],
)
def test_time_left_after_a_restart_has_a_floor_and_a_ceiling(now_us: int, left_s: float) -> None:
    assert remaining_after_restart(payment(), now_us, grace_s=30) == left_s


def test_an_over_payment_is_allowed_up_to_its_limit_exactly() -> None:
    limited = payment(3000, collected=2000, max_overpay_minor=1000)
    assert why_return(eur(2000), limited, 0, accepting=True, overdue=False) is None
    assert why_return(eur(2001), limited, 0, accepting=True, overdue=False) == "overpaid_too_much"
    assert why_return(eur(500), limited, 1000, accepting=True, overdue=False) == "amount_reached"
    assert why_return(eur(500), limited, 0, accepting=True, overdue=True) == "time_is_up"


def test_reaching_the_amount_comes_before_running_out_of_time_or_device() -> None:
    """Paid is paid, even when the last note and the end of the time come together."""
    reached = Situation(payment=payment(3000, collected=3000), paid=eur(0), overdue=True, device_lost=True)
    assert next_events(reached, claim) == (ev.PaymentCompletionStarted(payment_id="p"),)


def test_nothing_collected_is_nothing_owed() -> None:
    lost = Situation(payment=payment(), paid=eur(0), device_lost=True)
    assert next_events(lost, claim) == (ev.PaymentFailed(payment_id="p", reason="device_lost"),)


def test_what_was_claimed_before_is_not_claimed_again() -> None:
    made = payments.apply(payment(3000, collected=5000), ev.PaymentCompletionStarted(payment_id="p"))
    made = payments.apply(made, ev.PaymentChangeStarted(payment_id="p", change=eur(2000)))
    made = payments.apply(made, claim(made, eur(2000), "overpaid"))
    assert next_events(Situation(payment=made, paid=eur(0)), claim) == (
        ev.PaymentCompleted(payment_id="p", paid=eur(3000)),
    )


def test_the_default_time_must_fit_its_limit() -> None:
    with pytest.raises(ValidationError, match="must not exceed"):
        CashSettings(timeout_s=600, timeout_max_s=300)
    with pytest.raises(ValidationError, match="extra"):
        CashSettings.model_validate({"timeout": 60})
