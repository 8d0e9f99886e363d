"""What the cash API takes and gives. Amounts are whole minor units (cents); times are ISO 8601 in UTC."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.domain.money import MINOR_MAX
from agent.domain.payments import PaymentState
from agent.store.ports import Row

Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code.", examples=["EUR"])]
Minor = Annotated[int, Field(strict=True, ge=0, le=MINOR_MAX)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PaymentOptionsIn(_In):
    timeout_s: int | None = Field(None, ge=5, description="Seconds to pay; the module's setting when absent.")
    allowed_minor: list[Annotated[int, Field(strict=True, gt=0, le=MINOR_MAX)]] = Field(
        default_factory=list, max_length=64, description="Values of notes that may be taken; empty: every value."
    )
    max_overpay_minor: Minor | None = Field(
        None, description="A note that would exceed the amount by more goes back. Absent: any; the rest is a claim."
    )
    allow_partial: bool = Field(False, description="`finish` may settle for less than the amount.")


class PaymentIn(_In):
    """A payment to be collected now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"amount_minor": 1250, "currency": "EUR", "reference": "room 214", "options": {}}]
        }
    )

    amount_minor: int = Field(strict=True, gt=0, le=MINOR_MAX)
    currency: Currency
    reference: str = Field("", max_length=64, description="The caller's own name for it; no personal data.")
    options: PaymentOptionsIn = PaymentOptionsIn()


class ReasonIn(_In):
    reason: str = Field("customer", pattern="^[a-z0-9_]{1,40}$", description="A stable word for reports.")


class ResolveIn(_In):
    """A person's finding about money in doubt."""

    outcome: Literal["stacked", "returned", "explained"] = Field(
        description="`stacked`: the note lies in the box. `returned`: the customer has it. "
        "`explained`: journal row `explained_by_seq` has booked it already."
    )
    reason: str = Field(min_length=1, max_length=200, description="What was found, for the books; no personal data.")
    amount_minor: int | None = Field(
        None, strict=True, gt=0, le=MINOR_MAX, description="With `stacked`: what was found. Needed if it was unknown."
    )
    currency: Currency | None = None
    explained_by_seq: int | None = Field(None, ge=1)


class ClaimOut(BaseModel):
    """Money that the kiosk owes; whoever shows the code gets it from staff, once."""

    id: str
    code: str = Field(examples=["7KQ2M9XWPA"])
    payment_id: str | None
    amount_minor: int
    currency: str
    reason: str
    issued_at: datetime


class PaymentOut(BaseModel):
    """A payment as it is now. `remaining_s` is the truth about its time; `deadline_at` is for people."""

    id: str
    state: PaymentState
    amount_minor: int
    currency: str
    reference: str
    collected_minor: int = Field(description="Notes in the box.")
    missing_minor: int
    paid_minor: int = Field(description="What was sold; set when completed.")
    claimed_minor: int = Field(description="What became a claim.")
    in_doubt_minor: int = Field(description="What no device can tell; a person decides.")
    remaining_s: float | None = Field(description="Seconds left to pay; null when it no longer collects.")
    timeout_s: int
    warn_s: int = Field(description="Offer more time when this much is left.")
    extensions_left: int
    deadline_at: datetime
    allowed_minor: list[int]
    max_overpay_minor: int | None
    allow_partial: bool
    reason: str
    created_at: datetime
    ended_at: datetime | None
    claims: list[ClaimOut]


class NoteOut(BaseModel):
    id: str
    device: str
    state: str
    value_minor: int | None
    currency: str | None
    payment_id: str | None
    reason: str
    first_seen_at: datetime
    last_change_at: datetime


class DoubtOut(BaseModel):
    """Money of which no device can say where it is. `evidence`: the last frames, oldest first."""

    id: str
    device: str
    open: bool
    payment_id: str | None
    amount_minor: int | None
    currency: str | None
    reason: str
    evidence: list[str]
    opened_at: datetime
    outcome: str | None
    found_minor: int | None
    found_currency: str | None
    explained_by_seq: int | None
    resolution: str | None
    resolved_by: str | None
    resolved_at: datetime | None


class UnitNoteOut(BaseModel):
    value_minor: int
    count: int


