"""Double entry: whatever happens to notes, doubts and claims, every sum stays zero and nothing pending is forgotten."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given

from agent.domain import events as ev
from agent.domain.errors import UnbalancedEntries
from agent.domain.ledger import (
    CUSTOMER,
    IN_DOUBT,
    OWED,
    SALES,
    UNATTRIBUTED,
    Entry,
    State,
    check_balanced,
    entries_for,
    settled_transfer,
    stacker_of,
)
from agent.domain.money import Money
from tests.domain.strategies import ANY_EVENT, note_histories

BOX, FIVE = stacker_of("validator"), Money(500, "EUR")


def book(history: list[ev.Event]) -> tuple[dict[tuple[bool, str, str], int], dict[str, list[Entry]]]:
    """Balances by (posted?, account, currency), and what is still pending, by transfer."""
    balances: defaultdict[tuple[bool, str, str], int] = defaultdict(int)
    pending: dict[str, list[Entry]] = {}
    for event in history:
        transfer = settled_transfer(event)
        entries = entries_for(event, pending.pop(transfer, []) if transfer is not None else [])
        for entry in entries:
            balances[entry.state is State.POSTED, entry.account, entry.amount.currency] += entry.amount.minor
            if entry.state is State.PENDING:
                pending.setdefault(entry.transfer_id, []).append(entry)
    return dict(balances), pending


@given(note_histories())
def test_sums_stay_zero_in_every_history(history: list[ev.Event]) -> None:
    balances, pending = book(history)
    for posted in (True, False):
        for currency in ("EUR", "JPY"):
            assert sum(v for (p, _, c), v in balances.items() if (p, c) == (posted, currency)) == 0
    waiting: defaultdict[tuple[str, str], int] = defaultdict(int)
    for entries in pending.values():
        for entry in entries:
            waiting[entry.account, entry.amount.currency] += entry.amount.minor
    held = {(account, currency): v for (posted, account, currency), v in balances.items() if not posted and v}
    assert held == {place: v for place, v in waiting.items() if v}


@given(note_histories())
def test_the_box_holds_what_was_stacked_or_found(history: list[ev.Event]) -> None:
    balances, _ = book(history)
    for device in ("validator", "second"):
        for currency in ("EUR", "JPY"):
            stacked = sum(
                event.value.minor
                for event in history
                if isinstance(event, ev.NoteStacked) and (event.device, event.value.currency) == (device, currency)
            )
            found = sum(
                event.amount.minor
                for event in history
                if isinstance(event, ev.DoubtResolved)
                and event.amount is not None
                and (event.device, event.amount.currency, event.outcome) == (device, currency, "stacked")
            )
            assert balances.get((True, stacker_of(device), currency), 0) == stacked + found


@given(ANY_EVENT)
def test_only_events_that_settle_a_transfer_void_anything(event: ev.Event) -> None:
    """The store looks for pending entries only where `settled_transfer` names one."""
    pending = [Entry(State.PENDING, BOX, FIVE, "t"), Entry(State.PENDING, CUSTOMER, -FIVE, "t")]
    voids = [entry for entry in entries_for(event, pending) if entry.state is State.VOIDED]
    assert bool(voids) == (settled_transfer(event) is not None)


def posted(event: ev.Event) -> dict[str, int]:
    return {entry.account: entry.amount.minor for entry in entries_for(event) if entry.state is State.POSTED}


def resolved(outcome: str, amount: Money | None, payment_id: str | None) -> ev.DoubtResolved:
    return ev.DoubtResolved(
        doubt_id="n",
        device="validator",
        outcome=outcome,
        doubted=FIVE,
        amount=amount,
        payment_id=payment_id,
        reason="counted",
    )


def test_who_grows_and_who_shrinks() -> None:
    stacked = ev.NoteStacked(device="validator", note_id="n", value=FIVE, note_code=3, payment_id="p")
    nobodys = ev.NoteStacked(device="validator", note_id="n", value=FIVE, note_code=3, payment_id=None)
    claim = ev.ClaimIssued(claim_id="c", code="X", payment_id="p", amount=FIVE, reason="overpaid")
    assert posted(stacked) == {BOX: 500, CUSTOMER: -500}
    assert posted(nobodys) == {BOX: 500, UNATTRIBUTED: -500}
    assert posted(claim) == {OWED: -500, CUSTOMER: 500}
    assert posted(ev.PaymentCompleted(payment_id="p", paid=FIVE)) == {SALES: -500, CUSTOMER: 500}
    assert posted(ev.PaymentCompleted(payment_id="p", paid=Money(0, "EUR"))) == {}
    assert posted(resolved("stacked", FIVE, "p")) == {BOX: 500, CUSTOMER: -500}
    assert posted(resolved("stacked", FIVE, None)) == {BOX: 500, UNATTRIBUTED: -500}
    assert posted(resolved("stacked", None, "p")) == {}
    assert posted(resolved("returned", None, "p")) == {}
    assert posted(resolved("explained", FIVE, "p")) == {CUSTOMER: -500, UNATTRIBUTED: 500}
    assert posted(resolved("explained", FIVE, None)) == {}
    assert posted(ev.AgentStarted(version="1")) == {}


def test_a_doubt_moves_what_was_pending_and_an_unknown_amount_moves_nothing() -> None:
    escrow = ev.NoteEscrowed(device="validator", note_id="n", value=FIVE, note_code=3)
    assert entries_for(ev.NoteEscrowed(device="validator", note_id="n", value=None, note_code=9)) == ()
    doubt = ev.DoubtOpened(
        device="validator", doubt_id="n", amount=FIVE, payment_id=None, reason="power_lost", evidence=()
    )
    entries = entries_for(doubt, entries_for(escrow))
    sums: defaultdict[str, int] = defaultdict(int)
    for entry in (*entries_for(escrow), *entries):
        sums[entry.account] += entry.amount.minor
    assert dict(sums) == {BOX: 0, CUSTOMER: -500, IN_DOUBT: 500}
    unknown = ev.DoubtOpened(
        device="validator", doubt_id="n", amount=None, payment_id=None, reason="unknown_value", evidence=()
    )
    assert entries_for(unknown) == ()


@pytest.mark.parametrize("state", [State.POSTED, State.PENDING])
def test_entries_that_do_not_sum_to_zero_are_refused(state: State) -> None:
    with pytest.raises(UnbalancedEntries, match="posted" if state is State.POSTED else "pending"):
        check_balanced([Entry(state, BOX, FIVE, "t")])


def test_voiding_balances_against_its_own_pending_group() -> None:
    check_balanced([Entry(State.PENDING, BOX, FIVE, "t"), Entry(State.VOIDED, CUSTOMER, -FIVE, "t")])
