"""One rig per test: a journal, an office and a stacker of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cli.demo.rig import Rig

HURRIED_POSTGRES = {"fsync": "off"}  # what Postgres does with its disk is not what is tested here


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path, postgres_settings=HURRIED_POSTGRES) as rig:
        yield rig
