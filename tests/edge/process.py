"""A kiosk as a process of its own, for tests that kill it: records rows, makes a snapshot, syncs, ends when all is out.

`python -m tests.edge.process FOLDER ROWS SNAPSHOT STEP [COUNT]`: at the COUNT-th time that STEP is reached it dies of
SIGKILL, as of a power cut; STEP `-` never does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from agent.runtime.clock import SystemClock
from sync.edge import build_edge
from sync.edge.edge import BLOBS
from tests.edge.real import FAST, filled, open_real


def killer(step: str, count: int) -> Callable[[str], None]:
    left = [count]

    def on_step(name: str) -> None:
        if name == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return on_step


async def main(folder: Path, rows: int, snapshot: bool, step: str, count: int) -> None:
    store = open_real(folder)
    await store.record(filled(rows), actor="test")
    edge = build_edge(
        FAST,
        store=store,
        store_path=store.path,
        state_dir=folder,
        clock=SystemClock(),
        randomness=os.urandom,
        agent_version="1",
        on_step=killer(step, count),
    )
    assert edge is not None
    running = asyncio.create_task(edge.run())
    while edge._session is None:  # noqa: ASYNC110 - there is nobody to ring
        await asyncio.sleep(0.01)
    if snapshot:
        await edge.snapshot_now()
    while edge.status().lag_rows != 0 or list((folder / BLOBS).glob("*")):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    await edge.stop()
    running.cancel()
    await store.close()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(
        main(Path(arguments[0]), int(arguments[1]), arguments[2] == "1", arguments[3], int((*arguments[4:], "1")[0]))
    )
