"""The journals of this kiosk's file: past ones up to where the next continues them, then the present one.

An office put back to a backup from before a fork lacks the end of a past journal as well; it is sent first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from agent.domain.chain import JournalRow, genesis_hash
from agent.store.ports import Reader

_PAST = "SELECT epoch, journal_id, continued_seq FROM journals WHERE continued_seq IS NOT NULL ORDER BY epoch"
_ROWS = "SELECT * FROM journal_past WHERE epoch = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"


@dataclass(frozen=True, slots=True)
class Chapter:
    """One journal. `epoch` and `last_seq` are None for the present one, which has no end yet."""

    journal_id: UUID
    epoch: int | None = None
    last_seq: int | None = None

    def rows(self, reader: Reader, after: int, limit: int) -> list[JournalRow]:
        """Rows with `seq > after`, in order, at most `limit`; of a past journal none behind its end."""
        if self.epoch is None:
            return reader.rows(after, limit)
        return [_row(row) for row in reader.all(_ROWS, self.epoch, after, self.last_seq, limit)]

    def hash_at(self, reader: Reader, seq: int) -> bytes | None:
        """None when there is no such row."""
        if seq == 0:
            return genesis_hash(self.journal_id)
        rows = self.rows(reader, seq - 1, 1)
        return rows[0].hash if rows and rows[0].seq == seq else None


def past(reader: Reader) -> list[Chapter]:
    """The journals that the present one came from, oldest first."""
    return [Chapter(UUID(bytes=row["journal_id"]), row["epoch"], row["continued_seq"]) for row in reader.all(_PAST)]


def _row(row: Mapping[str, Any]) -> JournalRow:
    fields = {name: value for name, value in row.items() if name != "epoch"}
    return JournalRow(**{**fields, "id": UUID(bytes=fields["id"]), "boot_id": UUID(bytes=fields["boot_id"])})
