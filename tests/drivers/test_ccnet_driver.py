"""The driver between a real loop and the simulator: memory links with faults, restarts, a store that fails."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from agent.domain import events as ev
from agent.domain.clock import Clock
from agent.domain.errors import StoreError, TransportError
from agent.domain.money import Money
from drivers.ccnet.codec import WIDE_MAX
from drivers.ccnet.driver import TRACE_FRAMES, CcnetAcceptor
from drivers.links.memory import MemoryLink, memory_pair
from drivers.ports import DeviceState, Driver, Link, NoteAcceptor
from drivers.registry import PROTOCOLS, protocol_of
from drivers.simulation import RunningSimulator, running_simulator

FAST = {
    "poll_interval_ms": 10,
    "poll_idle_ms": 10,
    "bus_free_ms": 0,
    "reply_timeout_ms": 60,
    "long_reply_timeout_ms": 60,
    "gap_ms": 10,
}
SIMULATED = {"speed": 50, "escrow_timeout_ms": 3_000_000, "ack_window_ms": 1_000}


class RealClock:
    """The system's clock; drivers get the agent's own elsewhere."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep_until(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))


class Kiosk:
    """What stands around a driver: a journal in memory and a module that stacks everything."""

    def __init__(
        self, link: Link, journal: list[ev.Event] | None = None, clock: Clock | None = None, **settings: Any
    ) -> None:
        self.journal = [] if journal is None else journal
        self.failing = False
        self.decide = True
        self.driver: CcnetAcceptor = PROTOCOLS["ccnet"].driver(  # type: ignore[assignment]
            link,
            name="acceptor",
            clock=clock or RealClock(),
            randomness=os.urandom,
            emit=self.emit,
            settings={**FAST, **settings},
            history=self.history(),
        )
        self.driver.enable()

    def history(self) -> list[ev.Event]:
        closed = {event.record() for event in self.journal if event.closes_record()}
        return [event for event in self.journal if event.record() and event.record() not in closed]

    async def emit(self, events: Sequence[ev.Event]) -> None:
        await asyncio.sleep(0)
        if self.failing:
            raise StoreError("no more disk")
        self.journal += events
        for event in events:
            if isinstance(event, ev.NoteEscrowed) and self.decide:
                self.journal.append(ev.StackRequested(device="acceptor", note_id=event.note_id, payment_id="p1"))
                self.driver.stack(event.note_id, "p1")

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [event for event in self.journal if isinstance(event, kind)]

    async def until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110 - the journal is a plain list
                await asyncio.sleep(0.005)


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[tuple[Kiosk, RunningSimulator, MemoryLink, MemoryLink]]:
    host, device = memory_pair()
    async with running_simulator("ccnet", device, SIMULATED) as simulator:
        kiosk = Kiosk(host, **settings)
        running = asyncio.ensure_future(kiosk.driver.run())
        try:
            yield kiosk, simulator, host, device
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, TransportError, StoreError):
                await running


async def take(kiosk: Kiosk, simulator: RunningSimulator, line: str = "insert 500") -> None:
    before = len(kiosk.of(ev.CreditAcknowledged))
    await simulator.insist(line)
    await kiosk.until(lambda: len(kiosk.of(ev.CreditAcknowledged)) > before)


async def test_it_is_what_the_ports_say() -> None:
    async with rig() as (kiosk, _, _, _):
        driver: Driver = kiosk.driver
        assert isinstance(driver, NoteAcceptor)
        assert driver.info().state is DeviceState.STARTING


async def test_a_note_from_slot_to_journal() -> None:
    async with rig() as (kiosk, simulator, _, _):
        await take(kiosk, simulator)
        (credit,) = kiosk.of(ev.NoteStacked)
        assert (credit.value, credit.payment_id) == (Money(50_000, "RUB"), "p1")
        assert simulator.truth()["stacked_minor"] == {"RUB": 50_000}
        info = kiosk.driver.info()
        assert (info.state, info.serial, info.protocol) == (DeviceState.ACTIVE, "21K038AS3419", "ccnet")
        meanings = [item.meaning for item in kiosk.driver.trace()]
        assert "BILL STACKED type 5" in meanings and len(meanings) <= TRACE_FRAMES


