"""Fixtures of the office's tests: real servers, and kiosks that speak the wire contract by themselves."""

from collections.abc import AsyncIterator

import httpx
import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from sync.central.office import accounts
from tests.central.kiosks import Kiosk
from tests.servers import Centre, centre, database, servers

CHEAP = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))

__all__ = ["centre", "database", "servers"]


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real argon2 parameters cost 0.3 s of CPU a time; `test_passwords_are_argon2id` looks at those."""
    monkeypatch.setattr(accounts, "hasher", lambda: CHEAP)


@pytest.fixture
async def client(centre: Centre) -> AsyncIterator[httpx.AsyncClient]:
    async with centre.client() as found:
        yield found


@pytest.fixture
async def kiosk(centre: Centre, client: httpx.AsyncClient) -> Kiosk:
    return await Kiosk.enrolled(client, await centre.code())
