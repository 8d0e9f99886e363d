"""Runs alone on a small tmpfs that is its working folder's `disk`: fills it up and says what the store did, as JSON.

python -m tests.crash.full_disk FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.domain import events as ev
from agent.store.errors import StorageFailed
from agent.store.journal import Callbacks, SqliteStore
from agent.store.space import RESERVE_NAME, Space
from tests.store.helpers import open_now, small_settings

MIB = 1 << 20
DEADLINE_S = 20.0
MARKS = {"wal_size_mib": 1, "reserve_mib": 3, "disk_critical_mib": 2, "disk_low_mib": 5, "disk_resume_mib": 6}


def main(folder: Path) -> None:
    heard: list[str] = []
    recorded = 0

    def record() -> None:
        nonlocal recorded
        recorded = store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="1")).seq, actor="agent")

    callbacks = Callbacks(
        on_failure=lambda _failure: heard.append("failed"),
        on_recovered=lambda: heard.append("recovered"),
        on_space=lambda state, _free: heard.append(state.value),
    )
    store = open_now(folder / "state", callbacks=callbacks, settings=small_settings(folder / "state", **MARKS))
    reserve = folder / "state" / RESERVE_NAME
    steps: dict[str, object] = {"reserve_made": reserve.stat().st_size if reserve.exists() else 0}
    ballast = folder / "ballast"
    record()

    fill(ballast, folder, leave=4 * MIB)
    wait_for(lambda: store.health().space is Space.LOW)
    record()
    steps["low_before_any_failure"] = list(heard)

    fill(ballast, folder, leave=MIB)
    wait_for(lambda: not reserve.exists())
    record()
    steps["reserve_released"] = store.health().space is Space.CRITICAL

    fill(ballast, folder, leave=0)
    steps["rows_on_a_full_disk"] = write_until_refused(store, 4_000)
    ballast.unlink()
    wait_for(lambda: store.health().space is Space.AMPLE and store.health().failed is None)
    record()
    wait_for(reserve.exists)
    steps["heard"] = heard
    steps["recorded"] = recorded
    store.close_now()
    sys.stdout.write(json.dumps(steps) + "\n")


def fill(ballast: Path, folder: Path, leave: int) -> None:
    """Write until only `leave` bytes are free."""
    with ballast.open("ab", buffering=0) as file:
        while (free := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave) > 0:
            try:
                file.write(bytes(min(free, MIB)))
            except OSError:
                return


def write_until_refused(store: SqliteStore, limit: int) -> int:
    for number in range(limit):
        try:
            store.transact_now(lambda tx: tx.append(ev.AgentStarted(version="x" * 200)), actor="agent")
        except StorageFailed:
            return number
    return limit


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the store did not do what it should")
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