class UnitOut(BaseModel):
    """What lies in one cash unit, by value, and what it is worth."""

    unit: str
    currency: str
    total_minor: int
    count: int
    contents: list[UnitNoteOut]


class BalanceOut(BaseModel):
    """`posted` is final; `pending` is on its way (a note in escrow) or in doubt."""

    account: str
    currency: str
    posted_minor: int
    pending_minor: int


class LedgerOut(BaseModel):
    """Balances of all accounts; each currency sums to zero."""

    balances: list[BalanceOut]
    balanced: bool


class AcceptanceOut(BaseModel):
    """Whether a payment could be started now, and if not, why."""

    accepting: bool
    reasons: list[str]
    currencies: dict[str, list[int]] = Field(description="Note values that can be taken now, by currency.")


class SnapshotOut(BaseModel):
    """What a page needs to know when it opens: the same as in the snapshot of the event stream."""

    payment: PaymentOut | None = Field(description="The open payment; null when there is none.")
    acceptance: AcceptanceOut


def at(us: int) -> datetime:
    """A journal time (µs since 1970 UTC) for people."""
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def _at_or_none(us: int | None) -> datetime | None:
    return None if us is None else at(us)


def claim_out(row: Row) -> ClaimOut:
    return ClaimOut(**_pick(row, "id code payment_id amount_minor currency reason"), issued_at=at(row["issued_us"]))


def payment_out(
    row: Row, claims: list[Row], *, remaining_s: float | None, warn_s: int, extensions_max: int
) -> PaymentOut:
    columns = (
        "id amount_minor currency reference collected_minor paid_minor claimed_minor in_doubt_minor timeout_s"
        " max_overpay_minor reason"
    )
    return PaymentOut(
        **_pick(row, columns),
        state=PaymentState(row["state"]),
        missing_minor=max(0, row["amount_minor"] - row["collected_minor"]),
        remaining_s=None if remaining_s is None else round(max(0.0, remaining_s), 1),
        warn_s=warn_s,
        extensions_left=max(0, extensions_max - row["extensions"]),
        deadline_at=at(row["deadline_us"]),
        allowed_minor=json.loads(row["allowed_minor"]),
        allow_partial=bool(row["allow_partial"]),
        created_at=at(row["created_us"]),
        ended_at=_at_or_none(row["ended_us"]),
        claims=[claim_out(claim) for claim in claims],
    )


def note_out(row: Row) -> NoteOut:
    return NoteOut(
        **_pick(row, "id device state value_minor currency payment_id reason"),
        first_seen_at=at(row["first_us"]),
        last_change_at=at(row["last_us"]),
    )


def doubt_out(row: Row) -> DoubtOut:
    columns = "id device payment_id amount_minor currency reason outcome found_minor found_currency explained_by_seq"
    return DoubtOut(
        **_pick(row, columns + " resolution resolved_by"),
        open=bool(row["open"]),
        evidence=json.loads(row["evidence"]),
        opened_at=at(row["opened_us"]),
        resolved_at=_at_or_none(row["resolved_us"]),
    )


def units_out(rows: list[Row]) -> list[UnitOut]:
    """Rows of `unit_contents`, ordered by unit and currency, grouped."""
    units: dict[tuple[str, str], UnitOut] = {}
    for row in rows:
        key = (row["unit"], row["currency"])
        unit = units.setdefault(key, UnitOut(unit=key[0], currency=key[1], total_minor=0, count=0, contents=[]))
        unit.contents.append(UnitNoteOut(value_minor=row["value_minor"], count=row["count"]))
        unit.total_minor += row["value_minor"] * row["count"]
        unit.count += row["count"]
    return list(units.values())


def ledger_out(rows: list[Row]) -> LedgerOut:
    """Rows of the store's balances."""
    balances = [BalanceOut(**_pick(row, "account currency posted_minor pending_minor")) for row in rows]
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for each in balances:
        sums[each.currency][0] += each.posted_minor
        sums[each.currency][1] += each.pending_minor
    return LedgerOut(balances=balances, balanced=not any(any(sum_) for sum_ in sums.values()))


def _pick(row: Row, columns: str) -> dict[str, Any]:
    return {column: row[column] for column in columns.split()}
