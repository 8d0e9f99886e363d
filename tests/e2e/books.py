"""Three accounts of the same notes: what the device physically holds, the kiosk's journal, and Postgres.

`person_resolves` plays the person who opens the cabinet, counts, and resolves each doubt by what is found.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from agent.cli.demo.office import Office
from agent.cli.demo.rig import Rig
from agent.domain import events as ev
from agent.domain.wire import event_of
from agent.store.connection import FILE_NAME, connect_reader
from agent.store.reader import reading

PIN = "technician 24680"
USER = "tess"
Notes = Counter[int]
"""Value in minor units → how many."""


@dataclass(frozen=True, slots=True)
class Books:
    """`doubts`: amounts of doubts that are open (0: of unknown value)."""

    device: Notes
    journal: Notes
    office: Notes
    doubts: Notes

    def agree(self) -> bool:
        return self.device == self.journal == self.office

    def agree_up_to_doubts(self) -> bool:
        """Every note that the device holds and the journal does not is named by an open doubt, and none the other
        way round; the office knows what the journal knows."""
        missing, surplus = self.device - self.journal, self.journal - self.device
        return not surplus and not missing - self.doubts and self.journal == self.office


async def read_books(rig: Rig, office: Office) -> Books:
    """Waits until the office has every row of the journal."""
    await office_is_complete(rig, office)
    journal, doubts = Notes(), Notes()
    for event in _journal(rig)[1]:
        match event:
            case ev.NoteStacked():
                journal[event.value.minor] += 1
            case ev.DoubtOpened():
                doubts[event.amount.minor if event.amount else 0] += 1
            case ev.DoubtResolved():
                doubts[event.doubted.minor if event.doubted else 0] -= 1
                if event.outcome == "stacked" and event.amount is not None:
                    journal[event.amount.minor] += 1
    rows = await asyncio.to_thread(
        office.rows, "SELECT value_minor, count(*) AS n FROM transaction_notes GROUP BY value_minor"
    )
    truth = rig.simulator.truth()
    return Books(
        device=Notes(paper["value_minor"] for paper in [*truth["stacker"], *truth["collected"]]),
        journal=+journal,
        office=Notes({int(str(row["value_minor"])): int(str(row["n"])) for row in rows}),
        doubts=+doubts,
    )


async def office_is_complete(rig: Rig, office: Office, timeout_s: float = 30.0) -> None:
    """Wait until the watermark is the journal's head and every row of it is there once, in order."""
    deadline = time.monotonic() + timeout_s
    while True:
        head, _ = _journal(rig)
        found = await asyncio.to_thread(
            office.rows, "SELECT count(*) AS n, count(DISTINCT seq) AS d, coalesce(max(seq), 0) AS head FROM events"
        )
        counts = (found[0]["n"], found[0]["d"], found[0]["head"])
        if counts == (head, head, head):
            return
        assert time.monotonic() < deadline, f"the office has (rows, seqs, head) {counts}, the kiosk is at {head}"
        await asyncio.sleep(0.05)


def _journal(rig: Rig) -> tuple[int, list[ev.Event]]:
    connection = connect_reader(rig.state_dir / FILE_NAME)
    try:
        with reading(connection) as reader:
            head, _ = reader.head()
            return head, [event_of(row) for row in reader.rows(0, head or 1)]
    finally:
        connection.close()


async def make_technician(rig: Rig) -> None:
    await rig.kiosk("auth", "init", USER, "--pin-stdin", stdin=f"{PIN}\n")


async def person_resolves(rig: Rig, books: Books) -> None:
    """Each open doubt, decided by what lies in the box."""
    unbooked = books.device - books.journal
    for doubt in await open_doubts(rig):
        lies_there = unbooked[doubt["amount_minor"]] > 0
        unbooked[doubt["amount_minor"]] -= lies_there
        await rig.kiosk(
            "cash", "in-doubt", "resolve", doubt["id"],
            "--outcome", "stacked" if lies_there else "returned",
            "--reason", "counted", "--user", USER, "--pin-stdin",
            stdin=f"{PIN}\n",
        )  # fmt: skip


async def open_doubts(rig: Rig) -> list[dict[str, Any]]:
    found = await rig.kiosk("cash", "in-doubt", "list", "--json")
    items: list[dict[str, Any]] = found["items"]
    return items
