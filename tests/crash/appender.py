"""Appends until it is killed, and says which seq is on the disk as soon as it was told so.

python -m tests.crash.appender FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent.domain import events as ev
from agent.domain.money import Money
from agent.store.journal import SqliteStore
from tests.store.helpers import open_store
from tests.store.projections import TakingsProjection


async def produce(store: SqliteStore, device: str) -> None:
    for number in range(1_000_000):
        note = {"device": device, "note_id": f"{store.boot_id}-{device}-{number}"}
        escrowed = ev.NoteEscrowed(**note, value=Money(500, "EUR"), note_code=3)
        stacked = ev.NoteStacked(**note, value=Money(500, "EUR"), note_code=3, payment_id=None)
        for event in (escrowed, stacked, ev.CreditAcknowledged(**note)):
            (row,) = await store.record([event], actor=f"device:{device}")
            sys.stdout.write(f"{row.seq} {row.hash.hex()}\n")
            sys.stdout.flush()


async def main(folder: Path) -> None:
    async with open_store(folder, [TakingsProjection()]) as store:
        await asyncio.gather(*(produce(store, f"v{number}") for number in range(4)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
