"""The office's tables. Every key starts with `kiosk_id`, so that they shard on Citus unchanged; the office's own
people (`office_users`, `office_sessions`) are small reference tables.

Times of kiosks are microseconds since 1970 UTC exactly as the kiosk's clock had them (`*_us`, BIGINT); times of the
office are `timestamptz`. There are no foreign keys on the road in: the watermark lock is what keeps it consistent.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, Index, LargeBinary, SmallInteger, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

Moment = DateTime(timezone=True)


def _now() -> Any:
    """Set by Postgres when the row is made."""
    return Field(sa_type=Moment, sa_column_kwargs={"server_default": func.now()}, nullable=False)


def _moment() -> Any:
    return Field(default=None, sa_type=Moment, nullable=True)


def _text(default: str | None = "") -> Any:
    if default is None:
        return Field(default=None, sa_type=Text, nullable=True)
    return Field(sa_type=Text, sa_column_kwargs={"server_default": text(f"'{default}'")}, nullable=False)


def _big(default: int | None = None) -> Any:
    if default is None:
        return Field(default=None, sa_type=BigInteger, nullable=True)
    return Field(sa_type=BigInteger, sa_column_kwargs={"server_default": text(str(default))}, nullable=False)


class Keyed(SQLModel):
    kiosk_id: UUID = Field(primary_key=True)


class Kiosk(Keyed, table=True):
    """Who may send. The row is the lock behind which everything about the kiosk's journals happens."""

    __tablename__ = "kiosks"

    name: str = _text()
    public_key: bytes = Field(sa_type=LargeBinary)
    enrolled_at: datetime = _now()
    revoked_at: datetime | None = _moment()
    current_journal_id: UUID | None = None


class KioskStatus(Keyed, table=True):
    """What heartbeats tell: telemetry, never money. Apart from `kiosks`, so that it never waits for its lock."""

    __tablename__ = "kiosk_status"

    last_seen_at: datetime = _now()
    journal_id: UUID | None = None
    head_seq: int = _big(0)
    agent_version: str = _text()
    devices: dict[str, str] = Field(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'::jsonb")))
    disk_free_bytes: int = _big(0)
    oldest_unsent_us: int | None = _big()


class Journal(Keyed, table=True):
    """The watermark: rows 1..`seq` are here, whole and in order, and `hash` is the last one's.

    `state`: `open`; `continued` (another journal goes on after `continued_at_seq`, rows are taken up to there);
    `replaced` (a journal without a past came after it)."""

    __tablename__ = "journals"

    journal_id: UUID = Field(primary_key=True)
    seq: int = _big(0)
    hash: bytes = Field(sa_type=LargeBinary)
    state: str = _text("open")
    continued_at_seq: int | None = _big()
    predecessor_id: UUID | None = None
    predecessor_seq: int | None = _big()
    opened_at: datetime = _now()
    updated_at: datetime = _now()


class Event(Keyed, table=True):
    """The kiosk's rows, bytes unchanged. `wire` holds the packed row where a text cannot be stored as it is (NUL)."""

    __tablename__ = "events"

    journal_id: UUID = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    id: UUID
    type: str = _text()
    schema_number: int
    occurred_us: int = _big(0)
    boot_id: UUID
    monotonic_us: int = _big(0)
    trace_id: str = _text()
    actor: str = _text()
    subject: str = _text()
    body: bytes = Field(sa_type=LargeBinary)
    hash: bytes = Field(sa_type=LargeBinary)
    wire: bytes | None = Field(default=None, sa_type=LargeBinary)
    received_at: datetime = _now()


class Transaction(Keyed, table=True):
    """One row per payment. `collected`, `claimed`, `in_doubt` are sums over the tables below, of the same currency.

    `amount_minor` is null until the row that made the payment is here (it may be parked). `version` counts changes."""

    __tablename__ = "transactions"
    __table_args__ = (
        Index("transactions_changed_at", "changed_at"),
        Index("transactions_created_us", text("created_us DESC NULLS LAST")),
    )

    payment_id: str = Field(sa_type=Text, primary_key=True)
    amount_minor: int | None = _big()
    currency: str | None = _text(None)
    reference: str = _text()
    state: str = _text("collecting")
    rank: int = Field(sa_type=SmallInteger, sa_column_kwargs={"server_default": text("0")})
    reason: str = _text()
    collected_minor: int = _big(0)
    claimed_minor: int = _big(0)
    in_doubt_minor: int = _big(0)
    paid_minor: int | None = _big()
    created_us: int | None = _big()
    deadline_us: int | None = _big()
    finished_us: int | None = _big()
    changed_at: datetime = _now()
    version: int = _big(1)


class TransactionNote(Keyed, table=True):
    """One row per note that a kiosk says is in its box; without `payment_id` it is nobody's yet."""

    __tablename__ = "transaction_notes"
    __table_args__ = (Index("transaction_notes_payment", "kiosk_id", "payment_id"),)

    note_id: str = Field(sa_type=Text, primary_key=True)
    payment_id: str | None = _text(None)
    device: str = _text()
    note_code: int = _big(0)
    value_minor: int = _big(0)
    currency: str = _text()
    journal_id: UUID
    stacked_seq: int = _big(0)
    stacked_us: int = _big(0)


class Claim(Keyed, table=True):
    __tablename__ = "claims"
    __table_args__ = (Index("claims_payment", "kiosk_id", "payment_id"),)

    claim_id: str = Field(sa_type=Text, primary_key=True)
    code: str = _text()
    payment_id: str | None = _text(None)
    amount_minor: int = _big(0)
    currency: str = _text()
    reason: str = _text()
    issued_us: int = _big(0)


class Doubt(Keyed, table=True):
    """`found_*` is what the person who resolved it found; both pairs may be null: even the value was unknown.
    `evidence` holds the last frames, one a line."""

    __tablename__ = "doubts"
    __table_args__ = (Index("doubts_payment", "kiosk_id", "payment_id"),)

    doubt_id: str = Field(sa_type=Text, primary_key=True)
    device: str = _text()
    payment_id: str | None = _text(None)
    amount_minor: int | None = _big()
    currency: str | None = _text(None)
    reason: str = _text()
    evidence: str = _text()
    opened_us: int | None = _big()
    outcome: str | None = _text(None)
    found_minor: int | None = _big()
    found_currency: str | None = _text(None)
    resolution: str = _text()
    resolved_by: str = _text()
    resolved_us: int | None = _big()


class Blob(Keyed, table=True):
    """`state`: `captured` (named by a row), `pending` (the kiosk says it is uploaded), `stored` (read back: size and
    SHA-256 agree), `mismatch`. A row with `next_try_at` is on the verifier's work list, leased until `lease_until`."""

    __tablename__ = "blobs"
    __table_args__ = (Index("blobs_work", "next_try_at", postgresql_where=text("next_try_at IS NOT NULL")),)

    blob_id: str = Field(sa_type=Text, primary_key=True)
    kind: str = _text()
    sha256: bytes = Field(sa_type=LargeBinary)
    size_bytes: int = _big(0)
    object_key: str = _text()
    state: str = _text("captured")
    captured_us: int = _big(0)
    grant_expires_at: datetime | None = _moment()
    attempts: int = _big(0)
    next_try_at: datetime | None = _moment()
    lease_until: datetime | None = _moment()
    verified_at: datetime | None = _moment()
    last_error: str = _text()


class Alarm(Keyed, table=True):
    """What a person must know. The same `code` and `key` again only counts up, and opens an acknowledged one anew."""

    __tablename__ = "alarms"
    __table_args__ = (Index("alarms_key", "kiosk_id", "code", "key", unique=True), Index("alarms_last_at", "last_at"))

    alarm_id: UUID = Field(primary_key=True)
    code: str = _text()
    key: str = _text()
    severity: str = _text("warning")
    detail: str = _text()
    facts: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False, server_default=text("'{}'::jsonb")))
    count: int = _big(1)
    first_at: datetime = _now()
    last_at: datetime = _now()
    acknowledged_at: datetime | None = _moment()
    acknowledged_by: str = _text()


