"""The cash tables, kept in step with the journal by the pure reducer `agent.domain.payments`. Facts are never refused:
a note of a payment that is over, or of none, is written like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.domain import events as ev
from agent.domain import payments
from agent.domain.chain import JournalRow
from agent.domain.events import Event
from agent.domain.ledger import stacker_of
from agent.domain.money import Money
from agent.domain.payments import Payment, PaymentState
from agent.store.ports import ProjectionWriter, Row

PAYMENT_BY_ID = "SELECT * FROM payments WHERE id = ?"
_Apply = Callable[[ProjectionWriter, JournalRow, Any], None]


def payment_of(row: Row) -> Payment:
    """The value that a row of `payments` stands for."""
    currency = row["currency"]
    return Payment(
        id=row["id"],
        amount=Money(row["amount_minor"], currency),
        reference=row["reference"],
        state=PaymentState(row["state"]),
        timeout_s=row["timeout_s"],
        deadline_us=row["deadline_us"],
        allowed_minor=tuple(json.loads(row["allowed_minor"])),
        max_overpay_minor=row["max_overpay_minor"],
        allow_partial=bool(row["allow_partial"]),
        collected=Money(row["collected_minor"], currency),
        claimed=Money(row["claimed_minor"], currency),
        in_doubt=Money(row["in_doubt_minor"], currency),
        reason=row["reason"],
    )


def _changing(payment: Payment) -> dict[str, object]:
    """The columns that an event may change."""
    return {
        "open": int(not payment.state.final),
        "state": payment.state.value,
        "deadline_us": payment.deadline_us,
        "collected_minor": payment.collected.minor,
        "claimed_minor": payment.claimed.minor,
        "in_doubt_minor": payment.in_doubt.minor,
        "reason": payment.reason,
    }


def _create(tx: ProjectionWriter, row: JournalRow, event: ev.PaymentCreated) -> None:
    payment = payments.create(event)
    tx.execute(
        "INSERT INTO payments (id, open, state, currency, amount_minor, reference, timeout_s, deadline_us,"
        " allowed_minor, max_overpay_minor, allow_partial, created_us) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        payment.id,
        1,
        payment.state.value,
        payment.amount.currency,
        payment.amount.minor,
        payment.reference,
        payment.timeout_s,
        payment.deadline_us,
        json.dumps(payment.allowed_minor),
        payment.max_overpay_minor,
        int(payment.allow_partial),
        row.occurred_at,
    )


def _change(tx: ProjectionWriter, payment_id: str | None, event: Event, **further: object) -> None:
    """Apply `event` to the payment and write only the columns that differ, so that no index is touched for nothing."""
    row = None if payment_id is None else tx.one(PAYMENT_BY_ID, payment_id)
    if row is None:
        return
    before = payment_of(row)
    old, new = _changing(before), _changing(payments.apply(before, event))
    changes = {column: value for column, value in new.items() if value != old[column]} | further
    if changes:
        columns = ", ".join(f"{column} = ?" for column in changes)
        tx.execute(f"UPDATE payments SET {columns} WHERE id = ?", *changes.values(), payment_id)  # noqa: S608 - our names


def _transition(tx: ProjectionWriter, row: JournalRow, event: ev.PaymentEvent) -> None:
    match event:
        case ev.PaymentCompleted():
            _change(tx, event.payment_id, event, paid_minor=event.paid.minor, ended_us=row.occurred_at)
        case ev.PaymentCancelled() | ev.PaymentExpired() | ev.PaymentFailed():
            _change(tx, event.payment_id, event, ended_us=row.occurred_at)
        case _:
            _change(tx, event.payment_id, event)


def _extend(tx: ProjectionWriter, row: JournalRow, event: ev.PaymentExtended) -> None:
    _change(tx, event.payment_id, event)
    tx.execute("UPDATE payments SET extensions = extensions + 1 WHERE id = ?", event.payment_id)


def _escrow(tx: ProjectionWriter, row: JournalRow, event: ev.NoteEscrowed) -> None:
    tx.execute(
        "INSERT INTO notes (id, device, state, currency, value_minor, note_code, first_us, last_us)"
        " VALUES (?,?,'escrowed',?,?,?,?,?) ON CONFLICT (id) DO NOTHING",
        event.note_id,
        event.device,
        event.value and event.value.currency,
        event.value and event.value.minor,
        event.note_code,
        row.occurred_at,
        row.occurred_at,
    )


def _request_stack(tx: ProjectionWriter, row: JournalRow, event: ev.StackRequested) -> None:
    tx.execute(
        "UPDATE notes SET state = 'stack_requested', payment_id = ?, last_us = ? WHERE id = ?",
        event.payment_id,
        row.occurred_at,
        event.note_id,
    )


def _request_return(tx: ProjectionWriter, row: JournalRow, event: ev.ReturnRequested) -> None:
    tx.execute(
        "UPDATE notes SET state = 'return_requested', payment_id = coalesce(?, payment_id), reason = ?, last_us = ?"
        " WHERE id = ?",
        event.payment_id,
        event.reason,
        row.occurred_at,
        event.note_id,
    )


def _stack(tx: ProjectionWriter, row: JournalRow, event: ev.NoteStacked) -> None:
    """The one event whose speed the journal's goal is measured by: one statement a table. What it does to the payment
    is `payments.apply`'s rule for it in SQL; tests compare the two over random histories."""
    value = event.value
    known = tx.one(
        "UPDATE notes SET state = 'stacked', currency = ?, value_minor = ?, note_code = ?, last_us = ?"
        " WHERE id = ? AND payment_id IS ? RETURNING 1",
        *(value.currency, value.minor, event.note_code, row.occurred_at, event.note_id, event.payment_id),
    )
    if known is None:
        _stack_unforeseen(tx, row, event)
    _into_unit(tx, event.device, value)
    if event.payment_id is not None:
        tx.execute(
            "UPDATE payments SET collected_minor = collected_minor + ? WHERE id = ? AND currency = ?",
            *(value.minor, event.payment_id, value.currency),
        )


