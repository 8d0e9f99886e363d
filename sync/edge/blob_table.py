"""Which sealed files this kiosk has captured, and how far the office has them: a projection of the journal.

The runtime hands `PROJECTIONS` (`sync.edge`) to the store when it opens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.domain.chain import JournalRow
from agent.domain.events import BlobCaptured, BlobDiscarded, BlobStored, Event
from agent.store.ports import ProjectionWriter, Reader

CAPTURED, STORED, DISCARDED = "captured", "stored", "discarded"
PRIORITY = {"document": 0}
"""Smaller goes first; kinds not named here come after, the oldest of equals first."""


@dataclass(frozen=True, slots=True)
class Blob:
    """`state`: captured (on this disk only), stored (the object store took it), discarded (will never come)."""

    blob_id: str
    kind: str
    sha256: str
    size_bytes: int
    captured_at: int
    state: str

    @property
    def order(self) -> tuple[int, int, str]:
        return PRIORITY.get(self.kind, 1), self.captured_at, self.blob_id


class BlobTable:
    """`sync_blobs`: one row a blob. Repeats (a fork appends rows again) change nothing that was further on."""

    name = "sync_blobs"
    version = 1
    schema = """
        CREATE TABLE IF NOT EXISTS sync_blobs (
            blob_id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            captured_at INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('captured', 'stored', 'discarded'))
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS sync_blobs_open ON sync_blobs (state) WHERE state = 'captured';
    """
    tables: Sequence[str] = ("sync_blobs",)
    handles: frozenset[type[Event]] = frozenset({BlobCaptured, BlobStored, BlobDiscarded})

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None:
        if isinstance(event, BlobCaptured):
            tx.execute(
                "INSERT INTO sync_blobs VALUES (?, ?, ?, ?, ?, 'captured') ON CONFLICT DO NOTHING",
                event.blob_id,
                event.kind,
                event.sha256,
                event.size_bytes,
                row.occurred_at,
            )
        elif isinstance(event, BlobStored):
            tx.execute("UPDATE sync_blobs SET state = 'stored' WHERE blob_id = ?", event.blob_id)
        elif isinstance(event, BlobDiscarded):
            tx.execute(
                "UPDATE sync_blobs SET state = 'discarded' WHERE blob_id = ? AND state = 'captured'", event.blob_id
            )


def captured(reader: Reader) -> list[Blob]:
    """Blobs that only this kiosk has, in upload order."""
    return sorted(map(_blob, reader.all("SELECT * FROM sync_blobs WHERE state = 'captured'")), key=lambda b: b.order)


def find(reader: Reader, blob_id: str) -> Blob | None:
    row = reader.one("SELECT * FROM sync_blobs WHERE blob_id = ?", blob_id)
    return _blob(row) if row else None


def newest_captured_at(reader: Reader, kind: str) -> int | None:
    """When the last blob of this kind was captured (µs UTC of the kiosk's clock); None when there was none."""
    row = reader.one("SELECT max(captured_at) AS at FROM sync_blobs WHERE kind = ?", kind)
    return row["at"] if row else None


def _blob(row: Mapping[str, Any]) -> Blob:
    return Blob(row["blob_id"], row["kind"], row["sha256"], row["size_bytes"], row["captured_at"], row["state"])


PROJECTIONS = (BlobTable(),)
