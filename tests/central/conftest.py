"""Fixtures of the office's tests: real servers, and kiosks that speak the wire contract by themselves."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.central.kiosks import Kiosk
from tests.servers import Centre, centre, database, servers

__all__ = ["centre", "database", "servers"]


@pytest.fixture
async def client(centre: Centre) -> AsyncIterator[httpx.AsyncClient]:
    async with centre.client() as found:
        yield found


@pytest.fixture
async def kiosk(centre: Centre, client: httpx.AsyncClient) -> Kiosk:
    return await Kiosk.enrolled(client, await centre.code())