def _stack_unforeseen(tx: ProjectionWriter, row: JournalRow, event: ev.NoteStacked) -> None:
    """A note that was never seen in escrow, or not for this payment."""
    tx.execute(
        "INSERT INTO notes (id, device, state, currency, value_minor, note_code, payment_id, first_us, last_us)"
        " VALUES (?,?,'stacked',?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, currency ="
        " excluded.currency, value_minor = excluded.value_minor, note_code = excluded.note_code, payment_id ="
        " excluded.payment_id, last_us = excluded.last_us",
        event.note_id,
        event.device,
        event.value.currency,
        event.value.minor,
        event.note_code,
        event.payment_id,
        row.occurred_at,
        row.occurred_at,
    )


def _return(tx: ProjectionWriter, row: JournalRow, event: ev.NoteReturned) -> None:
    _settle_note(tx, row, event.note_id, "returned")


def _settle_note(tx: ProjectionWriter, row: JournalRow, note_id: str, state: str) -> None:
    """A note that lies in the box stays there: what a person or a late frame says changes only the others."""
    tx.execute(
        "UPDATE notes SET state = ?, last_us = ? WHERE id = ? AND state <> 'stacked'", state, row.occurred_at, note_id
    )


def _into_unit(tx: ProjectionWriter, device: str, value: Money) -> None:
    tx.execute(
        "INSERT INTO unit_contents (unit, currency, value_minor, count) VALUES (?,?,?,1)"
        " ON CONFLICT (unit, currency, value_minor) DO UPDATE SET count = count + 1",
        stacker_of(device),
        value.currency,
        value.minor,
    )


def _open_doubt(tx: ProjectionWriter, row: JournalRow, event: ev.DoubtOpened) -> None:
    tx.execute(
        "INSERT INTO doubts (id, device, open, payment_id, currency, amount_minor, reason, evidence, opened_us)"
        " VALUES (?,?,1,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET open = 1, payment_id = excluded.payment_id,"
        " currency = excluded.currency, amount_minor = excluded.amount_minor, reason = excluded.reason,"
        " evidence = excluded.evidence, opened_us = excluded.opened_us",
        event.doubt_id,
        event.device,
        event.payment_id,
        event.amount and event.amount.currency,
        event.amount and event.amount.minor,
        event.reason,
        json.dumps(event.evidence),
        row.occurred_at,
    )
    _settle_note(tx, row, event.doubt_id, "in_doubt")
    _change(tx, event.payment_id, event)


def _resolve_doubt(tx: ProjectionWriter, row: JournalRow, event: ev.DoubtResolved) -> None:
    tx.execute(
        "UPDATE doubts SET open = 0, outcome = ?, found_currency = ?, found_minor = ?, explained_by_seq = ?,"
        " resolution = ?, resolved_by = ?, resolved_us = ? WHERE id = ?",
        event.outcome,
        event.amount and event.amount.currency,
        event.amount and event.amount.minor,
        event.explained_by_seq,
        event.reason,
        row.actor,
        row.occurred_at,
        event.doubt_id,
    )
    if event.outcome == "stacked" and event.amount is not None:
        tx.execute(
            "UPDATE notes SET currency = ?, value_minor = ? WHERE id = ? AND state <> 'stacked'",
            event.amount.currency,
            event.amount.minor,
            event.doubt_id,
        )
        _into_unit(tx, event.device, event.amount)
    _settle_note(tx, row, event.doubt_id, event.outcome)
    _change(tx, event.payment_id, event)


def _issue_claim(tx: ProjectionWriter, row: JournalRow, event: ev.ClaimIssued) -> None:
    tx.execute(
        "INSERT INTO claims (id, code, payment_id, currency, amount_minor, reason, issued_us) VALUES (?,?,?,?,?,?,?)",
        event.claim_id,
        event.code,
        event.payment_id,
        event.amount.currency,
        event.amount.minor,
        event.reason,
        row.occurred_at,
    )
    _change(tx, event.payment_id, event)


_APPLY: dict[type[Event], _Apply] = {
    ev.PaymentCreated: _create,
    ev.PaymentExtended: _extend,
    **dict.fromkeys(payments.TRANSITIONS, _transition),
    ev.NoteEscrowed: _escrow,
    ev.StackRequested: _request_stack,
    ev.ReturnRequested: _request_return,
    ev.NoteStacked: _stack,
    ev.NoteReturned: _return,
    ev.DoubtOpened: _open_doubt,
    ev.DoubtResolved: _resolve_doubt,
    ev.ClaimIssued: _issue_claim,
}


class CashProjection:
    """Payments, notes, claims, doubts and what lies in each cash unit."""

    name: str = "cash"
    version: int = 1
    tables: Sequence[str] = ("payments", "notes", "claims", "doubts", "unit_contents")
    handles: frozenset[type[Event]] = frozenset(_APPLY)

    @cached_property
    def schema(self) -> str:
        return Path(__file__).with_name("projections.sql").read_text(encoding="utf-8")

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None:
        _APPLY[type(event)](tx, row, event)
