"""Ledger and open records as the rows say they must be, compared with what the file holds, in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import apsw

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.domain.errors import UnbalancedEntries
from agent.domain.ledger import Entry, State, entries_for, settled_transfer
from agent.domain.wire import event_of
from agent.store.connection import query
from agent.store.damage import Damage
from agent.store.ledger import STATES
from agent.store.rebuild import Progress

_Place = tuple[int, int]
_REPORT_EVERY = 1_000
_BEHIND_ALL: _Place = (2**62, 0)


class Derived:
    """`take` every row of the present state's history in order, then `finish`. Keeps balances and what is open, no
    more: a journal of ten million rows does not have to fit into memory."""

    def __init__(self, connection: apsw.Connection, total: int, progress: Progress) -> None:
        self._connection = connection
        self._held = _held_entries(connection)
        self._next: tuple[_Place, list[tuple[Any, ...]]] = next(self._held, (_BEHIND_ALL, []))
        self._sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._pending: dict[str, tuple[Entry, ...]] = {}
        self._open: dict[str, list[_Place]] = {}
        self._damages: list[Damage] = []
        self._total, self._done, self._progress = total, 0, progress

    def take(self, epoch: int, row: JournalRow) -> None:
        event = event_of(row)
        self._post(epoch, row.seq, event)
        record = event.record()
        if record is not None and event.closes_record():
            self._open.pop(record, None)
        elif record is not None:
            self._open.setdefault(record, []).append((epoch, row.seq))
        self._done += 1
        if self._done % _REPORT_EVERY == 0 or self._done == self._total:
            self._progress(self._done, self._total)

    def finish(self) -> list[Damage]:
        """The first difference of each kind."""
        self._compare_entries(_BEHIND_ALL, [])
        first = {damage.reason: damage for damage in reversed(self._damages)}
        return [*first.values(), *self._compare_balances(), *self._compare_open()]

    def _post(self, epoch: int, seq: int, event: ev.Event) -> None:
        transfer = settled_transfer(event)
        try:
            entries = entries_for(event, self._pending.get(transfer, ()) if transfer is not None else ())
        except UnbalancedEntries as error:
            self._damages.append(Damage(epoch, seq, "ledger_unbalanced", error.message))
            return
        wanted = [(STATES[e.state], e.account, e.amount.currency, e.amount.minor, e.transfer_id) for e in entries]
        self._compare_entries((epoch, seq), wanted)
        for entry in entries:
            self._sums[entry.account, entry.amount.currency][entry.state is not State.POSTED] += entry.amount.minor
        if transfer is not None:
            self._pending.pop(transfer, None)
        waiting = tuple(entry for entry in entries if entry.state is State.PENDING)
        if waiting:
            waiting_id = waiting[0].transfer_id
            self._pending[waiting_id] = self._pending.get(waiting_id, ()) + waiting

    def _compare_entries(self, place: _Place, wanted: list[tuple[Any, ...]]) -> None:
        """`wanted` are the entries of `place`; whatever the file holds for places before it belongs to no row."""
        while self._next[0] < place:
            self._differs(self._next[0])
            self._next = next(self._held, (_BEHIND_ALL, []))
        held: list[tuple[Any, ...]] = []
        if self._next[0] == place != _BEHIND_ALL:
            held = self._next[1]
            self._next = next(self._held, (_BEHIND_ALL, []))
        if held != wanted:
            self._differs(place)

    def _differs(self, place: _Place) -> None:
        if not self._damages:
            self._damages.append(Damage(*place, "ledger_differs", "entries are not what the row gives"))

    def _compare_balances(self) -> list[Damage]:
        sums, nothing = self._sums, [0, 0]
        rows = query(self._connection, "SELECT account, currency, posted_minor, pending_minor FROM balances")
        held = {(account, currency): [posted, pending] for account, currency, posted, pending in rows}
        places = sorted(held.keys() | sums.keys())
        wrong = [place for place in places if held.get(place, nothing) != sums.get(place, nothing)]
        damages = [Damage(0, 0, "ledger_differs", f"balance of {' '.join(place)}") for place in wrong[:1]]
        pending = [entry for entries in self._pending.values() for entry in entries]
        wanted = sorted((e.transfer_id, e.account, e.amount.currency, e.amount.minor) for e in pending)
        columns = "transfer_id, account, currency, amount_minor"
        if wanted != sorted(query(self._connection, f"SELECT {columns} FROM ledger_pending")):  # noqa: S608 - ours
            damages.append(Damage(0, 0, "ledger_differs", "pending entries are not what the rows give"))
        return damages

    def _compare_open(self) -> list[Damage]:
        held = set(query(self._connection, "SELECT record_id, epoch, seq FROM open_records"))
        wanted = {(record, *place) for record, places in self._open.items() for place in places}
        if held == wanted:
            return []
        record, epoch, seq = min(held ^ wanted)
        return [Damage(epoch, seq, "open_records_differ", f"record {record}")]


def _held_entries(connection: apsw.Connection) -> Iterator[tuple[_Place, list[tuple[Any, ...]]]]:
    """Entries by the row they belong to, read as they are asked for."""
    columns = "epoch, seq, state, account, currency, amount_minor, transfer_id"
    rows = connection.cursor().execute(f"SELECT {columns} FROM ledger_entries ORDER BY epoch, seq, n")  # noqa: S608
    for place, group in groupby(rows, key=itemgetter(0, 1)):
        yield place, [row[2:] for row in group]
