"""A journal file as a kiosk has one, made with the kiosk's own store."""

import os
from pathlib import Path

from agent.domain import events as ev
from agent.domain.money import Money
from agent.store.journal import SqliteStore
from agent.store.settings import StoreSettings


class Clock:
    """Wall clock enough for a store."""

    def monotonic(self) -> float:
        return 1.0

    def now_us(self) -> int:
        return 1_790_000_000_000_000

    async def sleep_until(self, deadline: float) -> None:
        """Nothing here waits."""


async def journal_file(folder: Path) -> tuple[Path, int, str]:
    """(a consistent copy, seq and hash of its last row)."""
    settings = StoreSettings(directory=folder / "kiosk")
    store = SqliteStore.open(settings, clock=Clock(), randomness=os.urandom)
    try:
        stacked = [
            ev.NoteStacked(device="acceptor", note_id=f"n{n}", value=Money(500, "EUR"), note_code=2, payment_id=None)
            for n in range(20)
        ]
        await store.record(stacked, actor="device:acceptor")
        _, seq, hash_ = store.snapshot(folder / "copy.sqlite")
    finally:
        await store.close()
    return folder / "copy.sqlite", seq, hash_.hex()
