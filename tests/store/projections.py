"""A projection for tests: what was taken per device, and which notes are known; small, but with a history in it."""

from __future__ import annotations

from collections.abc import Sequence

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.store.ports import ProjectionWriter


class TakingsProjection:
    """Tables `takings` (count and sum per device and currency) and `seen_notes` (last event of each note)."""

    name = "takings"
    schema = """
        CREATE TABLE IF NOT EXISTS takings (
            device TEXT, currency TEXT, count INTEGER, minor INTEGER, PRIMARY KEY (device, currency)
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS seen_notes (note_id TEXT PRIMARY KEY, event_id BLOB, type TEXT) WITHOUT ROWID;
    """
    tables: Sequence[str] = ("takings", "seen_notes")
    handles: frozenset[type[ev.Event]] = frozenset({ev.NoteEscrowed, ev.NoteStacked, ev.NoteReturned})

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: ev.Event) -> None:
        if isinstance(event, ev.NoteEvent):
            tx.execute("INSERT OR REPLACE INTO seen_notes VALUES (?, ?, ?)", event.note_id, row.id.bytes, row.type)
        if isinstance(event, ev.NoteStacked):
            tx.execute(
                "INSERT INTO takings VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET "
                "count = count + 1, minor = minor + excluded.minor",
                *(event.device, event.value.currency, event.value.minor),
            )
