"""Every `NoteAcceptor`, over a real pty with pyserial, against its simulator: the promises of `drivers/ports.py`."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from agent.domain import events as ev
from agent.domain.errors import StoreError, TransportError
from agent.domain.ledger import entries_for
from agent.domain.money import Money
from agent.domain.wire import decode, encode
from drivers.ports import DeviceState, Driver, Link, NoteAcceptor
from drivers.registry import PROTOCOLS
from drivers.simulation import RunningSimulator, running_simulator
from tests.conformance.cases import ACCEPTORS, AcceptorCase


class AcceptorDriver(Driver, NoteAcceptor, Protocol):
    """What the registry gives for a `note_acceptor`."""


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return time.time_ns() // 1000

    async def sleep_until(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - time.monotonic()))


class Kiosk:
    """Journal, module and supervisor in one: opens the port, keeps what is emitted, starts the driver anew."""

    def __init__(self, case: AcceptorCase, simulator: RunningSimulator) -> None:
        self.case = case
        self.simulator = simulator
        self.journal: list[ev.Event] = []
        self.decide: Callable[[ev.NoteEscrowed], None] = self.stack
        self.failing = False
        self.driver: AcceptorDriver
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        entry = PROTOCOLS[self.case.protocol]
        self._link = await entry.open_link(self.simulator.port, self.case.driver)
        self.driver = entry.driver(  # type: ignore[assignment]
            self._link,
            name="acceptor",
            clock=SystemClock(),
            randomness=os.urandom,
            emit=self._emit,
            settings=self.case.driver,
            history=[*self.of(ev.DeviceOnline)[-1:], *self.open_records()],
        )
        self._running = asyncio.ensure_future(self.driver.run())

    async def stop(self) -> BaseException | None:
        """As when the process dies: nothing is said to the device any more. Returns what the driver ended with."""
        error: BaseException | None = None
        if self._running is not None and self._link is not None:
            self._running.cancel()
            try:
                await self._running
            except (asyncio.CancelledError, TransportError, StoreError) as ended:
                error = ended
            await self._link.close()
            self._running = None
        return error

    async def ended(self) -> None:
        """Wait until the driver leaves `run` by itself, and raise what it raised."""
        assert self._running is not None
        await asyncio.wait_for(asyncio.shield(self._running), 30)

    async def restart(self) -> None:
        await self.stop()
        await self.start()
        self.driver.enable()

    def stack(self, note: ev.NoteEscrowed) -> None:
        self.journal.append(ev.StackRequested(device="acceptor", note_id=note.note_id, payment_id="p1"))
        self.driver.stack(note.note_id, "p1")

    def give_back(self, note: ev.NoteEscrowed) -> None:
        self.journal.append(ev.ReturnRequested(device="acceptor", note_id=note.note_id, reason="test"))
        self.driver.return_note(note.note_id)

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [event for event in self.journal if isinstance(event, kind)]

    async def until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():  # noqa: ASYNC110 - the journal is a plain list
                    await asyncio.sleep(0.005)
        except TimeoutError:
            shown = [f"{item.direction} {item.meaning}" for item in self.driver.trace()[-12:]]
            raise AssertionError(f"{self.journal[-5:]} {self.simulator.truth()} {shown}") from None

    async def take(self, line: str, count: int = 1) -> None:
        """Insert notes one after the other until each is settled with the device; what comes back is tried again."""
        for _ in range(count):
            taken, back = len(self.of(ev.CreditAcknowledged)), len(self._given_back())
            while len(self.of(ev.CreditAcknowledged)) == taken:
                await self.simulator.insist(line)
                await self.until(
                    lambda: len(self.of(ev.CreditAcknowledged)) > taken or len(self._given_back()) > back  # noqa: B023
                )
                back = len(self._given_back())

    def _given_back(self) -> list[Any]:
        return [*self.of(ev.NoteRejected), *self.of(ev.NoteReturned)]

    @property
    def credited(self) -> Counter[Money]:
        return Counter(event.value for event in self.of(ev.NoteStacked))

    @property
    def stacked(self) -> Counter[Money]:
        stacker = self.simulator.truth()["stacker"]
        return Counter(Money(each["value_minor"], each["currency"]) for each in stacker)

    def open_records(self) -> list[ev.Event]:
        closed = {event.record() for event in self.journal if event.closes_record()}
        return [event for event in self.journal if event.record() and event.record() not in closed]

    async def _emit(self, events: Sequence[ev.Event]) -> None:
        await asyncio.sleep(0.001)
        if self.failing:
            raise StoreError("the disk is gone")
        for event in events:
            assert decode(event.TYPE, encode(event)) == event  # what the journal keeps is what was said
            entries_for(event)
        self.journal += events
        for event in events:
            if isinstance(event, ev.NoteEscrowed):
                self.decide(event)


@asynccontextmanager
async def bench(case: AcceptorCase, path: Path) -> AsyncIterator[Kiosk]:
    async with running_simulator(case.protocol, f"pty:{path}", case.simulator) as simulator:
        kiosk = Kiosk(case, simulator)
        await kiosk.start()
        try:
            yield kiosk
        finally:
            await kiosk.stop()


@pytest.fixture(params=ACCEPTORS, ids=lambda case: case.protocol)
async def kiosk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kiosk]:
    async with bench(request.param, tmp_path / "acceptor") as made:
        yield made


def test_every_acceptor_of_the_registry_is_here() -> None:
    acceptors = {entry.name for entry in PROTOCOLS.values() if entry.kind == "note_acceptor"}
    assert acceptors == {case.protocol for case in ACCEPTORS}


async def test_it_comes_online_with_identity_and_table_and_starts_inhibited(kiosk: Kiosk) -> None:
    await kiosk.until(lambda: bool(kiosk.of(ev.DeviceOnline)))
    assert isinstance(kiosk.driver, NoteAcceptor)
    online: ev.DeviceOnline = kiosk.of(ev.DeviceOnline)[0]
    assert online.model and online.serial and online.protocol == kiosk.case.protocol
    assert kiosk.case.value in {each.value for each in online.table}
    await kiosk.until(lambda: kiosk.driver.info().state is DeviceState.READY)
    assert not (await kiosk.simulator.command(kiosk.case.insert))["ok"]
    info = kiosk.driver.info()
    assert (info.serial, info.table, info.fault) == (online.serial, online.table, "")
    assert sum(info.counters.values()) > 0


async def test_notes_are_credited_once_and_acknowledged(kiosk: Kiosk) -> None:
    kiosk.driver.enable()
    await kiosk.take(kiosk.case.insert, 2)
    await kiosk.take(kiosk.case.insert_other)
    assert kiosk.driver.info().state is DeviceState.ACTIVE
    assert kiosk.credited == Counter({kiosk.case.value: 2, kiosk.case.other: 1}) == kiosk.stacked
    assert {event.payment_id for event in kiosk.of(ev.NoteStacked)} == {"p1"}
    for note in kiosk.of(ev.NoteStacked):
        story = [type(event).__name__ for event in kiosk.journal if event.record() == note.note_id]
        assert story == ["NoteEscrowed", "StackRequested", "NoteStacked", "CreditAcknowledged"]
    assert kiosk.open_records() == []


async def test_a_note_is_given_back_when_asked(kiosk: Kiosk) -> None:
    kiosk.decide = kiosk.give_back
    kiosk.driver.enable()
    await kiosk.simulator.insist(kiosk.case.insert)
    await kiosk.until(lambda: bool(kiosk.of(ev.NoteReturned)))
    assert kiosk.of(ev.NoteReturned)[0].value == kiosk.case.value
    assert len(kiosk.simulator.truth()["returned"]) == 1 and not kiosk.credited
    assert kiosk.open_records() == []


async def test_a_note_waits_in_escrow_until_decided(kiosk: Kiosk) -> None:
    """Longer than the device's own time-out."""
    await kiosk.simulator.command("set escrow_timeout_ms=15000")  # half a second at this speed
    await kiosk.stop()
    kiosk.case = _holding_often(kiosk.case)
    await kiosk.start()
    kiosk.decide = lambda note: kiosk.driver.hold(note.note_id)
    kiosk.driver.enable()
    await kiosk.simulator.insist(kiosk.case.insert)
    await kiosk.until(lambda: bool(kiosk.of(ev.NoteEscrowed)))
    await asyncio.sleep(1.0)
    kiosk.stack(kiosk.of(ev.NoteEscrowed)[0])
    await kiosk.until(lambda: bool(kiosk.of(ev.CreditAcknowledged)))
    assert kiosk.credited == kiosk.stacked == Counter({kiosk.case.value: 1})


