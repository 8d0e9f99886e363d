"""The office's JSON. Money is `amount_minor` and ISO 4217 `currency`; times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from sync.central.office.queries import Row, moment


class KioskOut(BaseModel):
    """`lag`: rows that the kiosk has and the office has not, as of its last heartbeat. `missing_rows`: rows of older
    journals that never came, behind which the kiosk went on."""

    kiosk_id: UUID
    name: str = Field(examples=["Lobby, left"])
    online: bool
    revoked: bool
    last_seen_at: datetime | None
    agent_version: str | None = Field(examples=["0.1.0"])
    journal_id: UUID | None
    watermark_seq: int | None = Field(examples=[1742])
    head_seq: int | None
    lag: int = Field(examples=[0])
    oldest_unsent_at: datetime | None
    missing_rows: int
    disk_free_bytes: int | None
    open_alarms: int
    open_doubts: int
    troubles: list[str] = Field(examples=[["acceptor: stacker_full"]])

    @classmethod
    def of(cls, row: Row, online: bool) -> KioskOut:
        derived = {
            "online": online,
            "revoked": row["revoked_at"] is not None,
            "journal_id": row["current_journal_id"],
            "oldest_unsent_at": moment(row["oldest_unsent_us"]),
        }
        return cls(**{**row, **derived})


class NoteOut(BaseModel):
    note_id: str
    device: str = Field(examples=["acceptor"])
    value_minor: int = Field(examples=[1000])
    currency: str = Field(examples=["EUR"])
    stacked_seq: int
    stacked_at: datetime | None


class TransactionOut(BaseModel):
    """One payment. `collected`, `claimed` and `in_doubt` are of its own currency; notes may be of others."""

    kiosk_id: UUID
    kiosk_name: str
    payment_id: str
    reference: str
    state: str = Field(examples=["completed"])
    reason: str
    amount_minor: int | None
    currency: str | None
    collected_minor: int
    claimed_minor: int
    in_doubt_minor: int
    paid_minor: int | None
    created_at: datetime | None
    finished_at: datetime | None
    changed_at: datetime
    version: int
    notes: list[NoteOut]

    @classmethod
    def of(cls, row: Row) -> TransactionOut:
        notes = [NoteOut(**{**note, "stacked_at": moment(note["stacked_us"])}) for note in row["notes"]]
        times = {"created_at": moment(row["created_us"]), "finished_at": moment(row["finished_us"])}
        return cls(**{**row, **times, "notes": notes})


class AlarmOut(BaseModel):
    kiosk_id: UUID
    kiosk_name: str | None
    alarm_id: UUID
    code: str = Field(examples=["journal_forked"])
    severity: str = Field(examples=["critical"])
    detail: str
    facts: dict[str, Any]
    count: int
    first_at: datetime
    last_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str


class DoubtOut(BaseModel):
    kiosk_id: UUID
    kiosk_name: str | None
    doubt_id: str
    device: str
    payment_id: str | None
    amount_minor: int | None
    currency: str | None
    reason: str
    evidence: list[str]
    opened_at: datetime | None
    outcome: str | None
    found_minor: int | None
    found_currency: str | None
    resolution: str
    resolved_by: str
    resolved_at: datetime | None

    @classmethod
    def of(cls, row: Row) -> DoubtOut:
        times = {"opened_at": moment(row["opened_us"]), "resolved_at": moment(row["resolved_us"])}
        return cls(**{**row, **times, "evidence": row["evidence"].splitlines()})


class ClaimOut(BaseModel):
    kiosk_id: UUID
    kiosk_name: str | None
    claim_id: str
    code: str
    payment_id: str | None
    amount_minor: int
    currency: str
    reason: str
    issued_at: datetime | None

    @classmethod
    def of(cls, row: Row) -> ClaimOut:
        return cls(**{**row, "issued_at": moment(row["issued_us"])})


class BlobOut(BaseModel):
    """`state`: `captured`, `pending` (the kiosk says it is uploaded), `stored` (read back and right), `mismatch`,
    `discarded`."""

    kiosk_id: UUID
    kiosk_name: str | None
    blob_id: str
    kind: str = Field(examples=["snapshot"])
    sha256: str
    size_bytes: int
    object_key: str
    state: str
    captured_at: datetime | None
    verified_at: datetime | None
    last_error: str

    @classmethod
    def of(cls, row: Row) -> BlobOut:
        return cls(**{**row, "sha256": row["sha256"].hex(), "captured_at": moment(row["captured_us"])})


class CodeOut(BaseModel):
    """Shown once; the office keeps only its hash."""

    code: str = Field(examples=["7Q4M-K2XD-9RTV"])
    kiosk_id: UUID
    expires_at: datetime
