"""Resolving money in doubt: only a person may, and only in a way that books every note at most once."""

from __future__ import annotations

from agent.domain import events as ev
from agent.domain import wire
from agent.domain.money import Money
from agent.store.ports import Reader, Row
from modules.cash_system import queries
from modules.cash_system.errors import (
    AmountDiffers,
    AmountNeeded,
    DoubtAlreadyResolved,
    ExplanationInvalid,
    NoteAlreadyBooked,
)
from modules.cash_system.schemas import ResolveIn


def resolution(reader: Reader, doubt_id: str, request: ResolveIn) -> ev.DoubtResolved:
    """The event that ends the doubt. Raises `NotFound` and the errors above; nothing is written here."""
    doubt = queries.doubt(reader, doubt_id)
    if not doubt["open"]:
        raise DoubtAlreadyResolved(f"doubt {doubt_id} was resolved as {doubt['outcome']}", outcome=doubt["outcome"])
    doubted = None if doubt["amount_minor"] is None else Money(doubt["amount_minor"], doubt["currency"])
    amount = None
    if request.outcome == "stacked":
        amount = _found(reader, doubt, doubted, request)
    elif request.outcome == "explained":
        amount = _explained(reader, doubt, doubted, request)
    return ev.DoubtResolved(
        doubt_id=doubt_id,
        device=doubt["device"],
        outcome=request.outcome,
        doubted=doubted,
        amount=amount,
        payment_id=doubt["payment_id"],
        reason=request.reason,
        explained_by_seq=request.explained_by_seq if request.outcome == "explained" else None,
    )


def _found(reader: Reader, doubt: Row, doubted: Money | None, request: ResolveIn) -> Money:
    note = queries.note(reader, doubt["id"])
    if note is not None and note["state"] == "stacked":
        raise NoteAlreadyBooked("the device reported this note as stacked later: resolve the doubt as explained")
    named = None
    if request.amount_minor is not None and request.currency is not None:
        named = Money(request.amount_minor, request.currency)
    if doubted is not None and named is not None and named != doubted:
        raise AmountDiffers(f"the doubt is about {doubted}, not {named}")
    amount = doubted if named is None else named
    if amount is None:
        raise AmountNeeded("the device could not name the amount: give amount_minor and currency as counted")
    return amount


def _explained(reader: Reader, doubt: Row, doubted: Money | None, request: ResolveIn) -> Money | None:
    """What the explaining row adds to the payment: its value when it was booked for nobody, else nothing."""
    seq = request.explained_by_seq
    if seq is None:
        raise ExplanationInvalid("name the journal row that booked this money: explained_by_seq")
    rows = reader.rows(seq - 1, 1)
    event = wire.event_of(rows[0]) if rows else None
    if not isinstance(event, ev.NoteStacked) or event.device != doubt["device"]:
        raise ExplanationInvalid(f"row {seq} is not a note stacked by {doubt['device']}", explained_by_seq=seq)
    if queries.explained_by(reader, seq) is not None:
        raise ExplanationInvalid(f"row {seq} explains another doubt already", explained_by_seq=seq)
    if event.payment_id not in (None, doubt["payment_id"]):
        raise ExplanationInvalid(f"row {seq} belongs to payment {event.payment_id}", explained_by_seq=seq)
    if doubted is not None and event.value != doubted:
        raise AmountDiffers(f"the doubt is about {doubted}, row {seq} about {event.value}")
    return event.value if event.payment_id is None and doubt["payment_id"] is not None else None
