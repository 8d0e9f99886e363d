"""Fixtures of the edge's tests: a clock that only the test moves, an office that does what it is told, a kiosk."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.edge.clock import FakeClock
from tests.edge.office_double import OfficeDouble
from tests.edge.rig import Rig
from tests.servers import centre, database, servers

__all__ = ["centre", "database", "servers"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(clock: FakeClock) -> OfficeDouble:
    return OfficeDouble(clock.monotonic)


@pytest.fixture
async def make_rig(tmp_path: Path, office: OfficeDouble, clock: FakeClock) -> AsyncIterator[Callable[..., Rig]]:
    """`make_rig(**sync_settings)`: an enrolled kiosk, not started yet; stopped at the end."""
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rig = Rig(tmp_path / f"kiosk{len(rigs)}", office, clock, **settings)
        rig.enrol()
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        if rig.opened:
            await rig.stop()


@pytest.fixture
async def rig(make_rig: Callable[..., Rig]) -> Rig:
    """An enrolled kiosk that runs and has sent its first rows."""
    rig = make_rig()
    await rig.start()
    await rig.clock.until(rig.arrived, 60)
    return rig
