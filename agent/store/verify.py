"""Is the journal whole? The chain of every journal in the file, the ledger and open records derived anew, a witness."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from uuid import UUID

import apsw

from agent.domain import events as ev
from agent.domain.chain import JournalRow, first_break, genesis_hash
from agent.domain.wire import event_of
from agent.store.connection import query
from agent.store.damage import Damage
from agent.store.derived import Derived
from agent.store.reader import COLUMNS, SqlReader, row_of
from agent.store.rebuild import Progress, epoch_rows, history_length, ignore_progress
from agent.store.witness import Seen

_BATCH = 1_000
UNREADABLE = (apsw.Error, ValueError, TypeError, AttributeError, OverflowError, struct.error)
"""What damaged bytes may raise on their way into a row: SQLite's complaints, texts that are no UTF-8, wrong types."""
TAIL_ROWS = 256  # checked at every start; the rest by `kiosk journal verify`


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
    derived = Derived(connection, history_length(connection), progress)
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
    damages += derived.finish()
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
