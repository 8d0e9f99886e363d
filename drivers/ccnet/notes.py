"""Which note is where: the money rules of CCNET (sheet section 8), built from what the journal already holds.

One note at a time is on its way; one more may be stacked while the device has not shown yet that it saw our ACK. The
credit is the first BILL STACKED for a note and nothing else. Everything that cannot be known becomes a doubt with its
amount, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, unique

from agent.domain import events as ev
from agent.domain.money import Money
from drivers.ccnet.messages import TYPE_TICKET, Status
from drivers.ccnet.states import STATES, UNKNOWN
from drivers.ccnet.table import BillTable


@unique
class Phase(Enum):
    ESCROWED = "escrowed"  # seen in escrow; its outcome is open
    STACKED = "stacked"  # booked; the device repeats it until it has seen our ACK


@dataclass(slots=True)
class Note:
    """`stack_possible`: STACK may have been carried out (sent and not refused, or requested before a restart).
    `left`: it was seen on its way out of escrow. `also`: doubts that close together with this record. `recalled`: known
    from before a restart. The times are `escrow.py`'s: command first sent, last acknowledged, last HOLD, escrow first
    seen."""

    note_id: str
    code: int | None
    value: Money | None
    phase: Phase = Phase.ESCROWED
    payment_id: str | None = None
    stack_wanted: bool = False
    stack_possible: bool = False
    return_wanted: bool = False
    return_sent: bool = False
    left: bool = False
    barcode: str | None = None
    also: list[str] = field(default_factory=list)
    recalled: bool = False
    commanded_at: float | None = None
    accepted_at: float | None = None
    held_at: float | None = None
    waits_since: float | None = None
    alarmed: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One poll status with what its rules need. `table` None: values are not known (yet, or any more). `evidence` gives
    the last frames."""

    status: Status
    code: int | None
    table: BillTable | None
    evidence: Callable[[], tuple[str, ...]]