def _holding_often(case: AcceptorCase) -> AcceptorCase:
    from dataclasses import replace

    return replace(case, driver={**case.driver, "hold_interval_s": 0.1})


async def test_only_wanted_values_are_taken(kiosk: Kiosk) -> None:
    kiosk.driver.enable(frozenset({kiosk.case.other}))
    await kiosk.simulator.insist(kiosk.case.insert)
    await kiosk.until(lambda: bool(kiosk.of(ev.NoteRejected)))
    await kiosk.take(kiosk.case.insert_other)
    assert kiosk.credited == Counter({kiosk.case.other: 1}) == kiosk.stacked


async def test_inhibit_takes_nothing_more_and_settles_what_is_inside(kiosk: Kiosk) -> None:
    kiosk.driver.enable()
    await kiosk.simulator.insist(kiosk.case.insert)
    kiosk.driver.inhibit()
    await kiosk.until(lambda: kiosk.driver.info().state is DeviceState.READY and not kiosk.open_records())
    assert kiosk.credited == kiosk.stacked
    assert not (await kiosk.simulator.command(kiosk.case.insert))["ok"]


@pytest.mark.parametrize("trouble", ["lose_ack", "garble"])
async def test_a_repeated_or_damaged_credit_event_is_one_credit(kiosk: Kiosk, trouble: str) -> None:
    kiosk.driver.enable()
    await kiosk.take(kiosk.case.insert)
    await kiosk.simulator.command(getattr(kiosk.case, trouble))
    await kiosk.take(kiosk.case.insert)
    assert kiosk.credited == Counter({kiosk.case.value: 2}) == kiosk.stacked


