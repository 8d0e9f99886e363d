"""`kill -9` of the agent anywhere between escrow and the central row: the device's box, the journal and Postgres agree
on every note, up to doubts that name their amounts; and once a person has resolved those, on all of them."""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import suppress

import httpx

from agent.cli.demo.customer import Customer
from agent.cli.demo.office import Office
from agent.cli.demo.rig import Rig, RigFailed, off_loop
from agent.runtime.steps import STEPS
from tests.e2e.books import make_technician, person_resolves, read_books

NOTES = (50, 100, 500, 1000)
NOTE_STEPS = [step for step in STEPS if not step.startswith(("snapshot", "blob"))]
KILLED = -9


async def test_killed_at_every_step_from_escrow_to_the_central_row(rig: Rig) -> None:
    """Each life of the agent settles what the one before left behind, and dies one step further."""
    await make_technician(rig)
    await off_loop(rig.agent.stop)
    for step in NOTE_STEPS:
        await _live_until(rig, step)
    await off_loop(rig.agent.start)
    with Office(rig) as office:
        await _settle_and_compare(rig, office)


async def _live_until(rig: Rig, step: str) -> None:
    """An agent that will kill itself at `step`, and a customer who makes it get there."""
    rig.agent.environment["KIOSK_FAULT_POINT"] = step
    rig.agent.settle_start = False
    await off_loop(rig.agent.start)
    customer = asyncio.create_task(_pay_until_it_dies(rig, wants_return=step == "returned_committed"))
    try:
        status = await asyncio.to_thread(rig.agent.exit_code, 60.0)
        assert status == KILLED, f"at {step} the agent ended with {status}, not by SIGKILL"
    finally:
        customer.cancel()
        with suppress(asyncio.CancelledError):
            await customer
        await off_loop(rig.agent.stop)
        del rig.agent.environment["KIOSK_FAULT_POINT"]
        rig.agent.settle_start = True


async def _pay_until_it_dies(rig: Rig, wants_return: bool) -> None:
    """Insert notes whenever the slot is open; or one note at a time into a payment that is cancelled meanwhile."""
    while True:
        with suppress(httpx.TransportError, RigFailed):
            async with Customer(rig) as customer:
                await _end_open_payment(customer)
                await customer.open_payment(60_000)
                for _ in range(200):
                    taken = await rig.simulator.command("insert 500")
                    if wants_return and taken["ok"]:
                        await _end_open_payment(customer)
                        break
                    await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)


async def _end_open_payment(customer: Customer) -> None:
    """What an earlier life of the agent left open is cancelled, and has ended."""
    with suppress(RigFailed):
        current = await customer.call("GET", "/cash/payments/current")
        with suppress(RigFailed):
            await customer.call("POST", f"/cash/payments/{current['id']}/cancel", {}, key=str(uuid.uuid4()))
        await customer.until(current["id"], timeout_s=60)


async def _settle_and_compare(rig: Rig, office: Office) -> None:
    """Let what is on its way arrive, then compare; then the person decides, and all must be equal."""
    await _drain(rig)
    books = await read_books(rig, office)
    assert sum(books.device.values()) > 0, "no note was ever taken: the test shows nothing"
    assert books.agree_up_to_doubts(), books
    await person_resolves(rig, books)
    assert (resolved := await read_books(rig, office)).agree(), resolved
    assert not resolved.doubts
    verdict = await rig.kiosk("journal", "verify", "--json")
    assert verdict["sound"], verdict


async def _drain(rig: Rig) -> None:
    """End the open payment and wait until no note is inside the device."""
    async with Customer(rig) as customer:
        await _end_open_payment(customer)
    await rig.simulator.until(lambda truth: truth["path"] is None and truth["state"] == "UNIT DISABLED", timeout_s=30)


async def test_killed_at_random_moments_of_a_busy_minute(rig: Rig, scale: Callable[[int, int], int]) -> None:
    """20 moments here, 200 in `make proof`; every third time the validator loses its power with it."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    await make_technician(rig)
    busy = asyncio.create_task(_busy(rig, dice))
    with Office(rig) as office:
        for turn in range(scale(20, 200)):
            await asyncio.sleep(dice.uniform(0.1, 1.5))
            await off_loop(rig.agent.kill)
            if turn % 3 == 0:
                await rig.simulator.command("power-cut")
                await rig.simulator.command("power-on")
            await off_loop(rig.agent.start)
        busy.cancel()
        with suppress(asyncio.CancelledError):
            await busy
        await _settle_and_compare(rig, office)


async def _busy(rig: Rig, dice: random.Random) -> None:
    """Customers one after the other, without mercy: some cancel, some leave, notes come whenever the slot is open."""
    while True:
        with suppress(httpx.TransportError, RigFailed):
            async with Customer(rig) as customer:
                payment = await customer.open_payment(dice.choice((5_000, 60_000, 150_000)))
                for _ in range(dice.randrange(10, 120)):
                    await rig.simulator.command(f"insert {dice.choice(NOTES)}")
                    await asyncio.sleep(0.02)
                if dice.random() < 0.5:
                    await customer.call("POST", f"/cash/payments/{payment['id']}/cancel", {}, key=str(dice.random()))
        await asyncio.sleep(0.02)
