"""Hypothesis strategies for what the domain is made of: money, any event, and histories that a kiosk could have."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from agent.domain import events as ev
from agent.domain.events import Denomination, Event
from agent.domain.money import MINOR_MAX, Money
from agent.domain.wire import EVENT_TYPES

CURRENCIES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3)
MONEY = st.builds(Money, st.integers(-MINOR_MAX, MINOR_MAX), CURRENCIES)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)  # no lone surrogates: they are no UTF-8
INTEGERS = st.integers(-(2**53), 2**53)


def _of(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of(*(_of(option) for option in arguments))
    if origin is tuple:
        return st.lists(_of(arguments[0]), max_size=3).map(tuple)
    simple = {str: TEXTS, int: INTEGERS, bool: st.booleans(), NoneType: st.none(), Money: MONEY}
    return st.builds(Denomination, code=INTEGERS, value=MONEY) if hint is Denomination else simple[hint]


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of this class, sensible or not."""
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: _of(hints[field.name]) for field in fields(kind)})


ANY_EVENT = st.sampled_from(sorted(EVENT_TYPES.values(), key=lambda kind: kind.TYPE)).flatmap(events_of)

DEVICES = ("validator", "second")
VALUES = (Money(500, "EUR"), Money(1000, "EUR"), Money(2000, "EUR"), Money(700, "JPY"))


@st.composite
def note_histories(draw: st.DrawFn, notes_max: int = 5) -> list[Event]:
    """Lives of notes, claims and payments, interleaved as devices would: each note's own order is kept."""
    lives = [_note_life(draw, f"note-{number}") for number in range(draw(st.integers(1, notes_max)))]
    history: list[Event] = []
    while lives:
        life = draw(st.sampled_from(lives))
        history.append(life.pop(0))
        lives = [each for each in lives if each]
    return history


def _note_life(draw: st.DrawFn, note_id: str) -> list[Event]:
    """One note, cut off at any point: that is where the kiosk stands now."""
    device, value = draw(st.sampled_from(DEVICES)), draw(st.sampled_from(VALUES))
    known = draw(st.none() | st.just(value))
    payment = draw(st.none() | st.just("p1"))
    life: list[Event] = [ev.NoteEscrowed(device=device, note_id=note_id, value=known, note_code=3)]
    stacked = ev.NoteStacked(device=device, note_id=note_id, value=value, note_code=3, payment_id=payment)
    acknowledged = ev.CreditAcknowledged(device=device, note_id=note_id)
    match draw(st.sampled_from(["stacked", "unseen", "returned", "doubt", "late"])):
        case "stacked":
            life += [ev.StackRequested(device=device, note_id=note_id, payment_id=payment), stacked, acknowledged]
        case "unseen":
            life = [stacked, acknowledged]
        case "returned":
            life += [
                ev.ReturnRequested(device=device, note_id=note_id, reason="cancelled"),
                ev.NoteReturned(device=device, note_id=note_id, value=known),
            ]
        case "doubt":
            life += _doubt(draw, device, note_id, known, payment)
        case _:
            claim = ev.ClaimIssued(
                claim_id=f"claim-{note_id}", code="ABC", payment_id=payment, amount=value, reason="late_note"
            )
            life += [stacked, claim, acknowledged]
            if payment is not None:
                life.append(ev.PaymentCompleted(payment_id=payment, paid=value))
    return life[: draw(st.integers(1, len(life)))]


def _doubt(draw: st.DrawFn, device: str, note_id: str, known: Money | None, payment: str | None) -> list[Event]:
    awaits = draw(st.booleans())
    outcome = draw(st.sampled_from(["stacked", "returned"]))
    found = draw(st.sampled_from(VALUES)) if outcome == "stacked" else None
    life: list[Event] = [
        ev.DoubtOpened(
            device=device,
            doubt_id=note_id,
            amount=known,
            payment_id=payment,
            reason="power_lost",
            evidence=("device 0203",),
            awaits_ack=awaits,
        )
    ]
    if awaits:
        life.append(ev.CreditAcknowledged(device=device, note_id=note_id))
    life.append(
        ev.DoubtResolved(
            doubt_id=note_id,
            device=device,
            outcome=outcome,
            doubted=known,
            amount=found,
            payment_id=payment,
            reason="counted",
        )
    )
    return life
