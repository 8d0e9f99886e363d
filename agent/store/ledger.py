"""Ledger entries and open device records of one journal row, in its transaction. Rules: agent/domain/ledger.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from agent.domain import events as ev
from agent.domain.ledger import Entry, State, entries_for, moves_money, settled_transfer
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
    if moves_money(type(event)):
        _move(execute, epoch, seq, event)
    record = event.record()
    if record is None:
        return
    if event.closes_record():
        execute("DELETE FROM open_records WHERE record_id = ?", (record,))
    else:
        execute("INSERT INTO open_records VALUES (?, ?, ?, ?)", (record, epoch, seq, getattr(event, "device", "")))


def _move(execute: Execute, epoch: int, seq: int, event: ev.Event) -> None:
    transfer = settled_transfer(event)
    pending: tuple[Entry, ...] = ()
    if transfer is not None:
        found: list[Any] = sorted(execute(_PENDING, (transfer,)))  # cheaper than ORDER BY: two rows
        pending = tuple(Entry(State.PENDING, row[3], Money(row[4], row[5]), transfer) for row in found)
    entries = entries_for(event, pending)
    if not entries:
        return
    if pending:
        execute("DELETE FROM ledger_pending WHERE transfer_id = ?", (transfer,))
    sums: dict[tuple[str, str], list[int]] = {}
    for n, entry in enumerate(entries):
        state, account, money, transfer_id = entry.state, entry.account, entry.amount, entry.transfer_id
        execute(_INSERT_ENTRY, (epoch, seq, n, STATES[state], account, money.currency, money.minor, transfer_id))
        sums.setdefault((account, money.currency), [0, 0])[state is not State.POSTED] += money.minor
        if state is State.PENDING:
            execute(_INSERT_PENDING, (transfer_id, epoch, seq, n, account, money.currency, money.minor))
    for (account, currency), (posted, waiting) in sums.items():
        if posted or waiting:
            execute(_ADD_BALANCE, (account, currency, posted, waiting))
