"""A payment is a value: `apply(payment, event) -> payment`. All states of DESIGN 7, and who may follow whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, unique

from agent.domain import events as ev
from agent.domain.errors import IllegalTransition
from agent.domain.money import Money


@unique
class PaymentState(Enum):
    COLLECTING = "collecting"
    COMPLETING = "completing"
    DISPENSING_CHANGE = "dispensing_change"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in _FINAL


_S = PaymentState
_FINAL = frozenset({_S.COMPLETED, _S.CANCELLED, _S.EXPIRED, _S.FAILED})
_OPEN = frozenset(_S) - _FINAL

TRANSITIONS: dict[type[ev.PaymentEvent], tuple[frozenset[PaymentState], PaymentState]] = {
    ev.PaymentCompletionStarted: (frozenset({_S.COLLECTING}), _S.COMPLETING),
    ev.PaymentChangeStarted: (frozenset({_S.COMPLETING}), _S.DISPENSING_CHANGE),
    ev.PaymentCompleted: (frozenset({_S.COMPLETING, _S.DISPENSING_CHANGE}), _S.COMPLETED),
    ev.PaymentCancelRequested: (frozenset({_S.COLLECTING}), _S.CANCELLING),
    ev.PaymentCancelled: (frozenset({_S.CANCELLING}), _S.CANCELLED),
    ev.PaymentExpiryStarted: (frozenset({_S.COLLECTING}), _S.EXPIRING),
    ev.PaymentExpired: (frozenset({_S.EXPIRING}), _S.EXPIRED),
    ev.PaymentFailed: (_OPEN, _S.FAILED),
}
"""Event → (states it may come from, state it leads to). `PaymentExtended` is allowed while collecting and stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """`collected` counts stacked notes and coins, `claimed` what has become a claim, `in_doubt` open doubts of known
    value. All three are of the payment's currency."""

    id: str
    amount: Money
    reference: str
    state: PaymentState
    timeout_s: int
    deadline_us: int
    allowed_minor: tuple[int, ...]
    max_overpay_minor: int | None
    allow_partial: bool
    collected: Money
    claimed: Money
    in_doubt: Money
    reason: str = ""

    @property
    def missing(self) -> Money:
        """What must still be inserted; zero when the amount is reached."""
        return Money(max(0, self.amount.minor - self.collected.minor), self.amount.currency)


def create(event: ev.PaymentCreated) -> Payment:
    zero = Money.zero(event.amount.currency)
    return Payment(
        id=event.payment_id,
        amount=event.amount,
        reference=event.reference,
        state=PaymentState.COLLECTING,
        timeout_s=event.timeout_s,
        deadline_us=event.deadline_us,
        allowed_minor=event.allowed_minor,
        max_overpay_minor=event.max_overpay_minor,
        allow_partial=event.allow_partial,
        collected=zero,
        claimed=zero,
        in_doubt=zero,
    )


def apply(payment: Payment, event: ev.Event) -> Payment:
    """The payment after `event`. Raises `IllegalTransition` when its state does not allow it.

    Facts (a stacked note, a doubt, a claim) apply in every state: what happened is never refused. A fact in a foreign
    currency leaves the totals alone: it is settled by a claim of its own.
    """
    match event:
        case ev.NoteStacked():
            return replace(payment, collected=_add(payment.collected, event.value))
        case ev.DoubtOpened():
            return replace(payment, in_doubt=_add(payment.in_doubt, event.amount))
        case ev.DoubtResolved():
            freed = None if event.doubted is None else -event.doubted
            found = event.amount if event.outcome in ("stacked", "explained") else None
            return replace(payment, in_doubt=_add(payment.in_doubt, freed), collected=_add(payment.collected, found))
        case ev.ClaimIssued():
            return replace(payment, claimed=_add(payment.claimed, event.amount))
        case ev.PaymentExtended():
            _require(payment, event, frozenset({PaymentState.COLLECTING}))
            return replace(payment, deadline_us=event.deadline_us)
        case ev.PaymentEvent() if type(event) in TRANSITIONS:
            sources, target = TRANSITIONS[type(event)]
            _require(payment, event, sources)
            return replace(payment, state=target, reason=getattr(event, "reason", payment.reason))
        case _:
            return payment


def _add(total: Money, amount: Money | None) -> Money:
    return total if amount is None or amount.currency != total.currency else total + amount


def _require(payment: Payment, event: ev.PaymentEvent, sources: frozenset[PaymentState]) -> None:
    if payment.state not in sources:
        raise IllegalTransition(
            f"payment {payment.id} is {payment.state.value}; {event.TYPE} is not possible now",
            state=payment.state.value,
        )
