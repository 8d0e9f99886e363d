"""Watermarks: which rows of a batch are new, and how a journal begins, continues another, or is continued.

Everything here happens behind the lock on the kiosk's row. A kiosk's journals form a tree: each may name the one it
continues. Facts are never thrown away: rows of a branch that nobody continues stay, and an alarm names them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent.domain.chain import JournalRow, genesis_hash
from agent.domain.events import JournalOpened, NoteStacked
from agent.domain.money import Money
from agent.domain.wire import decode
from sync.central.database import Connection
from sync.central.problems import Alarm, Mark, Refused
from sync.envelope import Refusal

OPEN, CONTINUED, REPLACED = "open", "continued", "replaced"


@dataclass(frozen=True, slots=True)
class State:
    """A journal's watermark, and up to which seq it still takes rows (None: without end)."""

    mark: Mark
    continued_at_seq: int | None = None

    @classmethod
    def fresh(cls, journal_id: UUID) -> State:
        return cls(Mark(journal_id, 0, genesis_hash(journal_id)))


FIND = "SELECT seq, hash, continued_at_seq FROM journals WHERE kiosk_id = %s AND journal_id = %s"


def found(journal_id: UUID, row: tuple[Any, ...] | None) -> State | None:
    """The state in a row of `FIND`."""
    return None if row is None else State(Mark(journal_id, row[0], row[1]), row[2])


async def state_of(connection: Connection, kiosk_id: UUID, journal_id: UUID) -> State:
    cursor = await connection.execute(FIND, (kiosk_id, journal_id))
    return found(journal_id, await cursor.fetchone()) or State.fresh(journal_id)