class ParkedEvent(Keyed, table=True):
    """A row whose meaning no projection could take; the row itself is in `events`, and those behind it went on."""

    __tablename__ = "parked_events"

    journal_id: UUID = Field(primary_key=True)
    seq: int = Field(sa_type=BigInteger, primary_key=True, sa_column_kwargs={"autoincrement": False})
    type: str = _text()
    reason: str = _text()
    parked_at: datetime = _now()


class DeviceHealth(Keyed, table=True):
    """Last known state per device; `acceptance:<reason>` stands for the kiosk's own refusal to take money."""

    __tablename__ = "device_health"

    device: str = Field(sa_type=Text, primary_key=True)
    state: str = _text("unknown")
    fault: str = _text()
    detail: str = _text()
    protocol: str = _text()
    model: str = _text()
    serial: str = _text()
    firmware: str = _text()
    since_us: int = _big(0)


class EnrolmentCode(Keyed, table=True):
    """`code_hash` is the SHA-256 of the normalised code; the code itself is shown once and kept nowhere."""

    __tablename__ = "enrolment_codes"
    __table_args__ = (Index("enrolment_codes_hash", "code_hash"),)

    code_hash: bytes = Field(sa_type=LargeBinary, primary_key=True)
    name: str = _text()
    created_at: datetime = _now()
    expires_at: datetime = Field(sa_type=Moment)
    used_at: datetime | None = _moment()


class OfficeUser(SQLModel, table=True):
    __tablename__ = "office_users"

    user_id: UUID = Field(primary_key=True)
    name: str = Field(sa_type=Text, unique=True)
    password_hash: str = _text()
    role: str = _text("viewer")
    failed: int = _big(0)
    locked_until: datetime | None = _moment()
    created_at: datetime = _now()


class OfficeSession(SQLModel, table=True):
    """`token_hash` is the SHA-256 of the cookie's value."""

    __tablename__ = "office_sessions"

    token_hash: bytes = Field(sa_type=LargeBinary, primary_key=True)
    user_id: UUID = Field(index=True)
    created_at: datetime = _now()
    expires_at: datetime = Field(sa_type=Moment)
