"""What the runtime's tests drive by hand: time, and a device whose driver does what the test says."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.domain.events import DeviceOnline, Event
from agent.domain.money import Money
from drivers.ports import DeviceInfo, DeviceState, Emit, Link, TraceItem

START_US = 1_800_000_000_000_000  # 2027-01-15, after the build


class FakeClock:
    """Time stands until `advance`; whoever sleeps past the new time wakes up."""

    def __init__(self, now_us: int = START_US) -> None:
        self._now = 1_000.0
        self.wall_us = now_us
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self._now

    def now_us(self) -> int:
        return self.wall_us

    async def sleep_until(self, deadline: float) -> None:
        if deadline <= self._now:
            await asyncio.sleep(0)
            return
        self._count += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (deadline, self._count, future))
        await future

    def waiting(self) -> list[float]:
        """Seconds from now for which somebody sleeps, shortest first."""
        return sorted(deadline - self._now for deadline, _, future in self._sleepers if not future.done())

    async def advance(self, seconds: float) -> None:
        """Let the time pass, waking sleepers in the order of their deadlines."""
        target = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            deadline, _, future = heapq.heappop(self._sleepers)
            self.wall_us += round((deadline - self._now) * 1_000_000)
            self._now = deadline
            if not future.done():
                future.set_result(None)
            await turns()
        self.wall_us += round((target - self._now) * 1_000_000)
        self._now = target
        await turns()


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait in real time for what other threads and processes do."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("did not happen in time")
        await asyncio.sleep(0.005)


@dataclass
class FakeLink:
    """A link that hears nothing and remembers what was written."""

    written: list[bytes] = field(default_factory=list)
    closed: bool = False

    async def read(self, timeout_s: float) -> bytes:
        return b""

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    async def discard_input(self) -> None:
        return None

    async def close(self) -> None:
        self.closed = True


class FakeDriver:
    """Announces its device, then does what the test puts into `orders`: emit events, or raise."""

    def __init__(self, name: str, link: Link, emit: Emit, history: list[Event]) -> None:
        self.link = link
        self.emit = emit
        self.history = history
        self.verbs: list[tuple[object, ...]] = []
        self.state = DeviceState.STARTING
        self.fault = ""
        self.orders: asyncio.Queue[list[Event] | BaseException] = asyncio.Queue()
        self._online = DeviceOnline(device=name, protocol="fake", model="F1", serial="7", firmware="1.0")

    async def run(self) -> None:
        await self.link.write(b"hello")
        await self.emit([self._online])
        self.state = DeviceState.READY
        while True:
            order = await self.orders.get()
            if isinstance(order, BaseException):
                raise order
            await self.emit(order)
            await self.link.write(b"ack")

    def info(self) -> DeviceInfo:
        return DeviceInfo(self.state, "fake", model="F1", fault=self.fault)

    def trace(self) -> Sequence[TraceItem]:
        return [TraceItem(0.0, "host", data, data.decode(), True) for data in getattr(self.link, "seen", [b"hello"])]

    def enable(self, notes: frozenset[Money] | None = None) -> None:
        self.state = DeviceState.ACTIVE
        self.verbs.append(("enable", notes))

    def inhibit(self) -> None:
        if self.state is DeviceState.ACTIVE:
            self.state = DeviceState.READY
        self.verbs.append(("inhibit",))

    def stack(self, note_id: str, payment_id: str | None) -> None:
        self.verbs.append(("stack", note_id, payment_id))

    def return_note(self, note_id: str) -> None:
        self.verbs.append(("return", note_id))

    def hold(self, note_id: str) -> None:
        self.verbs.append(("hold", note_id))
