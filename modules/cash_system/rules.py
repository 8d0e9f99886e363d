"""What the money asks for next: pure functions of what the journal says and what the clock and devices are like.

Nothing here reads or writes. The service calls these inside its transaction, so that two calls at the same moment
(double click, two tabs, a cancel racing with the last note) each decide on the state that the other left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.domain import events as ev
from agent.domain.events import Denomination, Event
from agent.domain.money import Money
from agent.domain.payments import Payment, PaymentState

NewClaim = Callable[[Payment, Money, str], ev.ClaimIssued]
_S = PaymentState


@dataclass(frozen=True, slots=True)
class Situation:
    """One payment and all that its next step depends on.

    `paid`: what has gone to sales; `notes_in_flight`: notes asked into the box without an outcome yet; `foreign`: what
    was stacked for it in other currencies and is not a claim yet; `overdue`: its time is up; `device_lost`: no acceptor
    has worked for too long; `waited_enough`: notes in flight are not waited for any longer.
    """

    payment: Payment
    paid: Money
    notes_in_flight: int = 0
    foreign: tuple[Money, ...] = ()
    overdue: bool = False
    device_lost: bool = False
    waited_enough: bool = False

    @property
    def unsettled(self) -> Money:
        """Collected, but neither sold nor owed yet."""
        return self.payment.collected - self.paid - self.payment.claimed


def next_events(now: Situation, new_claim: NewClaim) -> tuple[Event, ...]:
    """The events of the next step, to be written in one transaction; empty when there is nothing to do (yet)."""
    payment = now.payment
    if now.foreign:
        return tuple(new_claim(payment, amount, "foreign_note") for amount in now.foreign)
    if payment.state.final:
        return (new_claim(payment, now.unsettled, "late_note"),) if now.unsettled.minor > 0 else ()
    if payment.state is _S.COLLECTING:
        return _collecting(now, new_claim)
    if now.notes_in_flight and not now.waited_enough:
        return ()
    return _settling(now, new_claim)


def _collecting(now: Situation, new_claim: NewClaim) -> tuple[Event, ...]:
    payment = now.payment
    if payment.missing.minor == 0:
        return (ev.PaymentCompletionStarted(payment_id=payment.id),)
    if now.overdue:
        return (ev.PaymentExpiryStarted(payment_id=payment.id),)
    if now.device_lost:
        return (*_claim(now, new_claim, "failed"), ev.PaymentFailed(payment_id=payment.id, reason="device_lost"))
    return ()


def _settling(now: Situation, new_claim: NewClaim) -> tuple[Event, ...]:
    payment = now.payment
    match payment.state:
        case _S.COMPLETING if payment.collected > payment.amount:
            change = payment.collected - payment.amount
            return (ev.PaymentChangeStarted(payment_id=payment.id, change=change),)
        case _S.COMPLETING | _S.DISPENSING_CHANGE:
            paid = min(payment.collected, payment.amount, key=lambda money: money.minor)
            over = payment.collected - payment.claimed - paid
            claims = (new_claim(payment, over, "overpaid"),) if over.minor > 0 else ()
            return (*claims, ev.PaymentCompleted(payment_id=payment.id, paid=paid))
        case _S.CANCELLING:
            return (*_claim(now, new_claim, "cancelled"), ev.PaymentCancelled(payment_id=payment.id))
        case _S.EXPIRING:
            return (*_claim(now, new_claim, "expired"), ev.PaymentExpired(payment_id=payment.id))
        case _:
            return ()


def _claim(now: Situation, new_claim: NewClaim, reason: str) -> tuple[Event, ...]:
    return (new_claim(now.payment, now.unsettled, reason),) if now.unsettled.minor > 0 else ()


def why_return(
    value: Money | None, payment: Payment | None, in_flight_minor: int, *, accepting: bool, overdue: bool
) -> str | None:
    """Why a note in escrow goes back to the customer; None when it may be kept.

    `in_flight_minor`: other notes already on their way into the box for this payment, in its currency.
    """
    if payment is None:
        return "no_payment"
    if payment.state is not _S.COLLECTING:
        return "payment_over"
    if overdue:
        return "time_is_up"
    if not accepting:
        return "acceptance_inhibited"
    if value is None:
        return "unknown_value"
    if value.currency != payment.amount.currency:
        return "foreign_currency"
    if payment.allowed_minor and value.minor not in payment.allowed_minor:
        return "denomination_not_allowed"
    expected = payment.collected.minor + in_flight_minor
    if expected >= payment.amount.minor:
        return "amount_reached"
    limit = payment.max_overpay_minor
    if limit is not None and expected + value.minor - payment.amount.minor > limit:
        return "overpaid_too_much"
    return None


def useful_notes(payment: Payment, table: Iterable[Denomination]) -> frozenset[Money] | None:
    """Notes that the acceptor should take for this payment now. None: any, since the device's table is not known yet
    (escrow decides). Empty: none."""
    if payment.state is not _S.COLLECTING or payment.missing.minor == 0:
        return frozenset()
    currency = payment.amount.currency
    known = {entry.value for entry in table}
    if not known:
        return frozenset(Money(minor, currency) for minor in payment.allowed_minor) or None
    limit = payment.max_overpay_minor
    return frozenset(
        value
        for value in known
        if value.currency == currency
        and (not payment.allowed_minor or value.minor in payment.allowed_minor)
        and (limit is None or value.minor <= payment.missing.minor + limit)
    )


def remaining_after_restart(payment: Payment, now_us: int, grace_s: float) -> float:
    """Seconds that a payment found open at start-up has left: by its deadline, but the wall clock may have jumped, so
    never less than `grace_s` and never more than its own time-out."""
    left_s = (payment.deadline_us - now_us) / 1_000_000
    return min(max(left_s, grace_s), float(payment.timeout_s))