async def hash_at(connection: Connection, kiosk_id: UUID, journal_id: UUID, seq: int) -> bytes | None:
    """The hash of a row that is here; None when it is not."""
    if seq == 0:
        return genesis_hash(journal_id)
    cursor = await connection.execute(
        "SELECT hash FROM events WHERE kiosk_id = %s AND journal_id = %s AND seq = %s", (kiosk_id, journal_id, seq)
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


def fork(mark: Mark, seq: int) -> Refused:
    """The same seq with another hash: two histories of one journal."""
    text = f"row {seq} of journal {mark.journal_id} is here with another hash: this is another history of that journal"
    facts = {"journal_id": str(mark.journal_id), "seq": seq, "watermark_seq": mark.seq}
    alarm = Alarm("journal_fork", str(mark.journal_id), text, facts, severity="critical")
    return Refused(Refusal.FORK, text, mark=mark, alarm=alarm)


def new_rows(state: State, rows: list[JournalRow]) -> list[JournalRow]:
    """The rows behind the watermark, once the one hash where both sides overlap agrees. `rows` are a checked chain
    that reaches at least to the watermark. Raises `Refused` for a gap, a fork, or a journal continued elsewhere."""
    mark, first, last = state.mark, rows[0].seq, rows[-1].seq
    if first > mark.seq + 1:
        raise Refused(Refusal.GAP, f"row {first} does not follow; the next one wanted is {mark.seq + 1}", mark=mark)
    overlap = mark.seq - first + 1
    here = rows[overlap - 1].hash if overlap else rows[0].prev_hash
    if here != mark.hash:
        raise fork(mark, mark.seq)
    if state.continued_at_seq is not None and last > max(state.continued_at_seq, mark.seq):
        text = f"journal {mark.journal_id} was continued by another one after row {state.continued_at_seq}"
        facts = {"journal_id": str(mark.journal_id), "seq": last, "continued_at_seq": state.continued_at_seq}
        alarm = Alarm("journal_superseded", str(mark.journal_id), text, facts, severity="critical")
        raise Refused(Refusal.JOURNAL_SUPERSEDED, text, mark=mark, alarm=alarm)
    return rows[overlap:]


async def open_journal(
    connection: Connection, kiosk_id: UUID, journal_id: UUID, first: JournalRow
) -> tuple[State, list[Alarm]]:
    """Make the watermark row of a journal whose first row is here; returns it and what people should know."""
    event = decode(first.type, first.body)
    if first.seq != 1:
        raise Refused(
            Refusal.GAP, f"row {first.seq} of a journal that is not here; send row 1", mark=State.fresh(journal_id).mark
        )
    if not isinstance(event, JournalOpened):
        raise Refused(Refusal.MALFORMED_BATCH, f"the first row of a journal must be journal.opened, not {first.type}")
    others = await _others(connection, kiosk_id)
    if event.previous_journal_id is None:
        alarms = await _replace(connection, kiosk_id, journal_id, others)
        previous: tuple[UUID | None, int | None] = (None, None)
    else:
        previous = _named(event)
        alarms = await _continue(connection, kiosk_id, journal_id, event, others)
    state = State.fresh(journal_id)
    await connection.execute(
        "INSERT INTO journals (kiosk_id, journal_id, seq, hash, predecessor_id, predecessor_seq) "
        "VALUES (%s, %s, 0, %s, %s, %s)",
        (kiosk_id, journal_id, state.mark.hash, *previous),
    )
    await connection.execute("UPDATE kiosks SET current_journal_id = %s WHERE kiosk_id = %s", (journal_id, kiosk_id))
    return state, alarms


@dataclass(frozen=True, slots=True)
class _Other:
    mark: Mark
    state: str
    continued_at_seq: int | None


async def _others(connection: Connection, kiosk_id: UUID) -> dict[UUID, _Other]:
    cursor = await connection.execute(
        "SELECT journal_id, seq, hash, state, continued_at_seq FROM journals WHERE kiosk_id = %s", (kiosk_id,)
    )
    rows = await cursor.fetchall()
    return {row[0]: _Other(Mark(row[0], row[1], row[2]), row[3], row[4]) for row in rows}


async def _replace(connection: Connection, kiosk_id: UUID, journal_id: UUID, others: dict[UUID, _Other]) -> list[Alarm]:
    """A journal without a past: the first one, or the disk was replaced."""
    ended = [other.mark for other in others.values() if other.state == OPEN]
    await connection.execute(
        "UPDATE journals SET state = %s, updated_at = now() WHERE kiosk_id = %s AND state = %s",
        (REPLACED, kiosk_id, OPEN),
    )
    if not others:
        return []
    known = ", ".join(f"{mark.journal_id} up to row {mark.seq}" for mark in ended) or "none that was open"
    facts = {"journal_id": str(journal_id), "replaced": {str(mark.journal_id): mark.seq for mark in ended}}
    detail = (
        f"the kiosk began a new journal without a past; here is of the old: {known}; rows behind are on the old disk"
    )
    return [Alarm("journal_replaced", str(journal_id), detail, facts, severity="critical")]


def _named(event: JournalOpened) -> tuple[UUID, int]:
    try:
        previous_id = UUID(event.previous_journal_id)
    except ValueError as error:
        raise Refused(Refusal.MALFORMED_BATCH, "journal.opened names a journal whose id is not a UUID") from error
    seq = event.previous_seq
    if seq is None or not 0 <= seq < 2**63 or event.previous_hash is None:
        raise Refused(Refusal.MALFORMED_BATCH, "journal.opened names a journal without its seq and hash")
    return previous_id, seq


async def _continue(
    connection: Connection, kiosk_id: UUID, journal_id: UUID, event: JournalOpened, others: dict[UUID, _Other]
) -> list[Alarm]:
    """A journal that goes on where another one was left."""
    previous_id, seq = _named(event)
    facts: dict[str, Any] = {
        "journal_id": str(journal_id),
        "previous_journal_id": str(previous_id),
        "previous_seq": seq,
    }
    other = others.get(previous_id)
    if other is None:
        detail = f"the kiosk continues journal {previous_id} after row {seq}, but nothing of that journal is here"
        return [Alarm("journal_predecessor_unknown", str(journal_id), detail, facts, severity="critical")]
    if seq <= other.mark.seq and (await _hash(connection, kiosk_id, other.mark, seq)).hex() != event.previous_hash:
        raise fork(other.mark, seq)
    alarms = []
    if other.state == CONTINUED:
        detail = f"two journals continue {previous_id}: two copies of this kiosk's disk are or were at work"
        alarms.append(Alarm("kiosk_cloned", str(journal_id), detail, facts, severity="critical"))
    alarms.append(await _forked(connection, kiosk_id, other.mark, seq, facts))
    await connection.execute(
        "UPDATE journals SET state = %s, continued_at_seq = greatest(continued_at_seq, %s), updated_at = now() "
        "WHERE kiosk_id = %s AND journal_id = %s",
        (CONTINUED, seq, kiosk_id, previous_id),
    )
    return alarms


async def _hash(connection: Connection, kiosk_id: UUID, mark: Mark, seq: int) -> bytes:
    return mark.hash if seq == mark.seq else await hash_at(connection, kiosk_id, mark.journal_id, seq) or b""


async def _forked(connection: Connection, kiosk_id: UUID, old: Mark, seq: int, facts: dict[str, Any]) -> Alarm:
    """What was left behind, what is missing, or that nothing is."""
    key = facts["journal_id"]
    if old.seq < seq:
        facts = {**facts, "missing_from": old.seq + 1, "missing_to": seq}
        detail = (
            f"rows {old.seq + 1} to {seq} of journal {old.journal_id} are not here, but the kiosk went on behind them"
        )
        return Alarm("journal_gap", key, detail, facts, severity="critical")
    if old.seq == seq:
        return Alarm("journal_forked", key, f"journal {old.journal_id} is continued after its last row {seq}", facts)
    stacked = await _stacked(connection, kiosk_id, old, seq)
    facts = {**facts, "orphaned_from": seq + 1, "orphaned_to": old.seq, "orphaned_stacked_minor": dict(stacked)}
    money = ", ".join(str(Money(minor, currency)) for currency, minor in sorted(stacked.items())) or "no notes"
    detail = (
        f"rows {seq + 1} to {old.seq} of journal {old.journal_id} are no longer in the kiosk's own history "
        f"(an older disk image, or a clone); they stay here, with {money} stacked in them"
    )
    return Alarm("journal_forked", key, detail, facts, severity="critical")


async def _stacked(connection: Connection, kiosk_id: UUID, old: Mark, seq: int) -> Counter[str]:
    cursor = await connection.execute(
        "SELECT body FROM events WHERE kiosk_id = %s AND journal_id = %s AND seq > %s AND type = %s",
        (kiosk_id, old.journal_id, seq, NoteStacked.TYPE),
    )
    sums: Counter[str] = Counter()
    bodies = await cursor.fetchall()
    for (body,) in bodies:
        event = decode(NoteStacked.TYPE, body)
        if isinstance(event, NoteStacked):
            sums[event.value.currency] += event.value.minor
    return sums