@pytest.mark.parametrize("kind", [ev.NoteEscrowed, ev.StackRequested, ev.NoteStacked], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("both", [False, True], ids=["agent", "agent and device"])
async def test_restart_at_every_step_of_a_note(kiosk: Kiosk, kind: type[ev.Event], both: bool) -> None:
    """The agent dies right after the commit of `kind`, alone or together with the device."""
    kiosk.driver.enable()
    if kind is ev.NoteEscrowed:
        kiosk.decide = lambda note: None
    await kiosk.simulator.insist(kiosk.case.insert)
    await kiosk.until(lambda: bool(kiosk.of(kind)))
    await kiosk.stop()
    if both:
        await kiosk.simulator.command("power-cut")
        await kiosk.simulator.command("power-on")
    kiosk.decide = kiosk.stack
    await kiosk.restart()
    if kind is ev.NoteEscrowed:
        kiosk.stack(kiosk.of(ev.NoteEscrowed)[0])
    await kiosk.until(lambda: not kiosk.open_records())
    await kiosk.take(kiosk.case.insert_other)
    _books_agree(kiosk)


@pytest.mark.parametrize("state", ["ACCEPTING", "ESCROW POSITION", "STACKING", "BILL STACKED"])
async def test_power_cut_of_the_device_with_a_note_anywhere(kiosk: Kiosk, state: str) -> None:
    kiosk.driver.enable()
    await kiosk.take(kiosk.case.insert)
    if state == "ESCROW POSITION":
        kiosk.decide = lambda note: None
    await kiosk.simulator.insist(kiosk.case.insert)
    with suppress(TimeoutError):  # a state may pass between two looks; then the cut comes a little later
        await kiosk.simulator.until(lambda truth: truth["state"] == state, 0.5)
    await kiosk.simulator.command("power-cut")
    kiosk.decide = kiosk.stack
    await kiosk.until(lambda: bool(kiosk.of(ev.DeviceOffline)))
    await kiosk.simulator.command("power-on")
    await kiosk.take(kiosk.case.insert_other)
    _books_agree(kiosk)


def _books_agree(kiosk: Kiosk) -> None:
    """What is credited lies in the box; what lies there uncredited is in doubt by its amount."""
    assert not kiosk.credited - kiosk.stacked
    doubts = Counter(event.amount for event in kiosk.of(ev.DoubtOpened))
    assert not kiosk.stacked - kiosk.credited - doubts


async def test_without_a_commit_the_device_is_not_let_go(kiosk: Kiosk) -> None:
    kiosk.driver.enable()
    await kiosk.simulator.insist(kiosk.case.insert)
    await kiosk.until(lambda: bool(kiosk.of(ev.StackRequested)))
    kiosk.failing = True
    with pytest.raises(StoreError):
        await kiosk.ended()
    kiosk.failing = False
    await kiosk.restart()
    await kiosk.until(lambda: bool(kiosk.of(ev.CreditAcknowledged)))
    assert kiosk.credited == Counter({kiosk.case.value: 1}) == kiosk.stacked
    assert kiosk.of(ev.NoteStacked)[0].payment_id == "p1"


async def test_unplugged_and_plugged_again(kiosk: Kiosk) -> None:
    kiosk.driver.enable()
    await kiosk.take(kiosk.case.insert)
    await kiosk.simulator.command("unplug")
    with pytest.raises(TransportError):
        await kiosk.ended()
    assert len(kiosk.of(ev.DeviceOffline)) == 1
    with pytest.raises(TransportError):
        await kiosk.start()
    await kiosk.simulator.command("plug")
    await kiosk.restart()
    await kiosk.take(kiosk.case.insert)
    assert kiosk.credited == Counter({kiosk.case.value: 2}) == kiosk.stacked


async def test_the_trace_is_bounded_and_reads_like_a_story(kiosk: Kiosk) -> None:
    kiosk.driver.enable()
    await kiosk.take(kiosk.case.insert)
    trace = kiosk.driver.trace()
    assert {item.direction for item in trace} == {"host", "device"}
    assert all(item.meaning for item in trace) and list(trace) == sorted(trace, key=lambda item: item.at)
    async with asyncio.timeout(60):
        while len(kiosk.driver.trace()) < 512:  # noqa: ASYNC110 - frames pass
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
    assert len(kiosk.driver.trace()) == 512
