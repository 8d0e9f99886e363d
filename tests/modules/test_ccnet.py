"""The module with the real CCNET driver, the runtime's bus and a validator simulated byte for byte on a memory link."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.api.auth.caller import require
from agent.api.idempotency import Idempotency
from agent.api.module import Context, Devices
from agent.domain import events as ev
from agent.domain.events import Event
from agent.domain.wire import event_of
from agent.runtime.bus import Bus
from agent.runtime.clock import SystemClock
from agent.runtime.facade import Acceptor
from agent.store.journal import SqliteStore
from agent.store.settings import StoreSettings
from drivers.links.memory import MemoryLink, memory_pair
from drivers.ports import DeviceInfo, DeviceState, Driver, NoteAcceptor
from drivers.registry import PROTOCOLS
from drivers.simulation import RunningSimulator, running_simulator
from modules.cash_system.module import build
from modules.cash_system.projections import CashProjection
from modules.cash_system.schemas import PaymentIn, PaymentOptionsIn, PaymentOut, ReasonIn
from modules.cash_system.service import CashService
from modules.cash_system.settings import CashSettings
from tests.modules.rig import service_of

NAME = "cashcode"
FAST = {"poll_interval_ms": 10, "poll_idle_ms": 10, "bus_free_ms": 0, "reply_timeout_ms": 50}


async def until(wanted: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait until something has become so."""
    async with asyncio.timeout(timeout_s):
        while not wanted():  # noqa: ASYNC110 - a simulated device tells nobody
            await asyncio.sleep(0.002)


class OneDevice(Devices):
    """A validator whose driver comes and goes with the process; the facade is the runtime's own."""

    def __init__(self) -> None:
        self.acceptor = Acceptor(lambda: True)
        self.driver: Driver | None = None

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]:
        return {NAME: self.acceptor}

    def info(self, name: str) -> DeviceInfo:
        return DeviceInfo(DeviceState.OFFLINE, "ccnet") if self.driver is None else self.driver.info()

    def accepting_allowed(self) -> bool:
        return True

    def inhibit_reasons(self) -> Sequence[str]:
        return ()


class Bench:
    """One process after the other on the same file, in front of the same validator."""

    def __init__(self, folder: Path, link: MemoryLink, simulator: RunningSimulator, **settings: Any) -> None:
        self.simulator = simulator
        self.store: SqliteStore
        self.service: CashService
        self._folder = folder
        self._link = link
        self._settings = CashSettings(**settings)
        self._clock = SystemClock()

    async def start(self) -> None:
        self.store = await asyncio.to_thread(
            SqliteStore.open,
            StoreSettings(
                directory=self._folder,
                wal_size_mib=0.25,
                reserve_mib=0,
                disk_critical_mib=0,
                disk_low_mib=0.001,
                disk_resume_mib=0.002,
            ),
            clock=self._clock,
            randomness=os.urandom,
            projections=[CashProjection()],
        )
        devices = OneDevice()
        context = Context(
            store=self.store,
            clock=self._clock,
            randomness=os.urandom,
            devices=devices,
            require=require,
            once=Idempotency(self.store).once,
        )
        self._parts = build(context, self._settings)
        self.service = service_of(self._parts.start)
        self._bus = Bus(self.store, self._clock, 0.2)
        self._bus.add("module:cash_system", self._parts.handlers)
        self._bus.start()
        self._run = asyncio.create_task(self._drive(devices))
        assert self._parts.start is not None
        await self._parts.start()
        await until(lambda: self.service.acceptance().accepting or self._run.done())

    async def _drive(self, devices: OneDevice) -> None:
        with self.store.read() as reader:
            history = reader.open_events(NAME)
        driver = PROTOCOLS["ccnet"].driver(
            self._link,
            name=NAME,
            clock=self._clock,
            randomness=os.urandom,
            emit=self._emit,
            settings=FAST,
            history=history,
        )
        devices.driver = driver
        assert isinstance(driver, NoteAcceptor)
        devices.acceptor.attach(driver)
        await driver.run()

    async def _emit(self, events: Sequence[Event]) -> None:
        await self.store.record(events, actor=f"device:{NAME}", trace_id=events[0].record() or "")

    async def die(self) -> None:
        """No verb is said any more, nothing is settled; the file stays as the last commit left it."""
        self._run.cancel()
        with suppress(asyncio.CancelledError):
            await self._run
        await self._bus.stop()
        assert self._parts.stop is not None
        await self._parts.stop()
        await self.store.close()

    async def restart(self) -> None:
        await self.die()
        await self.start()

    async def create(self, minor: int, **options: Any) -> str:
        request = PaymentIn(amount_minor=minor, currency="EUR", options=PaymentOptionsIn(**options))
        _, body = await self.store.transact(self.service.creating(request), actor="ui")
        self.service.follow()
        return str(body["id"])

    async def cancel(self, payment_id: str) -> None:
        await self.store.transact(self.service.cancelling(payment_id, ReasonIn(reason="customer")), actor="ui")
        await self.service.settle(payment_id)

    async def insert(self, value: int) -> None:
        await self.simulator.insist(f"insert {value}")

    async def until(self, payment_id: str, wanted: Callable[[PaymentOut], bool]) -> PaymentOut:
        await until(lambda: wanted(self.service.payment(payment_id)))
        return self.service.payment(payment_id)

    async def final(self, payment_id: str) -> PaymentOut:
        return await self.until(payment_id, lambda payment: payment.state.final)

    async def collected(self, payment_id: str, minor: int) -> PaymentOut:
        return await self.until(payment_id, lambda payment: payment.collected_minor == minor)

    async def seen(self, kind: type[Event]) -> None:
        """Wait for an event of this kind."""
        await until(lambda: any(isinstance(event, kind) for event in self._events()))

    async def device_is(self, state: str) -> None:
        await until(lambda: self.simulator.truth()["state"] == state)

    def _events(self) -> list[Event]:
        with self.store.read() as reader:
            return [event_of(row) for row in reader.rows(0, 9999)]

    def box(self) -> int:
        return int(self.simulator.truth()["stacked_minor"].get("EUR", 0))

    def booked(self) -> int:
        with self.store.read() as reader:
            row = reader.one(
                "SELECT posted_minor FROM balances WHERE account = ? AND currency = 'EUR'", f"stacker:{NAME}"
            )
        return 0 if row is None else int(row["posted_minor"])