FAULTS: dict[str, Callable[[MemoryLink, MemoryLink], None]] = {
    "single bytes": lambda host, device: setattr(device.faults, "chunk_bytes", 1),
    "single bytes from the host": lambda host, device: setattr(host.faults, "chunk_bytes", 1),
    "delay": lambda host, device: setattr(device.faults, "delay_s", 0.01),
    "echo": lambda host, device: setattr(host.faults, "echo", True),
    "loss": lambda host, device: setattr(device.faults, "mangle", _sometimes(lambda raw: b"")),
    "loss from the host": lambda host, device: setattr(host.faults, "mangle", _sometimes(lambda raw: b"")),
    "damage": lambda host, device: setattr(device.faults, "mangle", _sometimes(lambda raw: raw[:-1] + b"\x00")),
    "noise": lambda host, device: setattr(device.faults, "mangle", lambda raw: b"\x02\x03\x55" + raw),
}


def _sometimes(spoil: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    dice = random.Random(7)
    return lambda raw: spoil(raw) if dice.random() < 0.2 else raw


@pytest.mark.parametrize("fault", FAULTS)
async def test_three_notes_over_a_bad_line(fault: str) -> None:
    async with rig() as (kiosk, simulator, host, device):
        FAULTS[fault](host, device)
        for line in ("insert 500", "insert 10", "insert 10"):
            await take(kiosk, simulator, line)
        assert [event.value.minor for event in kiosk.of(ev.NoteStacked)] == [50_000, 1_000, 1_000]
        assert simulator.truth()["stacked_minor"] == {"RUB": 52_000}


async def test_a_lost_ack_after_the_credit_makes_no_second_one() -> None:
    async with rig() as (kiosk, simulator, _, _):
        await simulator.command("fault lost-ack 3")
        await take(kiosk, simulator)
        assert len(kiosk.of(ev.NoteStacked)) == 1
        assert [item.meaning for item in kiosk.driver.trace()].count("BILL STACKED type 5") == 4


async def test_without_a_commit_there_is_no_ack_and_the_next_driver_books_it() -> None:
    """A failing store: StoreError leaves run(), the device repeats, the machine is built anew from the journal."""
    host, device = memory_pair()
    async with running_simulator("ccnet", device, SIMULATED) as simulator:
        first = Kiosk(host)
        running = asyncio.ensure_future(first.driver.run())
        await simulator.insist("insert 500")
        await first.until(lambda: bool(first.of(ev.StackRequested)))
        first.failing = True
        with pytest.raises(StoreError):
            await asyncio.wait_for(running, 30)
        assert first.driver.trace()[-1].meaning == "BILL STACKED type 5"
        assert simulator.truth()["state"] == "BILL STACKED"
        second = Kiosk(host, first.journal)
        running = asyncio.ensure_future(second.driver.run())
        await second.until(lambda: bool(second.of(ev.CreditAcknowledged)))
        assert [event.payment_id for event in second.of(ev.NoteStacked)] == ["p1"]
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_lost_port_is_told_and_leaves_run() -> None:
    host, device = memory_pair()
    async with running_simulator("ccnet", device, SIMULATED):
        kiosk = Kiosk(host)
        running = asyncio.ensure_future(kiosk.driver.run())
        await kiosk.until(lambda: bool(kiosk.of(ev.DeviceOnline)))
        await device.close()
        with pytest.raises(TransportError):
            await asyncio.wait_for(running, 30)
    assert kiosk.of(ev.DeviceOffline) == [ev.DeviceOffline(device="acceptor", reason="port_lost")]


async def test_verbs_reach_the_device() -> None:
    async with rig(hold_interval_s=0.05) as (kiosk, simulator, _, _):
        kiosk.decide = False
        await simulator.insist("insert 500")
        await kiosk.until(lambda: bool(kiosk.of(ev.NoteEscrowed)))
        note_id = kiosk.of(ev.NoteEscrowed)[0].note_id
        kiosk.driver.hold(note_id)
        await simulator.until(lambda truth: truth["state"] == "HOLDING")
        kiosk.driver.return_note(note_id)
        await kiosk.until(lambda: bool(kiosk.of(ev.NoteReturned)))
        assert len(simulator.truth()["returned"]) == 1
        kiosk.driver.enable(frozenset({Money(1_000, "RUB")}))
        await asyncio.sleep(0.1)
        await simulator.insist("insert 500")
        await kiosk.until(lambda: ev.NoteRejected(device="acceptor", reason="inhibit") in kiosk.journal)
        kiosk.driver.inhibit()
        await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED")


async def test_stack_leaves_at_once_and_not_with_the_next_poll() -> None:
    async with rig(poll_interval_ms=400, poll_idle_ms=400) as (kiosk, simulator, _, _):
        kiosk.decide = False
        await simulator.insist("insert 500")
        await kiosk.until(lambda: bool(kiosk.of(ev.NoteEscrowed)))
        before = time.monotonic()
        kiosk.driver.stack(kiosk.of(ev.NoteEscrowed)[0].note_id, None)
        await kiosk.until(lambda: kiosk.driver.trace()[-1].meaning == "ACK" and _sent(kiosk, "STACK"))
        assert time.monotonic() - before < 0.3


def _sent(kiosk: Kiosk, meaning: str) -> bool:
    return any(item.direction == "host" and item.meaning == meaning for item in kiosk.driver.trace())


async def test_a_power_cut_and_a_late_answer() -> None:
    async with rig(absent_reset_s=0.2) as (kiosk, simulator, _, _):
        await take(kiosk, simulator)
        await simulator.command("power-cut")
        await kiosk.until(lambda: bool(kiosk.of(ev.DeviceOffline)))
        assert kiosk.driver.info().state is DeviceState.OFFLINE
        await simulator.command("power-on")
        await kiosk.until(lambda: len(kiosk.of(ev.DeviceOnline)) == 2)
        await simulator.command("fault late 100")
        await take(kiosk, simulator)
        assert len(kiosk.of(ev.NoteStacked)) == 2


class HastyClock(RealClock):
    """Waits take no time, and every look at the clock five milliseconds."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.005
        return self._now

    async def sleep_until(self, deadline: float) -> None:
        self._now = max(self._now, deadline)
        await asyncio.sleep(0)


class Chatter:
    """A link on which somebody talks nonsense without a pause."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.heard_bytes = 0

    async def read(self, timeout_s: float) -> bytes:
        await asyncio.sleep(0)
        heads = (b"\x02\x03", b"\x02\x03\x07\x81", b"\x02\x03\x00", b"\x02\x03\xfa", b"\x02\x03\x7d", b"")
        data = self._dice.choice(heads) + self._dice.randbytes(self._dice.randrange(2_000))
        self.heard_bytes += len(data)
        return data

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)

    async def discard_input(self) -> None:
        return

    async def close(self) -> None:
        return


