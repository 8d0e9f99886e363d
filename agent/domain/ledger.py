"""Double-entry rules: which accounts an event moves, as entries that sum to zero per currency.

Sign: an account *grows* by a positive entry. `customer` is negative while the kiosk holds money it has not yet earned;
`sales`, `owed` and `unattributed` grow negative (where money came from or must go), cash units grow positive (where it
is). A note in escrow is *pending*; stacked *posts* it, returned *voids* it, each as a new row; none is edited.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import Enum, unique
from typing import Any, NamedTuple

from agent.domain import events as ev
from agent.domain.errors import UnbalancedEntries
from agent.domain.money import Money

CUSTOMER, SALES, OWED, IN_DOUBT, UNATTRIBUTED = "customer", "sales", "owed", "in_doubt", "unattributed"


def stacker_of(device: str) -> str:
    """The account of the box behind an acceptor."""
    return f"stacker:{device}"


@unique
class State(Enum):
    PENDING = "pending"  # money on its way; may still be voided
    VOIDED = "voided"  # cancels a pending entry: its amount is the pending one's, negated
    POSTED = "posted"  # final


class Entry(NamedTuple):
    """`amount` is added to `account` in the balance that `state` belongs to (VOIDED belongs to the pending one)."""

    state: State
    account: str
    amount: Money
    transfer_id: str


def entries_for(event: ev.Event, pending: Iterable[Entry] = ()) -> tuple[Entry, ...]:
    """Entries of one event. `pending` are the open pending entries of the transfer it settles.

    Raises `UnbalancedEntries` if they do not sum to zero per currency and state group: a defect, checked in production.
    """
    rule = _RULES.get(type(event))
    if rule is None:
        return ()
    entries = tuple(rule(event, tuple(pending)))
    check_balanced(entries)
    return entries


def moves_money(kind: type[ev.Event]) -> bool:
    """Whether events of this class can have entries at all."""
    return kind in _RULES


def settled_transfer(event: ev.Event) -> str | None:
    """Id of the transfer whose open pending entries `event` may void; None when its kind voids none."""
    match event:
        case ev.NoteStacked() | ev.NoteReturned():
            return event.note_id
        case ev.DoubtOpened() | ev.DoubtResolved():
            return event.doubt_id
        case _:
            return None


def check_balanced(entries: Iterable[Entry]) -> None:
    sums: defaultdict[tuple[bool, str], int] = defaultdict(int)
    for entry in entries:
        sums[entry.state is State.POSTED, entry.amount.currency] += entry.amount.minor
    for (posted, currency), total in sums.items():
        if total != 0:
            kind = "posted" if posted else "pending"
            raise UnbalancedEntries(f"{kind} entries of one event sum to {total} {currency}, not to zero")


def _transfer(state: State, source: str, target: str, amount: Money, transfer_id: str) -> list[Entry]:
    return [Entry(state, target, amount, transfer_id), Entry(state, source, -amount, transfer_id)]


def _void(pending: tuple[Entry, ...]) -> list[Entry]:
    return [Entry(State.VOIDED, entry.account, -entry.amount, entry.transfer_id) for entry in pending]


def _escrowed(event: ev.NoteEscrowed, _pending: tuple[Entry, ...]) -> list[Entry]:
    if event.value is None:
        return []
    return _transfer(State.PENDING, CUSTOMER, stacker_of(event.device), event.value, event.note_id)


def _stacked(event: ev.NoteStacked, pending: tuple[Entry, ...]) -> list[Entry]:
    source = UNATTRIBUTED if event.payment_id is None else CUSTOMER
    return _void(pending) + _transfer(State.POSTED, source, stacker_of(event.device), event.value, event.note_id)


def _returned(_event: ev.NoteReturned, pending: tuple[Entry, ...]) -> list[Entry]:
    return _void(pending)


def _doubted(event: ev.DoubtOpened, pending: tuple[Entry, ...]) -> list[Entry]:
    if event.amount is None:
        return _void(pending)
    return _void(pending) + _transfer(State.PENDING, CUSTOMER, IN_DOUBT, event.amount, event.doubt_id)


def _resolved(event: ev.DoubtResolved, pending: tuple[Entry, ...]) -> list[Entry]:
    posted: list[Entry] = []
    if event.outcome == "stacked" and event.amount is not None:
        source = UNATTRIBUTED if event.payment_id is None else CUSTOMER
        posted = _transfer(State.POSTED, source, stacker_of(event.device), event.amount, event.doubt_id)
    elif event.outcome == "explained" and event.amount is not None and event.payment_id is not None:
        posted = _transfer(State.POSTED, CUSTOMER, UNATTRIBUTED, event.amount, event.doubt_id)
    return _void(pending) + posted


def _claimed(event: ev.ClaimIssued, _pending: tuple[Entry, ...]) -> list[Entry]:
    return _transfer(State.POSTED, OWED, CUSTOMER, event.amount, event.claim_id)


def _completed(event: ev.PaymentCompleted, _pending: tuple[Entry, ...]) -> list[Entry]:
    return _transfer(State.POSTED, SALES, CUSTOMER, event.paid, event.payment_id) if event.paid else []


_RULES: dict[type[ev.Event], Callable[[Any, tuple[Entry, ...]], list[Entry]]] = {
    ev.NoteEscrowed: _escrowed,
    ev.NoteStacked: _stacked,
    ev.NoteReturned: _returned,
    ev.DoubtOpened: _doubted,
    ev.DoubtResolved: _resolved,
    ev.ClaimIssued: _claimed,
    ev.PaymentCompleted: _completed,
}
