"""What rows mean for the office's tables: pure. `digest(rows)` gives set-wise changes, keyed by the fact's own id.

Every change is keyed by an id that the kiosk made once (note, payment, claim, doubt, blob, event), never by journal and
seq: rows that a kiosk appends again after a fork carry the same ids and therefore change nothing the second time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.domain.money import Money
from agent.domain.payments import TRANSITIONS, PaymentState
from agent.domain.wire import EVENT_TYPES, Unreadable, event_of
from sync.central.problems import Alarm

ID_CHARACTERS_MAX = 200  # far below what a B-tree entry holds
TEXT_CHARACTERS_MAX = 2_000
_INT64 = 2**63
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")

_S = PaymentState
RANKS = {_S.COLLECTING: 0, _S.COMPLETING: 1, _S.CANCELLING: 1, _S.EXPIRING: 1, _S.DISPENSING_CHANGE: 2}
RANK_FINAL = 3

E = TypeVar("E", bound=ev.Event)


class Indigestible(Exception):
    """A row that no table can take; the message is kept beside it."""


@dataclass(slots=True)
class PaymentChange:
    """What a batch says about one payment; `rank` only ever rises, so a repeat of an older row changes nothing."""

    amount_minor: int | None = None
    currency: str | None = None
    reference: str | None = None
    created_us: int | None = None
    deadline_us: int | None = None
    finished_us: int | None = None
    paid_minor: int | None = None
    state: str = _S.COLLECTING.value
    rank: int = 0
    reason: str = ""


@dataclass(slots=True)
class Changes:
    """By table: id → values in the order that `projections` names them. `touched` payments get their sums anew."""

    payments: dict[str, PaymentChange] = field(default_factory=dict)
    notes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    claims: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    doubts: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    resolutions: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    captured: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    uploaded: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    discarded: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    devices: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)

    def payment(self, payment_id: str) -> PaymentChange:
        return self.payments.setdefault(payment_id, PaymentChange())


@dataclass(frozen=True, slots=True)
class Parked:
    """A row set aside, with the reason."""

    seq: int
    type: str
    reason: str


def digest(kiosk_id: UUID, journal_id: UUID, rows: list[JournalRow]) -> tuple[Changes, list[Parked]]:
    """The changes of all rows that can be understood, and those that cannot. Never raises for what a kiosk wrote."""
    changes, parked = Changes(), []
    for row in rows:
        kind = EVENT_TYPES.get(row.type)
        if kind is not None and kind not in _HANDLERS:
            continue
        event = event_of(row)
        try:
            if isinstance(event, Unreadable):
                raise Indigestible(event.reason)
            _HANDLERS[type(event)](_Row(kiosk_id, journal_id, row), event, changes)
        except Indigestible as error:
            parked.append(Parked(row.seq, _text(row.type), _text(str(error))))
    return changes, parked


@dataclass(frozen=True, slots=True)
class _Row:
    kiosk_id: UUID
    journal_id: UUID
    row: JournalRow


def _text(value: str) -> str:
    """Free text as Postgres can hold it: what cannot be stored is shown as such, what is too long is cut."""
    return value[:TEXT_CHARACTERS_MAX].replace("\x00", "\N{SYMBOL FOR NULL}")


def _id(value: str, what: str) -> str:
    if not value or len(value) > ID_CHARACTERS_MAX or "\x00" in value:
        raise Indigestible(f"{what} must have 1 to {ID_CHARACTERS_MAX} characters without NUL")
    return value


def _optional(value: str | None, what: str) -> str | None:
    return None if value is None else _id(value, what)


def _number(value: int, what: str) -> int:
    if not -_INT64 <= value < _INT64:
        raise Indigestible(f"{what} does not fit into 64 bits")
    return value


def _pair(money: Money | None) -> tuple[int | None, str | None]:
    return (None, None) if money is None else (money.minor, money.currency)


# --- money -----------------------------------------------------------------------------------------------------------


def _created(at: _Row, event: ev.PaymentCreated, changes: Changes) -> None:
    change = changes.payment(_id(event.payment_id, "payment_id"))
    change.deadline_us = _number(event.deadline_us, "deadline_us")
    change.amount_minor, change.currency = event.amount.minor, event.amount.currency
    change.reference, change.created_us = _text(event.reference), at.row.occurred_at


def _extended(at: _Row, event: ev.PaymentExtended, changes: Changes) -> None:
    changes.payment(_id(event.payment_id, "payment_id")).deadline_us = _number(event.deadline_us, "deadline_us")


def _moved(at: _Row, event: ev.PaymentEvent, changes: Changes) -> None:
    state = TRANSITIONS[type(event)][1]
    rank = RANK_FINAL if state.final else RANKS[state]
    change = changes.payment(_id(event.payment_id, "payment_id"))
    if rank <= change.rank:
        return
    change.state, change.rank = state.value, rank
    change.reason = _text(getattr(event, "reason", "")) or change.reason
    if state.final:
        change.finished_us = at.row.occurred_at
    if isinstance(event, ev.PaymentCompleted):
        change.paid_minor = event.paid.minor


def _stacked(at: _Row, event: ev.NoteStacked, changes: Changes) -> None:
    note_id, payment_id = _id(event.note_id, "note_id"), _optional(event.payment_id, "payment_id")
    place = (_id(event.device, "device"), _number(event.note_code, "note_code"))
    amount = (event.value.minor, event.value.currency)
    changes.notes.setdefault(note_id, (payment_id, *place, *amount, at.journal_id, at.row.seq, at.row.occurred_at))
    if payment_id is not None:
        changes.payment(payment_id)


def _claimed(at: _Row, event: ev.ClaimIssued, changes: Changes) -> None:
    payment_id, amount = _optional(event.payment_id, "payment_id"), _pair(event.amount)
    values = (_id(event.code, "code"), payment_id, *amount, _text(event.reason), at.row.occurred_at)
    changes.claims.setdefault(_id(event.claim_id, "claim_id"), values)
    if payment_id is not None:
        changes.payment(payment_id)


def _doubted(at: _Row, event: ev.DoubtOpened, changes: Changes) -> None:
    payment_id, amount = _optional(event.payment_id, "payment_id"), _pair(event.amount)
    evidence = _text("\n".join(event.evidence))
    values = (_id(event.device, "device"), payment_id, *amount, _text(event.reason), evidence, at.row.occurred_at)
    changes.doubts.setdefault(_id(event.doubt_id, "doubt_id"), values)
    if payment_id is not None:
        changes.payment(payment_id)


def _resolved(at: _Row, event: ev.DoubtResolved, changes: Changes) -> None:
    payment_id, device = _optional(event.payment_id, "payment_id"), _id(event.device, "device")
    what = (_text(event.outcome), *_pair(event.amount), _text(event.reason), _text(at.row.actor), at.row.occurred_at)
    changes.resolutions.setdefault(_id(event.doubt_id, "doubt_id"), (device, payment_id, *_pair(event.doubted), *what))
    if payment_id is not None:
        changes.payment(payment_id)


# --- blobs -----------------------------------------------------------------------------------------------------------


def object_key(kiosk_id: UUID, blob_id: str, captured_us: int) -> str:
    """`<kiosk_id>/<yyyy>/<mm>/<blob_id>.age`, by the kiosk's time of capture."""
    try:
        moment = datetime.fromtimestamp(captured_us / 1e6, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Indigestible(f"the time of capture is not one: {error}") from error
    return f"{kiosk_id}/{moment:%Y}/{moment:%m}/{blob_id}.age"


def _sha256(value: str) -> bytes:
    try:
        digest = bytes.fromhex(value)
    except ValueError as error:
        raise Indigestible(f"sha256 is not hexadecimal: {error}") from error
    if len(digest) != 32:
        raise Indigestible(f"sha256 has {len(digest)} bytes, not 32")
    return digest


def _captured(at: _Row, event: ev.BlobCaptured, changes: Changes) -> None:
    if not _SAFE_NAME.fullmatch(event.blob_id):
        raise Indigestible("blob_id must be made of letters, digits, - and _")
    size = _number(event.size_bytes, "size_bytes")
    if size < 0:
        raise Indigestible("size_bytes is negative")
    key = object_key(at.kiosk_id, event.blob_id, at.row.occurred_at)
    values = (_text(event.kind), _sha256(event.sha256), size, key, at.row.occurred_at)
    changes.captured.setdefault(event.blob_id, values)


def _uploaded(at: _Row, event: ev.BlobStored, changes: Changes) -> None:
    size = _number(event.size_bytes, "size_bytes")
    changes.uploaded[_id(event.blob_id, "blob_id")] = (_sha256(event.sha256), size, _text(event.object_key))


def _discarded(at: _Row, event: ev.BlobDiscarded, changes: Changes) -> None:
    changes.discarded[_id(event.blob_id, "blob_id")] = (_text(event.reason),)


# --- devices and alarms ----------------------------------------------------------------------------------------------

_SAME = None  # leaves the column as it was


def _online(at: _Row, event: ev.DeviceOnline, changes: Changes) -> None:
    about = [_text(value) for value in (event.protocol, event.model, event.serial, event.firmware)]
    changes.devices[_id(event.device, "device")] = ("online", "", "", *about, at.row.occurred_at)


def _state(state: str, fault: str, detail: str, at: _Row) -> tuple[Any, ...]:
    return (state, _text(fault), _text(detail), _SAME, _SAME, _SAME, _SAME, at.row.occurred_at)


def _offline(at: _Row, event: ev.DeviceOffline, changes: Changes) -> None:
    _merge(changes, event.device, _state("offline", "", event.reason, at))


def _faulted(at: _Row, event: ev.DeviceFaulted, changes: Changes) -> None:
    _merge(changes, event.device, _state("faulted", event.code, event.detail, at))


def _jammed(at: _Row, event: ev.Jammed, changes: Changes) -> None:
    _merge(changes, event.device, _state("faulted", "jammed", event.where, at))


def _full(at: _Row, event: ev.StackerFull, changes: Changes) -> None:
    _merge(changes, event.device, _state("faulted", "stacker_full", "", at))


def _removed(at: _Row, event: ev.StackerRemoved, changes: Changes) -> None:
    _merge(changes, event.device, _state("faulted", "stacker_removed", "", at))


def _well(at: _Row, event: ev.DeviceRecovered | ev.StackerInserted, changes: Changes) -> None:
    _merge(changes, event.device, _state("online", "", "", at))


def _inhibited(at: _Row, event: ev.AcceptanceInhibited, changes: Changes) -> None:
    _merge(changes, f"acceptance:{event.reason}", _state("inhibited", event.reason, event.detail, at))


def _resumed(at: _Row, event: ev.AcceptanceResumed, changes: Changes) -> None:
    _merge(changes, f"acceptance:{event.reason}", _state("online", "", "", at))


def _merge(changes: Changes, device: str, values: tuple[Any, ...]) -> None:
    """A later state over what this batch already said: what it leaves alone stays as said."""
    said = changes.devices.get(_id(device, "device"), (_SAME,) * len(values))
    changes.devices[device] = tuple(old if new is _SAME else new for old, new in zip(said, values, strict=True))


def _alarmed(at: _Row, event: ev.DeviceAlarmed, changes: Changes) -> None:
    facts = {"device": _text(event.device), "reason": _text(event.code), "seq": at.row.seq}
    detail = _text(f"{event.device}: {event.code} {event.detail}".strip())
    changes.alarms.append(Alarm("device_alarm", str(at.row.id), detail, facts))


def _cheated(at: _Row, event: ev.CheatSuspected, changes: Changes) -> None:
    facts = {"device": _text(event.device), "seq": at.row.seq}
    changes.alarms.append(Alarm("cheat_suspected", str(at.row.id), _text(event.device), facts))


_HANDLERS: dict[type[ev.Event], Callable[[_Row, Any, Changes], None]] = {
    ev.PaymentCreated: _created,
    ev.PaymentExtended: _extended,
    **dict.fromkeys(TRANSITIONS, _moved),
    ev.NoteStacked: _stacked,
    ev.ClaimIssued: _claimed,
    ev.DoubtOpened: _doubted,
    ev.DoubtResolved: _resolved,
    ev.BlobCaptured: _captured,
    ev.BlobStored: _uploaded,
    ev.BlobDiscarded: _discarded,
    ev.DeviceOnline: _online,
    ev.DeviceOffline: _offline,
    ev.DeviceFaulted: _faulted,
    ev.DeviceRecovered: _well,
    ev.Jammed: _jammed,
    ev.StackerFull: _full,
    ev.StackerRemoved: _removed,
    ev.StackerInserted: _well,
    ev.AcceptanceInhibited: _inhibited,
    ev.AcceptanceResumed: _resumed,
    ev.DeviceAlarmed: _alarmed,
    ev.CheatSuspected: _cheated,
}
