"""Carries bytes between one link and the CCNET machine; keeps no rule."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from agent.domain.clock import Clock
from agent.domain.errors import TransportError
from agent.domain.events import Event
from agent.domain.ids import Randomness, uuid7
from agent.domain.money import Money
from drivers.ccnet.codec import Decoder, Direction, Frame, Noise
from drivers.ccnet.describe import meaning
from drivers.ccnet.machine import CcnetMachine, Step
from drivers.ccnet.messages import Command
from drivers.ccnet.settings import CcnetSettings
from drivers.ports import DeviceInfo, Emit, Link, TraceItem

TRACE_FRAMES = 512


class CcnetAcceptor:
    """A `NoteAcceptor` and `Driver`. `TransportError` and `StoreError` leave `run`; the supervisor reopens."""

    def __init__(self, link: Link, machine: CcnetMachine, *, settings: CcnetSettings, clock: Clock, emit: Emit) -> None:
        self._link = link
        self._machine = machine
        self._clock = clock
        self._emit = emit
        self._decoder = Decoder(Direction.DEVICE, settings.address)
        self._gap_s = settings.gap_ms / 1000
        self._trace: deque[TraceItem] = deque(maxlen=TRACE_FRAMES)
        self._asked = asyncio.Event()  # a verb was called
        self._command = Command.POLL  # what the reply being awaited answers, for the trace

    # --- NoteAcceptor

    def enable(self, notes: frozenset[Money] | None = None) -> None:
        self._machine.enable(notes)
        self._asked.set()

    def inhibit(self) -> None:
        self._machine.inhibit()
        self._asked.set()

    def stack(self, note_id: str, payment_id: str | None) -> None:
        self._machine.stack(note_id, payment_id)
        self._asked.set()

    def return_note(self, note_id: str) -> None:
        self._machine.return_note(note_id)
        self._asked.set()

    def hold(self, note_id: str) -> None:
        self._machine.hold(note_id)
        self._asked.set()

    # --- Driver

    def info(self) -> DeviceInfo:
        return self._machine.info()

    def trace(self) -> Sequence[TraceItem]:
        return tuple(self._trace)

    async def run(self) -> None:
        try:
            await self._converse()
        except TransportError:
            if told := self._machine.lost("port_lost"):
                await self._emit(told)
            raise

    async def _converse(self) -> None:
        reply: Frame | None = None  # None: nothing was heard
        while True:
            step = self._machine.step(reply, now=self._clock.monotonic())
            if step.events:
                await self._emit(step.events)  # all events of one reply, one transaction, fsynced
            if step.ack is not None:
                await self._write(step.ack)  # from here on the device may forget
            step = await self._pause(step)
            reply = await self._exchange(step.send, step.timeout_s)

    async def _pause(self, step: Step) -> Step:
        """Wait until the step's time; a verb called meanwhile cuts it short and may change what is sent."""
        await self._clock.sleep_until(step.wake_from)
        if not self._asked.is_set() and step.not_before > step.wake_from:
            sleeping = asyncio.ensure_future(self._clock.sleep_until(step.not_before))
            asking = asyncio.ensure_future(self._asked.wait())
            try:
                await asyncio.wait((sleeping, asking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                asking.cancel()
        if not self._asked.is_set():
            return step
        self._asked.clear()
        fresh = self._machine.replan(self._clock.monotonic())
        await self._clock.sleep_until(fresh.not_before)
        return fresh

    async def _exchange(self, request: Frame, timeout_s: float) -> Frame | None:
        await self._link.discard_input()  # what came unasked is not an answer to this
        self._decoder.clear()
        self._command = Command(request.data[0])
        await self._write(request)
        deadline = self._clock.monotonic() + timeout_s
        while (left := deadline - self._clock.monotonic()) > 0:
            data = await self._link.read(min(left, self._gap_s) if self._decoder.buffered else left)
            for item in self._decoder.feed(data) if data else self._decoder.flush():
                self._heard(item)
                if isinstance(item, Frame) and self._machine.is_reply(item):
                    return item
        return None

    async def _write(self, frame: Frame) -> None:
        raw = frame.encode(Direction.HOST)
        self._record("host", raw, meaning(Direction.HOST, frame), valid=True)
        await self._link.write(raw)

    def _heard(self, item: Frame | Noise) -> None:
        if isinstance(item, Noise):
            self._machine.noise(len(item.raw))
            self._record("device", item.raw, f"noise: {item.reason}", valid=False)
            return
        raw = item.encode(Direction.DEVICE)
        self._record("device", raw, meaning(Direction.DEVICE, item, self._command), valid=True)

    def _record(self, direction: str, raw: bytes, text: str, *, valid: bool) -> None:
        self._trace.append(TraceItem(self._clock.monotonic(), direction, raw, text, valid))


def make_driver(
    link: Link,
    *,
    name: str,
    clock: Clock,
    randomness: Randomness,
    emit: Emit,
    settings: CcnetSettings,
    history: Sequence[Event] = (),
) -> CcnetAcceptor:
    """One driver for one opened link. `history`: see `CcnetMachine`."""

    def new_id() -> str:
        return str(uuid7(clock.now_us() // 1000, randomness(10)))

    machine = CcnetMachine(name, settings, new_id, history)
    return CcnetAcceptor(link, machine, settings=settings, clock=clock, emit=emit)