class Notes:
    """`new_id` makes note ids (UUIDv7 text); `history` holds the events of this device's open records, oldest first."""

    def __init__(self, device: str, new_id: Callable[[], str], history: Iterable[ev.Event] = ()) -> None:
        self._device = device
        self._new_id = new_id
        self._notes: list[Note] = []
        self._previous: Status | None = None
        self._initialising = True  # at our start too: who knows what the device has just been through
        self._found_in_stacker = False  # power-up status 12 was seen and its BILL STACKED has not come
        self._doubted: tuple[str, int | None] | None = None  # last doubt of this run, for the alarm of a late 81
        for event in history:
            self._recall(event)
        self._initialising |= any(
            note.phase is Phase.STACKED for note in self._notes
        )  # who knows what it has been through

    # --- what the machine asks

    @property
    def open(self) -> bool:
        """Any record that a restart would have to find again."""
        return bool(self._notes)

    @property
    def waiting(self) -> Note | None:
        """The note whose outcome is open."""
        return next((note for note in reversed(self._notes) if note.phase is Phase.ESCROWED), None)

    def find(self, note_id: str) -> Note | None:
        """The note with this id, if its outcome is open."""
        return next((note for note in self._notes if note.note_id == note_id and note.phase is Phase.ESCROWED), None)

    # --- what the device says

    def seen(self, seen: Seen) -> list[ev.Event]:
        """The events of one poll status. Repeated with the same status it gives nothing new."""
        trait = STATES.get(seen.status, UNKNOWN)
        events: list[ev.Event] = []
        if trait.fresh:
            self._initialising = True
        new_note = trait.idle or seen.status is Status.ESCROW_POSITION
        if new_note or (trait.proves_ack and not self._initialising):
            events += self._acknowledged()
        events += self._outcome(seen)
        if new_note:
            self._initialising = False
        if trait.gone and self.waiting is not None:
            self.waiting.left = True
        self._previous = seen.status
        return events

    def _outcome(self, seen: Seen) -> list[ev.Event]:
        match seen.status:
            case Status.BILL_STACKED:
                return self._stacked(seen)
            case Status.ESCROW_POSITION:
                return self._escrowed(seen)
            case Status.BILL_RETURNED:
                return self._returned(seen)
            case Status.POWER_UP_WITH_BILL_IN_VALIDATOR:
                return self._found("validator") + self._give_up(self._return)
            case Status.POWER_UP_WITH_BILL_IN_STACKER:
                found = self._found("stacker")
                self._found_in_stacker = True
                return found
            case Status.REJECTING:
                return self._give_up(lambda note: [] if note.stack_possible else self._return(note))
            case status if STATES.get(status, UNKNOWN).idle:
                return self._nothing_inside(seen)
            case _:
                return []

    def _found(self, position: str) -> list[ev.Event]:
        again = self._previous in (Status.POWER_UP_WITH_BILL_IN_VALIDATOR, Status.POWER_UP_WITH_BILL_IN_STACKER)
        return [] if again else [ev.NoteFoundAtPowerUp(device=self._device, position=position)]

    def _escrowed(self, seen: Seen) -> list[ev.Event]:
        note = self.waiting
        if note is not None and note.code == seen.code and not note.left:
            return []  # repeated until STACK, RETURN or HOLD
        events = self._give_up(lambda old: self._lost(old, seen, "another_note_in_escrow"))
        value = self._value(seen, None)
        fresh = Note(self._new_id(), seen.code, value)
        self._notes.append(fresh)
        code = -1 if seen.code is None else seen.code
        return [*events, ev.NoteEscrowed(device=self._device, note_id=fresh.note_id, value=value, note_code=code)]

    def _stacked(self, seen: Seen) -> list[ev.Event]:
        self._found_in_stacker = False
        credited = next((note for note in reversed(self._notes) if note.phase is Phase.STACKED), None)
        if credited is not None:
            return self._stacked_again(credited, seen)
        note = self.waiting
        if note is not None:
            return self._credit(note, seen)
        note = Note(self._new_id(), seen.code, None)
        self._notes.append(note)
        late = f"; may be the note of doubt {self._doubted[0]}" if self._doubted else ""
        alarm = self._alarm("unsolicited_credit", f"stacked without our command: type {seen.code}{late}", seen)
        return [*self._credit(note, seen), alarm]

    def _stacked_again(self, credited: Note, seen: Seen) -> list[ev.Event]:
        """The device repeats until it sees our ACK. Another type without an escrow between is no second note."""
        if credited.code is None or credited.code == seen.code or credited.also:
            return []
        doubt_id = self._new_id()
        credited.also.append(doubt_id)
        detail = f"booked as type {credited.code}, repeated as type {seen.code}"
        doubt = self._doubt(credited, seen, "stacked_type_changed", doubt_id, self._value(seen, None), awaits_ack=True)
        return [doubt, self._alarm("stacked_type_changed", detail, seen)]

    def _credit(self, note: Note, seen: Seen) -> list[ev.Event]:
        escrowed_as, note.phase = note.code, Phase.STACKED
        value = self._value(seen, note)
        note.code, note.value = seen.code, value
        if seen.code == TYPE_TICKET:
            return [ev.TicketStacked(device=self._device, note_id=note.note_id, barcode=note.barcode or None)]
        events: list[ev.Event] = []
        if value is None or seen.code is None:
            events.append(self._doubt(note, seen, "value_unknown", note.note_id, None, awaits_ack=True))
        else:
            events.append(
                ev.NoteStacked(
                    device=self._device,
                    note_id=note.note_id,
                    value=value,
                    note_code=seen.code,
                    payment_id=note.payment_id,
                )
            )
        if escrowed_as != seen.code:
            detail = f"escrowed as type {escrowed_as}, stacked as type {seen.code}"
            events.append(self._alarm("stacked_type_differs", detail, seen))
        return events

    def _returned(self, seen: Seen) -> list[ev.Event]:
        note = self.waiting
        if note is None:
            return []  # repeated until our ACK
        differs = note.code != seen.code
        detail = f"escrowed as type {note.code}, returned as type {seen.code}"
        events = self._give_up(self._return)
        return [*events, self._alarm("returned_type_differs", detail, seen)] if differs else events

    def _nothing_inside(self, seen: Seen) -> list[ev.Event]:
        had_notes = self.waiting is not None
        events = self._give_up(lambda note: self._lost(note, seen, "no_outcome_reported"))
        if self._found_in_stacker and not had_notes:
            nobody = Note(self._new_id(), None, None)
            events.append(self._doubt(nobody, seen, "power_up_note_not_reported", nobody.note_id, None))
        self._found_in_stacker = False
        return events

    # --- settling

    def _acknowledged(self) -> list[ev.Event]:
        """The device has moved on: it will not repeat what is booked."""
        closed = [note for note in self._notes if note.phase is Phase.STACKED]
        if closed:
            self._notes = [note for note in self._notes if note.phase is not Phase.STACKED]
            self._found_in_stacker = False
        ids = [each for note in closed for each in (note.note_id, *note.also)]
        return [ev.CreditAcknowledged(device=self._device, note_id=each) for each in ids]

    def _give_up(self, settle: Callable[[Note], list[ev.Event]]) -> list[ev.Event]:
        """Settle every note whose outcome is open; one for which `settle` has nothing to say stays."""
        events: list[ev.Event] = []
        for note in [note for note in self._notes if note.phase is Phase.ESCROWED]:
            if settled := settle(note):
                self._notes.remove(note)
                events += settled
        return events

    def _lost(self, note: Note, seen: Seen, reason: str) -> list[ev.Event]:
        """Neither stacked nor returned was said: with STACK possibly carried out nobody knows, else it went back."""
        if not note.stack_possible and not self._found_in_stacker:
            return self._return(note)
        self._doubted = (note.note_id, note.code)
        return [self._doubt(note, seen, reason, note.note_id, note.value)]

    def _return(self, note: Note) -> list[ev.Event]:
        returned = ev.NoteReturned(
            device=self._device, note_id=note.note_id, value=note.value, payment_id=note.payment_id
        )
        return [returned]

    def _doubt(
        self, note: Note, seen: Seen, reason: str, doubt_id: str, amount: Money | None, *, awaits_ack: bool = False
    ) -> ev.DoubtOpened:
        return ev.DoubtOpened(
            device=self._device,
            doubt_id=doubt_id,
            amount=amount,
            payment_id=note.payment_id,
            reason=reason,
            evidence=seen.evidence(),
            awaits_ack=awaits_ack,
        )

    def _alarm(self, code: str, detail: str, seen: Seen) -> ev.DeviceAlarmed:
        return ev.DeviceAlarmed(device=self._device, code=code, detail=detail, evidence=seen.evidence())

    def _value(self, seen: Seen, note: Note | None) -> Money | None:
        """By the type the device names now; what was noted in escrow counts when it is the same type."""
        if note is not None and note.value is not None and note.code == seen.code:
            return note.value
        if seen.table is None or seen.code is None or seen.code == TYPE_TICKET:
            return None
        return seen.table.values.get(seen.code)

    # --- the past

    def _recall(self, event: ev.Event) -> None:
        match event:
            case ev.NoteEscrowed():
                self._notes.append(Note(event.note_id, event.note_code, event.value, recalled=True))
            case ev.StackRequested():
                for note in self._known(event.note_id):
                    note.stack_wanted = note.stack_possible = True
                    note.payment_id = event.payment_id
            case ev.ReturnRequested():
                for note in self._known(event.note_id):
                    note.return_wanted = True
            case ev.NoteStacked():
                self._recall_stacked(event.note_id, event.note_code, event.value)
            case ev.TicketStacked(note_id=str(note_id)):
                self._recall_stacked(note_id, TYPE_TICKET, None)
            case ev.DoubtOpened(awaits_ack=True):
                self._recall_doubt(event)
            case ev.CreditAcknowledged() | ev.NoteReturned() | ev.DoubtOpened():
                self._notes = [note for note in self._notes if note.note_id != event.record()]
            case _:
                pass

    def _known(self, note_id: str) -> list[Note]:
        return [note for note in self._notes if note.note_id == note_id]

    def _recall_stacked(self, note_id: str, code: int | None, value: Money | None) -> None:
        if not self._known(note_id):
            self._notes.append(Note(note_id, code, value))
        for note in self._known(note_id):
            note.phase, note.code, note.value = Phase.STACKED, code, value

    def _recall_doubt(self, event: ev.DoubtOpened) -> None:
        credited = next((note for note in self._notes if note.phase is Phase.STACKED), None)
        if credited is not None and credited.note_id != event.doubt_id:
            credited.also.append(event.doubt_id)  # about a repetition of that note
        else:
            self._recall_stacked(event.doubt_id, None, None)
