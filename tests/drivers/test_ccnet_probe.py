"""Looking for a validator on an unknown line disturbs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from drivers.links.memory import MemoryLink, memory_pair
from drivers.ports import DeviceInfo
from drivers.registry import PROTOCOLS
from drivers.simulation import RunningSimulator, running_simulator
from tests.drivers.test_ccnet_driver import FAST, RealClock

RESET, ENABLE_NO_ESCROW = "02 03 06 30 41 B3", "02 03 0C 34 FF FF FF 00 00 00 B5 C1"
POLL = "02 03 06 33 DA 81"


async def probe(link: MemoryLink) -> DeviceInfo | None:
    return await PROTOCOLS["ccnet"].probe(link, clock=RealClock(), settings=FAST)


@asynccontextmanager
async def bench() -> AsyncIterator[tuple[MemoryLink, RunningSimulator]]:
    host, device = memory_pair()
    async with running_simulator("ccnet", device, {"speed": 100}) as simulator:
        yield host, simulator


async def test_it_names_the_device_and_changes_nothing() -> None:
    async with bench() as (host, simulator):
        found = await probe(host)
        assert found is not None
        assert (found.protocol, found.model, found.serial) == ("ccnet", "CashCode SM (SM-RU1234)", "21K038AS3419")
        assert found.detail == "POWER UP" == simulator.truth()["state"]


async def test_an_event_that_waits_for_its_ack_is_not_taken_from_the_driver() -> None:
    async with bench() as (host, simulator):
        await host.write(bytes.fromhex(RESET))
        await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED")
        await host.write(bytes.fromhex(ENABLE_NO_ESCROW))
        await simulator.insist("insert 500")
        await simulator.until(lambda truth: truth["state"] == "BILL STACKED")
        found = await probe(host)
        assert found is not None and found.detail == "BILL STACKED" and not found.serial
        assert simulator.truth()["state"] == "BILL STACKED"


@pytest.mark.parametrize(
    "answer", ["", POLL, "02 03 06 FF BA 8D", "02 03 06 30 41 B3", "55 AA 00", "02 01 06 14 00 00"]
)
async def test_what_is_no_status_is_no_device(answer: str) -> None:
    """Silence, our own echo, refusals and noise."""
    host, device = memory_pair()

    async def answering() -> None:
        while True:
            if await device.read(1.0):
                await device.write(bytes.fromhex(answer))

    task = asyncio.ensure_future(answering())
    assert await probe(host) is None
    task.cancel()
