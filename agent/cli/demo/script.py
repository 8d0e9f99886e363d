"""What `make demo ARGS=--script` performs: two payments, their rows in Postgres, the sealed snapshot in S3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from agent.cli.demo.customer import Customer
from agent.cli.demo.office import ObjectFacts, Office, TransactionFacts
from agent.cli.demo.rig import Rig, RigFailed
from agent.domain.money import Money

ARRIVES_WITHIN_S = 30.0
POLL_S = 0.05


async def perform(rig: Rig) -> None:
    """Raises `RigFailed` as soon as something is not as promised."""
    with Office(rig) as office:
        async with Customer(rig) as customer:
            exact = await _pay(customer, amount_minor=50_000, notes=(500,))
            over = await _pay(customer, amount_minor=30_000, notes=(100, 500))
        for payment in (exact, over):
            _show_row(await arrival(partial(office.transaction, payment["id"]), "the transaction"), payment)
        await _snapshot(rig, office)
    await _verify(rig)


async def _pay(customer: Customer, amount_minor: int, notes: tuple[int, ...]) -> dict[str, Any]:
    payment = await customer.open_payment(amount_minor)
    _say(f"payment {payment['id']}: {Money(amount_minor, 'RUB')} to pay")
    for note in notes:
        await customer.until(payment["id"], "collecting")
        await customer.insert(note)
        _say(f"  note inserted: {note} RUB")
        await customer.collected_more(payment)
        payment = await customer.payment(payment["id"])
        _say(f"  credited: {Money(payment['collected_minor'], 'RUB')}")
    done = await customer.until(payment["id"])
    if done["state"] != "completed":
        raise RigFailed(f"the payment ended as {done['state']}, not completed")
    for claim in done["claims"]:
        _say(f"  claim {claim['code']}: {Money(claim['amount_minor'], 'RUB')} ({claim['reason']})")
    _say(f"  {done['state']}")
    return done


def _show_row(row: TransactionFacts, payment: dict[str, Any]) -> None:
    if (row.state, row.collected_minor) != (payment["state"], payment["collected_minor"]):
        raise RigFailed(f"Postgres says {row}, the kiosk says {payment['state']} {payment['collected_minor']}")
    notes = ", ".join(f"{Money(value, row.currency)} (row {seq})" for value, seq in row.notes)
    _say(f"Postgres: transactions {row.payment_id}  {row.state}  collected {row.collected_minor} {row.currency}")
    _say(f"  transaction_notes: {notes}; claimed {row.claimed_minor}")


async def _snapshot(rig: Rig, office: Office) -> None:
    made = await rig.kiosk("sync", "snapshot", "--json")
    stored: ObjectFacts = await arrival(partial(office.stored_object, str(made["blob_id"])), "the snapshot")
    _say(f"S3: s3://{stored.bucket}/{stored.key}  {stored.size_bytes} bytes  sha256 {stored.sha256}")
    _say("  read back by the office and found equal; sealed to the office's age keys")


async def _verify(rig: Rig) -> None:
    """The three accounts of the same notes must agree: what the device holds, the journal, and its verification."""
    found = await rig.kiosk("journal", "verify", "--json")
    if not found["sound"]:
        raise RigFailed(f"the journal is damaged: {found['damages']}")
    _say(f"kiosk journal verify: {found['rows']} rows of journal {found['journal_id']}, chain and ledger sound")
    units = (await rig.kiosk("cash", "status", "--json"))["units"]
    ledger = {unit["currency"]: unit["total_minor"] for unit in units}
    lies_there = rig.simulator.truth()["stacked_minor"]
    if ledger != lies_there:
        raise RigFailed(f"the ledger says {ledger}, but in the stacker lie {lies_there}")
    for currency, minor in lies_there.items():
        _say(f"in the simulated stacker lie {Money(minor, currency)}, as the ledger says")


async def arrival(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds, as soon as it finds something. Raises `RigFailed` when it is late."""
    deadline = time.monotonic() + ARRIVES_WITHIN_S
    while (found := await asyncio.to_thread(look)) is None:
        if time.monotonic() > deadline:
            raise RigFailed(f"{what} did not reach the office within {ARRIVES_WITHIN_S:.0f} s")
        await asyncio.sleep(POLL_S)
    return found


def _say(line: str) -> None:
    typer.echo(line)
