"""Go on in a new journal after the centre found that its copy and ours went different ways."""

from __future__ import annotations

from uuid import UUID

from agent.domain.errors import StoreError
from agent.domain.events import JournalOpened
from agent.store.engine import Engine
from agent.store.rebuild import epoch_rows


class ForkRefused(StoreError):
    """The named common point is not a row of this journal, or a handler has not worked up to it yet (`retryable`)."""

    code = "fork_refused"


def fork(engine: Engine, common_seq: int, waiting: dict[str, int]) -> UUID:
    """Archive the present journal whole and continue it after `common_seq` in a new one, in one transaction.

    Rows behind `common_seq` follow again with their ids, times and bodies, new seq and chain; ledger entries and open
    records move with them, projections stay. `waiting` are the cursors of this process's subscribers: rows up to the
    common point will not be in the new journal, so all of them must have been handled before.
    """
    head, _ = engine.head()
    if not 0 <= common_seq <= head:
        raise ForkRefused(f"row {common_seq} is not in this journal, whose head is {head}", head=head)
    behind = sorted(name for name, seq in waiting.items() if seq < common_seq)
    if behind:
        raise ForkRefused(f"handlers still work through rows before {common_seq}: {', '.join(behind)}")
    common_hash = engine.hash_of(common_seq)
    with engine.transaction():
        old_epoch, old_id = engine.position.epoch, engine.position.journal_id
        _archive(engine, old_epoch, common_seq)
        engine.open_journal(
            old_epoch + 1,
            JournalOpened(previous_journal_id=str(old_id), previous_seq=common_seq, previous_hash=common_hash.hex()),
        )
        for row in epoch_rows(engine.connection, old_epoch, common_seq):
            engine.chain(
                id_=row.id,
                type_=row.type,
                schema=row.schema,
                occurred_at=row.occurred_at,
                boot_id=row.boot_id,
                monotonic_us=row.monotonic_us,
                trace_id=row.trace_id,
                actor=row.actor,
                subject=row.subject,
                body=row.body,
            )
        _move(engine, old_epoch, common_seq)
        return engine.position.journal_id


def _archive(engine: Engine, epoch: int, common_seq: int) -> None:
    engine.writer.execute("INSERT INTO journal_past SELECT ?, * FROM journal ORDER BY seq", epoch)
    engine.writer.execute("DELETE FROM journal")
    engine.writer.execute("UPDATE journals SET continued_seq = ? WHERE epoch = ?", common_seq, epoch)


def _move(engine: Engine, epoch: int, common_seq: int) -> None:
    """What hung on the rows that follow again hangs on their new seq: `journal.opened` took 1."""
    shift = 1 - common_seq
    parameters = (epoch + 1, shift, epoch, common_seq)
    for table in ("ledger_entries", "ledger_pending", "open_records"):
        engine.writer.execute(
            f"UPDATE {table} SET epoch = ?1, seq = seq + ?2 WHERE epoch = ?3 AND seq > ?4",  # noqa: S608
            *parameters,
        )
    engine.writer.execute("UPDATE cursors SET seq = CASE WHEN seq > ?1 THEN seq + ?2 ELSE 0 END", common_seq, shift)
