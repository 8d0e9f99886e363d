"""Ledger entries and open device records of one journal row, in its transaction. Rules: agent/domain/ledger.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import apsw

from agent.domain import events as ev
from agent.domain.ledger import Entry, State, entries_for, settled_transfer
from agent.domain.money import Money

Execute = Callable[..., apsw.Cursor]

STATES = {State.PENDING: 0, State.VOIDED: 1, State.POSTED: 2}
TABLES = ("ledger_entries", "ledger_pending", "balances", "open_records")

_INSERT_ENTRY = "INSERT INTO ledger_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_PENDING = "INSERT INTO ledger_pending VALUES (?, ?, ?, ?, ?, ?, ?)"
_ADD_BALANCE = (
    "INSERT INTO balances VALUES (?1, ?2, ?3, ?4) ON CONFLICT (account, currency) DO UPDATE SET "
    "posted_minor = posted_minor + ?3, pending_minor = pending_minor + ?4"
)
_PENDING = "SELECT epoch, seq, n, account, amount_minor, currency FROM ledger_pending WHERE transfer_id = ?"


def post(execute: Execute, epoch: int, seq: int, event: ev.Event) -> None:
    """Write what `event` moves, and keep the list of open device records."""
    record = event.record()
    transfer = settled_transfer(event)
    pending: tuple[Entry, ...] = ()
    if transfer is not None:
        found: list[Any] = sorted(execute(_PENDING, (transfer,)))  # cheaper than ORDER BY: two rows
        pending = tuple(Entry(State.PENDING, row[3], Money(row[4], row[5]), transfer) for row in found)
    entries = entries_for(event, pending)
    if entries:
        _write(execute, epoch, seq, entries, bool(pending))
    if record is not None:
        _keep_record(execute, epoch, seq, record, event)


def _write(execute: Execute, epoch: int, seq: int, entries: tuple[Entry, ...], settles: bool) -> None:
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    if settles:
        execute("DELETE FROM ledger_pending WHERE transfer_id = ?", (entries[0].transfer_id,))
    for n, entry in enumerate(entries):
        what = (entry.account, entry.amount.currency, entry.amount.minor)
        execute(_INSERT_ENTRY, (epoch, seq, n, STATES[entry.state], *what, entry.transfer_id))
        sums[entry.account, entry.amount.currency][entry.state is not State.POSTED] += entry.amount.minor
        if entry.state is State.PENDING:
            execute(_INSERT_PENDING, (entry.transfer_id, epoch, seq, n, *what))
    for (account, currency), (posted, waiting) in sums.items():
        execute(_ADD_BALANCE, (account, currency, posted, waiting))


def _keep_record(execute: Execute, epoch: int, seq: int, record: str, event: ev.Event) -> None:
    if event.closes_record():
        execute("DELETE FROM open_records WHERE record_id = ?", (record,))
    else:
        execute("INSERT INTO open_records VALUES (?, ?, ?, ?)", (record, epoch, seq, getattr(event, "device", "")))
