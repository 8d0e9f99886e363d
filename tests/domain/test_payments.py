"""Payments: the table of transitions, and that facts apply in every state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.domain import events as ev
from agent.domain.errors import IllegalTransition
from agent.domain.money import Money
from agent.domain.payments import TRANSITIONS, Payment, PaymentState, apply, create
from tests.domain.strategies import VALUES

EUR = Money.zero("EUR")
FIVE, TEN = Money(500, "EUR"), Money(1000, "EUR")

MOVES: dict[type[ev.PaymentEvent], ev.PaymentEvent] = {
    type(event): event
    for event in (
        ev.PaymentCompletionStarted(payment_id="p"),
        ev.PaymentChangeStarted(payment_id="p", change=FIVE),
        ev.PaymentCompleted(payment_id="p", paid=TEN),
        ev.PaymentCancelRequested(payment_id="p", reason="customer"),
        ev.PaymentCancelled(payment_id="p"),
        ev.PaymentExpiryStarted(payment_id="p"),
        ev.PaymentExpired(payment_id="p"),
        ev.PaymentFailed(payment_id="p", reason="device_gone"),
    )
}
S = PaymentState
ROADS = {  # DESIGN 7, state by state
    S.COLLECTING: {S.COMPLETING, S.CANCELLING, S.EXPIRING, S.FAILED},
    S.COMPLETING: {S.DISPENSING_CHANGE, S.COMPLETED, S.FAILED},
    S.DISPENSING_CHANGE: {S.COMPLETED, S.FAILED},
    S.CANCELLING: {S.CANCELLED, S.FAILED},
    S.EXPIRING: {S.EXPIRED, S.FAILED},
    S.COMPLETED: set(),
    S.CANCELLED: set(),
    S.EXPIRED: set(),
    S.FAILED: set(),
}


def new(amount: Money = TEN) -> Payment:
    return create(ev.PaymentCreated(payment_id="p", amount=amount, reference="room 12", timeout_s=60, deadline_us=7))


def in_state(state: PaymentState) -> Payment:
    from dataclasses import replace

    return replace(new(), state=state)


def stacked(value: Money) -> ev.NoteStacked:
    return ev.NoteStacked(device="v", note_id="n", value=value, note_code=3, payment_id="p")


def doubt(amount: Money | None) -> ev.DoubtOpened:
    return ev.DoubtOpened(device="v", doubt_id="n", amount=amount, payment_id="p", reason="power_lost", evidence=())


def resolved(outcome: str, doubted: Money | None, amount: Money | None) -> ev.DoubtResolved:
    return ev.DoubtResolved(
        doubt_id="n", device="v", outcome=outcome, doubted=doubted, amount=amount, payment_id="p", reason="counted"
    )


def test_a_new_payment_waits_for_its_whole_amount() -> None:
    payment = new()
    assert (payment.state, payment.missing) == (S.COLLECTING, TEN)
    assert (payment.collected, payment.claimed, payment.in_doubt) == (EUR, EUR, EUR)


def test_every_move_of_the_design_and_no_other() -> None:
    assert set(MOVES) == set(TRANSITIONS)
    for state in PaymentState:
        reached = set()
        for event in MOVES.values():
            try:
                reached.add(apply(in_state(state), event).state)
            except IllegalTransition as error:
                assert error.details == {"state": state.value}
        assert reached == ROADS[state]
        assert state.final == (not ROADS[state])


def test_the_reason_of_a_cancellation_and_of_a_failure_stays() -> None:
    cancelling = apply(new(), MOVES[ev.PaymentCancelRequested])
    assert apply(cancelling, MOVES[ev.PaymentCancelled]).reason == "customer"
    assert apply(new(), MOVES[ev.PaymentFailed]).reason == "device_gone"


def test_more_time_is_given_only_while_collecting() -> None:
    extended = ev.PaymentExtended(payment_id="p", deadline_us=99)
    assert apply(new(), extended).deadline_us == 99
    for state in set(PaymentState) - {S.COLLECTING}:
        with pytest.raises(IllegalTransition):
            apply(in_state(state), extended)


@pytest.mark.parametrize("state", list(PaymentState))
def test_facts_apply_in_every_state(state: PaymentState) -> None:
    payment = in_state(state)
    assert apply(payment, stacked(FIVE)).collected == FIVE
    assert apply(payment, doubt(FIVE)).in_doubt == FIVE
    claim = ev.ClaimIssued(claim_id="c", code="X", payment_id="p", amount=FIVE, reason="overpaid")
    assert apply(payment, claim).claimed == FIVE
    assert apply(payment, ev.AgentStarted(version="1")) == payment


def test_foreign_money_leaves_the_totals_alone() -> None:
    assert apply(new(), stacked(Money(700, "JPY"))) == new()


def test_missing_is_never_negative() -> None:
    assert apply(apply(new(FIVE), stacked(FIVE)), stacked(FIVE)).missing == EUR


@pytest.mark.parametrize(
    ("opened", "event", "collected"),
    [
        (FIVE, resolved("stacked", FIVE, FIVE), FIVE),
        (FIVE, resolved("stacked", FIVE, TEN), TEN),
        (None, resolved("stacked", None, FIVE), FIVE),
        (FIVE, resolved("returned", FIVE, None), EUR),
        (FIVE, resolved("explained", FIVE, None), EUR),
        (FIVE, resolved("explained", FIVE, FIVE), FIVE),
    ],
)
def test_a_resolved_doubt_is_over_and_counts_what_was_found(
    opened: Money | None, event: ev.DoubtResolved, collected: Money
) -> None:
    payment = apply(apply(new(), doubt(opened)), event)
    assert (payment.in_doubt, payment.collected) == (EUR, collected)


@given(st.lists(st.sampled_from(VALUES)), st.lists(st.sampled_from(sorted(MOVES, key=lambda kind: kind.TYPE))))
def test_whatever_is_tried_collected_is_the_sum_of_the_notes(
    values: list[Money], moves: list[type[ev.PaymentEvent]]
) -> None:
    payment = new()
    for place, value in enumerate(values):
        payment = apply(payment, stacked(value))
        for move in moves[place : place + 1]:
            try:
                payment = apply(payment, MOVES[move])
            except IllegalTransition:
                continue
    assert payment.collected.minor == sum(value.minor for value in values if value.currency == "EUR")
