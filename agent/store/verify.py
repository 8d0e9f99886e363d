"""Is the journal whole? The chain of every journal in the file, the ledger and open records derived anew, a witness."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

import apsw

from agent.domain import events as ev
from agent.domain.chain import JournalRow, first_break, genesis_hash
from agent.domain.errors import UnbalancedEntries
from agent.domain.ledger import Entry, State, entries_for, settled_transfer
from agent.domain.wire import event_of
from agent.store.connection import query
from agent.store.ledger import STATES
from agent.store.reader import COLUMNS, SqlReader, row_of
from agent.store.rebuild import Progress, epoch_rows, history_length, ignore_progress
from agent.store.witness import Seen

_BATCH = 1_000
UNREADABLE = (apsw.Error, ValueError, TypeError, AttributeError, OverflowError, struct.error)
"""What damaged bytes may raise on their way into a row: SQLite's complaints, texts that are no UTF-8, wrong types."""
TAIL_ROWS = 256  # checked at every start; the rest by `kiosk journal verify`


@dataclass(frozen=True, slots=True)
class Damage:
    """`seq` is the first row concerned. `reason` is stable: `gap`, `broken_link`, `wrong_hash`, `wrong_start`,
    `rows_missing`, `row_changed`, `ledger_differs`, `ledger_unbalanced`, `open_records_differ`, `file_corrupt`."""

    epoch: int
    seq: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found: the present journal, how many rows were checked, and the first break of each kind."""

    journal_id: UUID | None
    seq: int
    rows: int
    damages: tuple[Damage, ...] = field(default=())

    @property
    def sound(self) -> bool:
        return not self.damages


def verify(reader: SqlReader, seen: Seen | None, progress: Progress = ignore_progress) -> Verdict:
    """Check everything that `reader` sees; `seen` is the witness. Raises nothing for damage: it is in the verdict."""
    try:
        return _verify(reader.connection, seen, progress)
    except UNREADABLE as error:
        return Verdict(None, 0, 0, (Damage(0, 0, "file_corrupt", f"{type(error).__name__}: {error}"),))


def _verify(connection: apsw.Connection, seen: Seen | None, progress: Progress) -> Verdict:
    damages = [
        Damage(0, 0, "file_corrupt", str(text))
        for (text,) in query(connection, "PRAGMA quick_check(1)")
        if text != "ok"
    ]
    damages += [
        Damage(epoch, seq, reason, detail)
        for epoch, seq, reason, detail in query(
            connection, "SELECT epoch, seq, reason, detail FROM damages ORDER BY found_at"
        )
    ]
    journals = query(connection, "SELECT epoch, journal_id, continued_seq FROM journals ORDER BY epoch")
    derived = _Derived(history_length(connection), progress)
    row, rows = None, 0
    previous: tuple[UUID, int, bytes] | None = None
    for epoch, id_, continued in journals:
        check = _Chain(epoch, UUID(bytes=id_), continued, previous)
        for row in epoch_rows(connection, epoch):
            check.take(row)
            if continued is None or row.seq <= continued:
                derived.take(epoch, row)
            rows += 1
        damages += check.finish()
        previous = check.common
    damages += against_witness(connection, seen)
    damages += derived.compare(connection)
    if not journals:
        return Verdict(None, 0, rows, tuple(damages))
    return Verdict(UUID(bytes=journals[-1][1]), row.seq if row else 0, rows, tuple(dict.fromkeys(damages)))


class _Chain:
    """One journal's rows in order: dense, linked, hashed, and starting as the previous journal says."""

    def __init__(self, epoch: int, journal_id: UUID, continued: int | None, previous: tuple[UUID, int, bytes] | None):
        self._epoch = epoch
        self._last = (0, genesis_hash(journal_id))
        self._journal_id = journal_id
        self._continued = continued
        self._previous = previous
        self._damage: Damage | None = None
        self.common: tuple[UUID, int, bytes] | None = (journal_id, 0, self._last[1]) if continued == 0 else None

    def take(self, row: JournalRow) -> None:
        if self._damage is None:
            found = _break_at(row, *self._last)
            if found is not None:
                self._damage = Damage(self._epoch, *found)
            elif row.seq == 1 and not self._starts_well(row):
                self._damage = Damage(self._epoch, 1, "wrong_start", "the first row does not open this journal")
        self._last = (row.seq, row.hash)
        if row.seq == self._continued:
            self.common = (self._journal_id, row.seq, row.hash)

    def _starts_well(self, row: JournalRow) -> bool:
        opened = event_of(row)
        if not isinstance(opened, ev.JournalOpened):
            return False
        named = (opened.previous_journal_id, opened.previous_seq, opened.previous_hash)
        before = self._previous
        return named == ((None, None, None) if before is None else (str(before[0]), before[1], before[2].hex()))

    def finish(self) -> list[Damage]:
        if self._damage is None and self._last[0] < (self._continued or 1):
            self._damage = Damage(self._epoch, self._last[0] + 1, "rows_missing", "the journal ends too early")
        return [] if self._damage is None else [self._damage]


