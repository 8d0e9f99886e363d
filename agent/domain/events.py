"""The one vocabulary: what happened, in past tense. Drivers emit these, modules handle these, the journal stores these.

Every class names its wire type (`TYPE`) and its schema number (`SCHEMA`, raised only by adding optional fields).
`subject()` is what the row is about; `opens()`/`closes()` say which device record a machine must find again at start.
Nothing here holds personal data. Raw bytes appear only as hex evidence inside a doubt, an alarm or an unknown event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agent.domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    TYPE: ClassVar[str]
    SCHEMA: ClassVar[int] = 1

    def subject(self) -> str:
        """What the row is about, as `kind/name`."""
        return "agent"

    def record(self) -> str | None:
        """Id of the device record (a note on its way, a payout) that this event belongs to; None for the others."""
        return None

    def closes_record(self) -> bool:
        """True when, after this event, a restarted device machine no longer needs the record."""
        return False


# --- devices ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Denomination:
    """One entry of a device's note or coin table. `code` is the protocol's own number (CCNET bill type)."""

    code: int
    value: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent(Event):
    """`device` is the name from the configuration, stable across ports and replacements."""

    device: str

    def subject(self) -> str:
        return f"device/{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOnline(DeviceEvent):
    """The device answered and is initialised. Recorded on change only: first contact, return, other identity."""

    TYPE: ClassVar[str] = "device.came_online"
    protocol: str
    model: str = ""
    serial: str = ""
    firmware: str = ""
    table: tuple[Denomination, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOffline(DeviceEvent):
    TYPE: ClassVar[str] = "device.went_offline"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFaulted(DeviceEvent):
    """`code` is ours and stable (`stacker_full`, `failure_stack_motor`, …); `detail` is for people."""

    TYPE: ClassVar[str] = "device.faulted"
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecovered(DeviceEvent):
    """The fault named by `code` is over."""

    TYPE: ClassVar[str] = "device.recovered"
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAlarmed(DeviceEvent):
    """Something a person must know though the device goes on (credit of another type than escrowed, table changed)."""

    TYPE: ClassVar[str] = "device.alarmed"
    code: str
    detail: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownDeviceEvent(DeviceEvent):
    """The device said something its manual does not hold; `code_hex` are the bytes. Never money, device goes on."""

    TYPE: ClassVar[str] = "device.unknown_event_received"
    code_hex: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackerFull(DeviceEvent):
    TYPE: ClassVar[str] = "cash.stacker.filled_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackerRemoved(DeviceEvent):
    TYPE: ClassVar[str] = "cash.stacker.removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackerInserted(DeviceEvent):
    TYPE: ClassVar[str] = "cash.stacker.inserted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Jammed(DeviceEvent):
    """`where` is `validator`, `stacker`, …"""

    TYPE: ClassVar[str] = "device.jammed"
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheatSuspected(DeviceEvent):
    TYPE: ClassVar[str] = "device.cheat_suspected"
    note_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteFoundAtPowerUp(DeviceEvent):
    """`position` is `validator` (it will be returned) or `stacker` (it will be reported as stacked)."""

    TYPE: ClassVar[str] = "cash.note.found_at_power_up"
    position: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteRejected(DeviceEvent):
    """The device gave the note back before escrow; no money moved."""

    TYPE: ClassVar[str] = "cash.note.rejected"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketStacked(DeviceEvent):
    """A barcode coupon went into the box: no money. `note_id` as in `NoteEvent`: the device repeats this one too."""

    TYPE: ClassVar[str] = "cash.ticket.stacked"
    barcode: str | None = None
    note_id: str | None = None

    def record(self) -> str | None:
        return self.note_id


# --- a note on its way -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteEvent(DeviceEvent):
    """`note_id` (UUIDv7 text) is made by the machine when it first sees the note. `value` is None when the device's
    table has no entry for it; `note_code` is the protocol's number of the denomination (CCNET bill type)."""

    note_id: str

    def record(self) -> str | None:
        return self.note_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteEscrowed(NoteEvent):
    TYPE: ClassVar[str] = "cash.note.escrowed"
    value: Money | None
    note_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRequested(NoteEvent):
    """Intent, committed before the command leaves: from here on the note may be ours."""

    TYPE: ClassVar[str] = "cash.note.stack_requested"
    payment_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnRequested(NoteEvent):
    TYPE: ClassVar[str] = "cash.note.return_requested"
    payment_id: str | None = None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteStacked(NoteEvent):
    """The credit point. `value` is what the device says it stacked (not what it said in escrow). Without a
    `payment_id` it is unattributed money: real, in the box, nobody's yet."""

    TYPE: ClassVar[str] = "cash.note.stacked"
    value: Money
    note_code: int
    payment_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditAcknowledged(NoteEvent):
    """The device has moved on after its credit event: it will not report this note again."""

    TYPE: ClassVar[str] = "cash.note.credit_acknowledged"

    def closes_record(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteReturned(NoteEvent):
    TYPE: ClassVar[str] = "cash.note.returned"
    value: Money | None
    payment_id: str | None = None

    def closes_record(self) -> bool:
        return True


# --- doubts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtOpened(DeviceEvent):
    """Money of which the device cannot say where it is. `amount` None: even the value is unknown.

    `doubt_id` is the note's id when there is one. `evidence`: the last frames, oldest first, as
    `host 020306… STACK` / `device 020306… IDLING`. `awaits_ack`: the device still repeats the event that raised the
    doubt (a stacked note of unknown value), so the record stays open until `CreditAcknowledged`.
    """

    TYPE: ClassVar[str] = "cash.doubt.opened"
    doubt_id: str
    amount: Money | None
    payment_id: str | None
    reason: str
    evidence: tuple[str, ...]
    awaits_ack: bool = False

    def record(self) -> str | None:
        return self.doubt_id

    def closes_record(self) -> bool:
        return not self.awaits_ack


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtResolved(Event):
    """A person decided. `outcome`: `stacked` (the note is in the box: `amount` is now owed for `payment_id`),
    `returned` (the customer has it), or `explained` (already booked by journal row `explained_by_seq`).

    `doubted` is what the doubt had named; `amount` what the person found (they differ when the value was unknown).
    An `explained` doubt has an `amount` only when that row was nobody's money and is now the payment's: it moves from
    `unattributed` to the customer."""

    TYPE: ClassVar[str] = "cash.doubt.resolved"
    doubt_id: str
    device: str
    outcome: str
    doubted: Money | None
    amount: Money | None
    payment_id: str | None
    reason: str
    explained_by_seq: int | None = None

    def subject(self) -> str:
        return f"doubt/{self.doubt_id}"


# --- payments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentEvent(Event):
    payment_id: str

    def subject(self) -> str:
        return f"payment/{self.payment_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCreated(PaymentEvent):
    """`deadline_us`: wall clock, µs UTC, for people and for a restart; the running timer is monotonic."""

    TYPE: ClassVar[str] = "cash.payment.created"
    amount: Money
    reference: str
    timeout_s: int
    deadline_us: int
    allowed_minor: tuple[int, ...] = ()
    max_overpay_minor: int | None = None
    allow_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentExtended(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.extended"
    deadline_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCompletionStarted(PaymentEvent):
    """The amount is reached, or a partial amount was accepted (`partial`): nothing more is taken."""

    TYPE: ClassVar[str] = "cash.payment.completion_started"
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentChangeStarted(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.change_started"
    change: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCompleted(PaymentEvent):
    """`paid` goes to sales; what was collected beyond it has become change or a claim before this row."""

    TYPE: ClassVar[str] = "cash.payment.completed"
    paid: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCancelRequested(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.cancel_requested"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentCancelled(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentExpiryStarted(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.expiry_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentExpired(PaymentEvent):
    TYPE: ClassVar[str] = "cash.payment.expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFailed(PaymentEvent):
    """The kiosk could not go on (`reason` is a stable code); what was collected has become a claim before this row."""

    TYPE: ClassVar[str] = "cash.payment.failed"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimIssued(Event):
    """The kiosk owes `amount`; whoever shows `code` gets it from staff, once.

    `reason`: `overpaid`, `cancelled`, `expired`, `failed`, `late_note`, `foreign_note`, `doubt_resolved`.
    """

    TYPE: ClassVar[str] = "cash.claim.issued"
    claim_id: str
    code: str
    payment_id: str | None
    amount: Money
    reason: str

    def subject(self) -> str:
        return f"claim/{self.claim_id}"


# --- blobs, journal, agent -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCaptured(Event):
    """A sealed file exists on the kiosk. `kind`: `snapshot`, later `document`; `sha256` (hex) and `size_bytes` are of
    the sealed bytes."""

    TYPE: ClassVar[str] = "blob.captured"
    blob_id: str
    kind: str
    sha256: str
    size_bytes: int

    def subject(self) -> str:
        return f"blob/{self.blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStored(Event):
    """The upload was accepted by the object store; the office believes it only after reading it back."""

    TYPE: ClassVar[str] = "blob.stored"
    blob_id: str
    sha256: str
    size_bytes: int
    object_key: str

    def subject(self) -> str:
        return f"blob/{self.blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobDiscarded(Event):
    """A captured blob that was never stored and never will be. `reason`: `superseded` (a newer snapshot took its
    place while the office was away) or `lost` (the sealed file is gone or no longer what was captured)."""

    TYPE: ClassVar[str] = "blob.discarded"
    blob_id: str
    reason: str

    def subject(self) -> str:
        return f"blob/{self.blob_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOpened(Event):
    """First row of every journal. After a fork it names the journal it continues, up to and including
    `previous_seq`/`previous_hash` (hex); rows behind that point follow again as rows of this journal."""

    TYPE: ClassVar[str] = "journal.opened"
    previous_journal_id: str | None = None
    previous_seq: int | None = None
    previous_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStarted(Event):
    TYPE: ClassVar[str] = "agent.started"
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStopped(Event):
    """Written by a graceful stop only: a start without it before says that the power or the process died."""

    TYPE: ClassVar[str] = "agent.stopped"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceInhibited(Event):
    """No money is taken until the cause is gone. `reason`: `disk_low`, `store_failed`, `clock_absurd`,
    `commits_slow`, …; `reference_us`: with `clock_absurd`, the wall clock that was last believed (µs UTC)."""

    TYPE: ClassVar[str] = "agent.acceptance_inhibited"
    reason: str
    detail: str = ""
    reference_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceResumed(Event):
    TYPE: ClassVar[str] = "agent.acceptance_resumed"
    reason: str


# --- people ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEvent(Event):
    """`user_id` is a UUID; names and secrets of users are never in the journal."""

    user_id: str

    def subject(self) -> str:
        return f"user/{self.user_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAdded(UserEvent):
    TYPE: ClassVar[str] = "auth.user.added"
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChanged(UserEvent):
    """`what`: `role`, `secret`, `unlocked`."""

    TYPE: ClassVar[str] = "auth.user.changed"
    what: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRemoved(UserEvent):
    TYPE: ClassVar[str] = "auth.user.removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLockedOut(UserEvent):
    TYPE: ClassVar[str] = "auth.user.locked_out"
    until_us: int
