"""Whatever is away for a while, in the end the office has every row once, in order, and every note."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from agent.cli.demo.customer import Customer
from agent.cli.demo.office import Office
from agent.cli.demo.rig import Rig, off_loop
from agent.cli.demo.script import arrival
from tests.e2e.books import office_is_complete, read_books

NOTE = 50_000


async def _pay(customer: Customer, notes: int = 1) -> str:
    """A payment of that many notes, paid exactly; its id."""
    payment = await customer.open_payment(notes * NOTE)
    for _ in range(notes):
        await customer.insert(500)
        payment = await customer.collected_more(payment)
    done = await customer.until(payment["id"])
    assert done["state"] == "completed", done
    return str(done["id"])


async def _office_dies(rig: Rig) -> None:
    await off_loop(rig.central.kill)


async def _office_returns(rig: Rig) -> None:
    await off_loop(rig.central.start)


async def _postgres_crashes(rig: Rig) -> None:
    await off_loop(rig.servers.postgres.kill)


async def _postgres_returns(rig: Rig) -> None:
    await off_loop(rig.servers.postgres.start)


async def _redis_dies(rig: Rig) -> None:
    await off_loop(rig.servers.redis.kill)


async def _redis_returns(rig: Rig) -> None:
    await off_loop(rig.servers.redis.start)


Act = Callable[[Rig], Awaitable[None]]
OUTAGES = {
    "office": (_office_dies, _office_returns),
    "postgres": (_postgres_crashes, _postgres_returns),
    "redis": (_redis_dies, _redis_returns),
}


@pytest.mark.parametrize("away", OUTAGES)
async def test_the_kiosk_works_on_while_something_is_away_and_the_office_catches_up(rig: Rig, away: str) -> None:
    goes, returns = OUTAGES[away]
    with Office(rig) as office:
        async with Customer(rig) as customer:
            before = await _pay(customer)
            await goes(rig)
            during = await _pay(customer, notes=2)
            await returns(rig)
            after = await _pay(customer)
        assert (books := await read_books(rig, office)).agree(), books
        for payment_id in (before, during, after):
            found = await asyncio.to_thread(office.transaction, payment_id)
            assert found is not None and found.state == "completed"


async def test_rows_never_wait_for_objects_and_a_snapshot_outlives_the_object_stores_absence(rig: Rig) -> None:
    with Office(rig) as office:
        await off_loop(rig.servers.s3.kill)
        made = await rig.kiosk("sync", "snapshot", "--json")
        async with Customer(rig) as customer:
            await _pay(customer)
        await office_is_complete(rig, office)  # the row that names the snapshot among them
        assert await asyncio.to_thread(office.stored_object, made["blob_id"]) is None
        await off_loop(rig.servers.s3.start)
        stored = await arrival(partial(office.stored_object, made["blob_id"]), "the snapshot")
    assert stored.size_bytes == made["size_bytes"]
    assert stored.sha256 == made["sha256"]


async def test_a_cut_cable_ends_in_a_ready_device_and_no_lost_note(rig: Rig) -> None:
    with Office(rig) as office:
        async with Customer(rig) as customer:
            payment = await customer.open_payment(2 * NOTE)
            await customer.insert(500)
            await rig.simulator.unplug()
            await asyncio.sleep(1.0)
            rig.simulator.plug()
            await customer.until_ready()
            await rig.simulator.until(lambda truth: truth["path"] is None)
            while (await customer.payment(payment["id"]))["state"] == "collecting":
                await rig.simulator.command("insert 500")
                await asyncio.sleep(0.05)
            done = await customer.until(payment["id"])
        assert done["state"] == "completed", done
        assert (books := await read_books(rig, office)).agree(), books


def _holds(notes: int, truth: dict[str, Any]) -> bool:
    return len(truth["stacker"]) == notes


async def test_agent_and_validator_lose_power_together_with_a_note_just_stacked(rig: Rig) -> None:
    """Neither saw the other's last word: the note is credited once, or a doubt names it."""
    with Office(rig) as office:
        async with Customer(rig) as customer:
            payment = await customer.open_payment(3 * NOTE)
            for wanted in range(1, 4):
                await rig.simulator.insist("insert 500", timeout_s=30)
                await rig.simulator.until(partial(_holds, wanted), timeout_s=30)
                await off_loop(rig.agent.kill)
                await rig.simulator.command("power-cut")
                await rig.simulator.command("power-on")
                await off_loop(rig.agent.start)
                await customer.until_ready()
            done = await customer.until(payment["id"])
        assert done["state"] == "completed", done
        assert (books := await read_books(rig, office)).agree(), books