class _Derived:
    """Ledger and open records as the rows say they must be, to compare with what the file holds."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._entries: dict[tuple[int, int], tuple[Entry, ...]] = {}
        self._pending: dict[str, tuple[Entry, ...]] = {}
        self._open: dict[str, list[tuple[int, int]]] = {}
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
        if self._done % _BATCH == 0 or self._done == self._total:
            self._progress(self._done, self._total)

    def _post(self, epoch: int, seq: int, event: ev.Event) -> None:
        transfer = settled_transfer(event)
        try:
            entries = entries_for(event, self._pending.get(transfer, ()) if transfer is not None else ())
        except UnbalancedEntries as error:
            self._damages.append(Damage(epoch, seq, "ledger_unbalanced", error.message))
            return
        if not entries:
            return
        self._entries[epoch, seq] = entries
        if transfer is not None:
            self._pending.pop(transfer, None)
        waiting = tuple(entry for entry in entries if entry.state is State.PENDING)
        if waiting:
            waiting_id = waiting[0].transfer_id
            self._pending[waiting_id] = self._pending.get(waiting_id, ()) + waiting

    def compare(self, connection: apsw.Connection) -> list[Damage]:
        """The first difference of each kind."""
        return [
            *self._damages,
            *self._compare_entries(connection),
            *self._compare_balances(connection),
            *self._compare_open(connection),
        ]

    def _compare_entries(self, connection: apsw.Connection) -> list[Damage]:
        held: defaultdict[tuple[int, int], list[tuple[object, ...]]] = defaultdict(list)
        columns = "epoch, seq, state, account, currency, amount_minor, transfer_id"
        sql = f"SELECT {columns} FROM ledger_entries ORDER BY epoch, seq, n"  # noqa: S608 - our own constant
        for epoch, seq, *entry in query(connection, sql):
            held[epoch, seq].append(tuple(entry))
        wanted = {
            place: [(STATES[e.state], e.account, e.amount.currency, e.amount.minor, e.transfer_id) for e in entries]
            for place, entries in self._entries.items()
        }
        wrong = sorted(place for place in held.keys() | wanted.keys() if held.get(place) != wanted.get(place))
        return [Damage(*place, "ledger_differs", "entries are not what the row gives") for place in wrong[:1]]

    def _compare_balances(self, connection: apsw.Connection) -> list[Damage]:
        sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for entries in self._entries.values():
            for entry in entries:
                place = entry.account, entry.amount.currency
                sums[place][entry.state is not State.POSTED] += entry.amount.minor
        held = {
            (account, currency): [posted, pending]
            for account, currency, posted, pending in query(connection, "SELECT * FROM balances")
        }
        wrong = sorted(
            place for place in held.keys() | sums.keys() if held.get(place, [0, 0]) != sums.get(place, [0, 0])
        )
        waiting = sorted(
            (e.transfer_id, e.account, e.amount.currency, e.amount.minor) for es in self._pending.values() for e in es
        )
        kept = sorted(query(connection, "SELECT transfer_id, account, currency, amount_minor FROM ledger_pending"))
        damages = [
            Damage(0, 0, "ledger_differs", f"balance of {account} {currency}") for account, currency in wrong[:1]
        ]
        if waiting != kept:
            damages.append(Damage(0, 0, "ledger_differs", "pending entries are not what the rows give"))
        return damages

    def _compare_open(self, connection: apsw.Connection) -> list[Damage]:
        held = set(query(connection, "SELECT record_id, epoch, seq FROM open_records"))
        wanted = {(record, *place) for record, places in self._open.items() for place in places}
        if held == wanted:
            return []
        record, epoch, seq = min(held ^ wanted)
        return [Damage(epoch, seq, "open_records_differ", f"record {record}")]


def against_witness(connection: apsw.Connection, seen: Seen | None) -> list[Damage]:
    """Is the row that the witness saw still there, unchanged?"""
    if seen is None:
        return []
    found = query(connection, "SELECT epoch FROM journals WHERE journal_id = ?", seen.journal_id.bytes)
    if not found:
        return [Damage(0, seen.seq, "rows_missing", f"journal {seen.journal_id} was here and is gone")]
    epoch = found[0][0]
    last, hash_ = 0, genesis_hash(seen.journal_id)
    for row in epoch_rows(connection, epoch, after=max(0, seen.seq - 1), last=seen.seq):
        last, hash_ = row.seq, row.hash
    if seen.seq and last != seen.seq:
        head = sum(1 for _ in epoch_rows(connection, epoch))
        return [Damage(epoch, head + 1, "rows_missing", f"rows up to {seen.seq} were acknowledged, {head} are here")]
    if hash_ != seen.hash:
        return [Damage(epoch, seen.seq, "row_changed", "the row is not the one that was acknowledged")]
    return []


def check_tail(connection: apsw.Connection, journal_id: UUID, rows: int = TAIL_ROWS) -> Damage | None:
    """The last rows of the present journal: do they continue one another? Raises `apsw.Error` when SQLite cannot."""
    sql = f"SELECT {COLUMNS} FROM journal ORDER BY seq DESC LIMIT ?"  # noqa: S608 - our own constant
    try:
        tail = [row_of(values) for values in query(connection, sql, rows + 1)][::-1]
    except (ValueError, TypeError) as error:
        return Damage(0, 0, "file_corrupt", str(error))
    if not tail:
        return Damage(0, 1, "rows_missing", "the journal is empty")
    if len(tail) <= rows:
        tail_start = (0, genesis_hash(journal_id))
    else:
        tail_start = (tail[0].seq, tail[0].hash)
        tail = tail[1:]
    for row in tail:
        found = _break_at(row, *tail_start)
        if found is not None:
            return Damage(0, *found)
        tail_start = (row.seq, row.hash)
    return None


def _break_at(row: JournalRow, seq: int, prev_hash: bytes) -> tuple[int, str] | None:
    """`first_break` for one row, whatever its columns hold."""
    try:
        return first_break([row], seq, prev_hash)
    except UNREADABLE:
        return seq + 1, "wrong_hash"