@asynccontextmanager
async def bench(folder: Path, *, speed: float = 20, **settings: Any) -> AsyncIterator[Bench]:
    host, device = memory_pair()
    async with running_simulator("ccnet", link=device, settings={"table": "EUR", "speed": speed}) as simulator:
        made = Bench(folder, host, simulator, **settings)
        await made.start()
        try:
            yield made
            assert made.booked() == made.box()
        finally:
            await made.die()


async def test_notes_are_collected_and_the_amount_completes(tmp_path: Path) -> None:
    async with bench(tmp_path) as kiosk:
        payment = await kiosk.create(3000)
        await kiosk.insert(10)
        await kiosk.collected(payment, 1000)
        await kiosk.insert(20)
        done = await kiosk.final(payment)
        assert (done.state.value, done.paid_minor, done.claims, kiosk.box()) == ("completed", 3000, [], 3000)
        await kiosk.device_is("UNIT DISABLED")


async def test_too_much_becomes_a_claim(tmp_path: Path) -> None:
    async with bench(tmp_path) as kiosk:
        payment = await kiosk.create(1500)
        await kiosk.insert(50)
        done = await kiosk.final(payment)
        assert [(claim.amount_minor, claim.reason) for claim in done.claims] == [(3500, "overpaid")]


async def test_cancel_while_the_note_moves_into_the_box(tmp_path: Path) -> None:
    async with bench(tmp_path, speed=4) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.insert(20)
        await kiosk.device_is("STACKING")
        await kiosk.cancel(payment)
        assert kiosk.service.payment(payment).state.value == "cancelling"
        done = await kiosk.final(payment)
        assert [(claim.amount_minor, claim.reason) for claim in done.claims] == [(2000, "cancelled")]


async def test_cancel_before_the_note_is_read_gives_it_back(tmp_path: Path) -> None:
    """The last moment: the slot was open, the note is inside, nobody wants it any more."""
    async with bench(tmp_path, speed=4) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.insert(20)
        await kiosk.device_is("ACCEPTING")
        await kiosk.cancel(payment)
        done = await kiosk.final(payment)
        await until(lambda: kiosk.simulator.truth()["returned"])
        assert (done.claims, kiosk.box()) == ([], 0)


@pytest.mark.parametrize("moment", ["ACCEPTING", "ESCROW POSITION", "STACKING", "BILL STACKED"])
async def test_the_agent_dies_and_goes_on(tmp_path: Path, moment: str) -> None:
    """Whatever the note was doing meanwhile, it is credited once or comes back, and the payment goes on."""
    async with bench(tmp_path, speed=3) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.insert(20)
        await kiosk.device_is(moment)
        await kiosk.restart()
        await asyncio.sleep(0.3)
        await kiosk.until(payment, lambda now: now.collected_minor == kiosk.box())
        await kiosk.insert(50)
        done = await kiosk.final(payment)
        assert (done.paid_minor, done.claimed_minor) == (5000, kiosk.box() - 5000)
        assert done.in_doubt_minor == 0


async def test_a_lost_ack_is_no_second_credit(tmp_path: Path) -> None:
    async with bench(tmp_path) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.simulator.command("fault lost-ack 3")
        await kiosk.insert(20)
        await kiosk.collected(payment, 2000)
        await kiosk.seen(ev.CreditAcknowledged)
        assert kiosk.service.payment(payment).collected_minor == 2000
        await kiosk.cancel(payment)


async def test_the_validator_loses_power_with_the_note_in_the_box(tmp_path: Path) -> None:
    """It finds the note in the stacker at power-up and says so: that is the credit."""
    async with bench(tmp_path, speed=4) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.simulator.command("set no_return_percent=0")
        await kiosk.insert(20)
        await kiosk.device_is("STACKING")
        await kiosk.simulator.command("power-cut")
        await asyncio.sleep(0.2)
        await kiosk.simulator.command("power-on")
        await kiosk.collected(payment, 2000)
        await kiosk.cancel(payment)
        assert [claim.amount_minor for claim in (await kiosk.final(payment)).claims] == [2000]


async def test_a_validator_that_stays_silent_fails_the_payment(tmp_path: Path) -> None:
    async with bench(tmp_path, device_lost_s=1) as kiosk:
        payment = await kiosk.create(5000)
        await kiosk.insert(20)
        await kiosk.collected(payment, 2000)
        await kiosk.simulator.command("power-cut")
        done = await kiosk.final(payment)
        assert (done.state.value, done.reason) == ("failed", "device_lost")
        assert [(claim.amount_minor, claim.reason) for claim in done.claims] == [(2000, "failed")]
