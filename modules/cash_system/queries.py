"""What the cash tables say, read in one view of the file. Used by the service, the API and the command line alike."""

from __future__ import annotations

from agent.domain.errors import NotFound
from agent.domain.money import Money
from agent.domain.payments import Payment
from agent.store.ports import Reader, Row
from modules.cash_system.projections import PAYMENT_BY_ID, payment_of

LIMIT_MAX = 500
"""Most rows of one answer; lists go on with `before` (ids are ordered by time)."""


def payment_row(reader: Reader, payment_id: str) -> Row:
    """Raises `NotFound`."""
    row = reader.one(PAYMENT_BY_ID, payment_id)
    if row is None:
        raise NotFound(f"there is no payment {payment_id}", payment_id=payment_id)
    return row


def find_payment(reader: Reader, payment_id: str) -> Payment | None:
    row = reader.one(PAYMENT_BY_ID, payment_id)
    return None if row is None else payment_of(row)


def open_payment_row(reader: Reader) -> Row | None:
    """The payment that is not over; there is at most one."""
    return reader.one("SELECT * FROM payments WHERE open = 1 ORDER BY id DESC LIMIT 1")


def open_payment(reader: Reader) -> Payment | None:
    row = open_payment_row(reader)
    return None if row is None else payment_of(row)


def payments(reader: Reader, limit: int, before: str | None = None, state: str | None = None) -> list[Row]:
    """Newest first."""
    return reader.all(
        "SELECT * FROM payments WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT ?3",
        before,
        state,
        min(limit, LIMIT_MAX),
    )


def paid_minor(reader: Reader, payment_id: str) -> int:
    row = reader.one("SELECT paid_minor FROM payments WHERE id = ?", payment_id)
    return 0 if row is None else int(row["paid_minor"])


def notes_in_flight(reader: Reader, payment_id: str) -> list[Row]:
    """Notes whose way into the box was asked for and has no outcome yet."""
    return reader.all("SELECT * FROM notes WHERE payment_id = ? AND state = 'stack_requested'", payment_id)


def note(reader: Reader, note_id: str) -> Row | None:
    return reader.one("SELECT * FROM notes WHERE id = ?", note_id)


def notes(reader: Reader, limit: int, before: str | None = None, payment_id: str | None = None) -> list[Row]:
    """Newest first; of one payment when it is named."""
    where = "payment_id = ?2" if payment_id is not None else "?2 IS NULL"
    return reader.all(
        f"SELECT * FROM notes WHERE (?1 IS NULL OR id < ?1) AND {where} ORDER BY id DESC LIMIT ?3",  # noqa: S608 - ours
        before,
        payment_id,
        min(limit, LIMIT_MAX),
    )


def unsettled_foreign(reader: Reader, payment: Payment) -> tuple[Money, ...]:
    """What came into the box for the payment in other currencies and has not become a claim yet."""
    rows = reader.all(
        "SELECT currency, SUM(minor) AS minor FROM ("
        " SELECT currency, value_minor AS minor FROM notes WHERE payment_id = ?1 AND state = 'stacked'"
        " UNION ALL SELECT found_currency, found_minor FROM doubts WHERE payment_id = ?1 AND found_minor IS NOT NULL"
        "  AND id NOT IN (SELECT id FROM notes WHERE payment_id = ?1 AND state = 'stacked')"
        " UNION ALL SELECT currency, -amount_minor FROM claims WHERE payment_id = ?1"
        ") WHERE currency <> ?2 GROUP BY currency HAVING SUM(minor) > 0 ORDER BY currency",
        payment.id,
        payment.amount.currency,
    )
    return tuple(Money(row["minor"], row["currency"]) for row in rows)


def claims(reader: Reader, limit: int, before: str | None = None) -> list[Row]:
    return reader.all(
        "SELECT * FROM claims WHERE (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2", before, min(limit, LIMIT_MAX)
    )


def claims_of(reader: Reader, payment_id: str) -> list[Row]:
    return reader.all("SELECT * FROM claims WHERE payment_id = ? ORDER BY id", payment_id)


def claim_by_code(reader: Reader, code: str) -> Row:
    """Raises `NotFound`. Small letters and blanks of a typed code are forgiven."""
    row = reader.one("SELECT * FROM claims WHERE code = ?", "".join(code.split()).upper())
    if row is None:
        raise NotFound("there is no claim with this code")
    return row


def code_taken(reader: Reader, code: str) -> bool:
    return reader.one("SELECT 1 AS taken FROM claims WHERE code = ?", code) is not None


def doubts(reader: Reader, limit: int, *, open_only: bool) -> list[Row]:
    """Newest first."""
    where = "WHERE open = 1" if open_only else ""
    return reader.all(f"SELECT * FROM doubts {where} ORDER BY id DESC LIMIT ?", min(limit, LIMIT_MAX))  # noqa: S608 - ours


def doubt(reader: Reader, doubt_id: str) -> Row:
    """Raises `NotFound`."""
    row = reader.one("SELECT * FROM doubts WHERE id = ?", doubt_id)
    if row is None:
        raise NotFound(f"there is no doubt {doubt_id}", doubt_id=doubt_id)
    return row


def explained_by(reader: Reader, seq: int) -> Row | None:
    """The doubt that this journal row explains; each row explains at most one."""
    return reader.one("SELECT * FROM doubts WHERE explained_by_seq = ?", seq)


def unit_contents(reader: Reader) -> list[Row]:
    return reader.all("SELECT * FROM unit_contents WHERE count <> 0 ORDER BY unit, currency, value_minor")


def balances(reader: Reader) -> list[Row]:
    """The ledger's accounts, kept by the store with every row."""
    return reader.all("SELECT * FROM balances ORDER BY currency, account")
