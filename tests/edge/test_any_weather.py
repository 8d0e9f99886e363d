"""Any interleaving of faults ends with centre ≡ journal once they stop: the promise of complete sync, searched."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.clock import FakeClock
from tests.edge.office_double import FAULTS, Fault, OfficeDouble
from tests.edge.rig import Rig

STEPS = ("batch_read", "batch_answered")


@dataclass(frozen=True)
class Op:
    """One thing that happens. `image` and `backup` remember, `put_back` and `rewind` return to what was remembered."""

    what: str
    value: Any = None

    def __repr__(self) -> str:
        return f"{self.what}({getattr(self.value, '__name__', self.value) or ''})"


OPS = st.one_of(
    st.builds(Op, st.just("record"), st.integers(1, 40)),
    st.builds(Op, st.just("wait"), st.sampled_from([0.0, 0.6, 5.0, 70.0])),
    st.builds(Op, st.just("fault"), st.sampled_from(FAULTS)),
    st.builds(Op, st.just("weather"), st.sampled_from([None, *FAULTS])),
    st.builds(Op, st.just("kill"), st.sampled_from(STEPS)),
    st.sampled_from([Op("restart"), Op("backup"), Op("rewind"), Op("image"), Op("put_back"), Op("limit")]),
)


class World:
    """Carries a story out: one kiosk, one office, and what was remembered of both."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.office = OfficeDouble(self.clock.monotonic)
        self.rig = Rig(folder / "kiosk", self.office, self.clock)
        self.image = folder / "image"
        self.backup: Any = None

    async def live(self, story: list[Op]) -> None:
        self.rig.enrol()
        self.backup = self.office.backup()
        await self.rig.start()
        try:
            for op in story:
                await self.act(op)
                await self.revive()
            self.office.rows_max, self.rig.kill_at = 2_000, None
            await self.revive()
            await self.rig.converge(7_200)
            await self.rig.clock.run(120)
            self.check()
        finally:
            await self.rig.stop()

    async def act(self, op: Op) -> None:
        match op.what:
            case "record":
                await self.rig.record(op.value)
            case "wait":
                await self.clock.run(op.value)
            case "fault":
                self.office.faults.append(op.value)
            case "weather":
                self.office.always = op.value
            case "kill":
                self.rig.kill_at = op.value
            case "restart":
                await self.rig.restart()
            case "backup":
                self.backup = self.office.backup()
            case "rewind":
                self.office.restore(self.backup)
            case "image":
                await self.rig.image(self.image)
            case "put_back":
                if self.image.exists():
                    await self.rig.put_back(self.image)
            case "limit":
                self.office.rows_max = 3

    async def revive(self) -> None:
        await self.clock.settle()
        if self.rig.killed:
            self.rig.killed = False
            await self.rig.restart()

    def check(self) -> None:
        """Every journal of the kiosk's history is at the office, row for row and byte for byte, and no row twice."""
        assert self.rig.arrived()
        history = self.rig.history()
        ids = [row.id for rows in history.values() for row in rows]
        assert len(ids) == len(set(ids))
        status = self.rig.edge.status()
        assert (status.lag_rows, status.online, status.alarm, status.error_code) == (0, True, None, None)


def tell(story: list[Op]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="weather-"))
    try:
        asyncio.run(asyncio.wait_for(World(folder).live(story), 60))
    finally:
        shutil.rmtree(folder)


def test_any_story_ends_with_centre_and_journal_the_same(scale: Callable[[int, int], int]) -> None:
    @settings(max_examples=scale(40, 5_000), suppress_health_check=list(HealthCheck), print_blob=True)
    @given(st.lists(OPS, min_size=3, max_size=30))
    def search(story: list[Op]) -> None:
        tell(story)

    search()


def fault(name: str) -> Fault:
    return next(each for each in FAULTS if each.__name__ == name)


@pytest.mark.parametrize(
    "story",
    [
        [Op("record", 5), Op("image"), Op("record", 5), Op("put_back"), Op("record", 9), Op("rewind"), Op("record", 1)],
        [Op("backup"), Op("record", 3), Op("image"), Op("record", 3), Op("put_back"), Op("kill", "batch_answered")],
        [Op("weather", fault("lost_answer")), Op("record", 40), Op("wait", 70.0), Op("rewind"), Op("restart")],
    ],
)
def test_stories_that_were_once_hard(story: list[Op]) -> None:
    tell(story)