async def test_random_bytes_are_survived_without_a_credit(scale: Callable[[int, int], int]) -> None:
    """No crash, no endless loop, no phantom credit, bounded buffer, and the device is told to be away."""
    total = scale(1_000_000, 100_000_000)
    chatter = Chatter(11)
    kiosk = Kiosk(chatter, clock=HastyClock())
    running = asyncio.ensure_future(kiosk.driver.run())
    while chatter.heard_bytes < total:
        await asyncio.sleep(0)
        assert kiosk.driver._decoder.buffered < WIDE_MAX
        assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert kiosk.of(ev.DeviceOffline)[0].reason == "garbled"
    money = [event for event in kiosk.journal if isinstance(event, ev.NoteStacked | ev.NoteEscrowed | ev.DoubtOpened)]
    assert len(money) <= total // 20_000_000  # behind the right head one in 2^16 passes the CRC: then it *is* a frame


def test_registry_names_what_is_wrong() -> None:
    from agent.domain.errors import ConfigError

    with pytest.raises(ConfigError, match="unknown protocol 'x'; this build knows ccnet"):
        protocol_of("x")
    with pytest.raises(ConfigError, match="poll_interval"):
        protocol_of("ccnet").parse_settings({"poll_interval": 3})
    with pytest.raises(ConfigError, match="address"):
        protocol_of("ccnet").parse_settings({"address": 1})
