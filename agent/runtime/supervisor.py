"""Keeps one device's driver running: opens the port, builds its machine from the journal, starts over on every loss."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import KioskError, ProtocolError, StoreError, TransportError
from agent.domain.events import DeviceFaulted, DeviceOffline, DeviceOnline, DeviceRecovered, Event, NoteStacked
from agent.domain.ids import Randomness
from agent.runtime import record as records
from agent.runtime.checks import CommitWatch
from agent.runtime.facade import Acceptor
from agent.runtime.record import DeviceRecord
from agent.runtime.settings import RuntimeSettings
from agent.runtime.steps import OnStep, after_commit, before_commit, quiet
from agent.store.ports import Store
from drivers.ports import DeviceInfo, DeviceState, Driver, Emit, Link, NoteAcceptor, TraceItem

OpenLink = Callable[[], Awaitable[Link]]
MakeDriver = Callable[[Link, Emit, list[Event]], Driver]
"""(link, emit, events of the open records) → the driver with its machine."""
WELL = (DeviceState.READY, DeviceState.ACTIVE)
HARMLESS = (DeviceOnline, DeviceOffline, DeviceFaulted, DeviceRecovered)  # told again by the next driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all supervisors share."""

    store: Store
    clock: Clock
    randomness: Randomness
    settings: RuntimeSettings
    commits: CommitWatch
    on_step: OnStep


class Supervisor:
    """`run` never returns by itself. Everything else answers at once, whether or not the device is there."""

    def __init__(
        self,
        name: str,
        protocol: str,
        *,
        open_link: OpenLink,
        make_driver: MakeDriver,
        acceptor: Acceptor | None,
        around: Surroundings,
    ) -> None:
        self.name = name
        self.acceptor = acceptor
        self.reopened = 0
        self._protocol = protocol
        self._open_link = open_link
        self._make_driver = make_driver
        self._around = around
        self._log = logger.bind(device=name)
        self._driver: Driver | None = None
        self._record = DeviceRecord(name)
        self._past: deque[TraceItem] = deque(maxlen=around.settings.trace_frames)
        self._turned_at = around.clock.monotonic()
        self._asleep = True
        self._loss_told = False
        self._ack_due = False
        self._was_well = False
        self._rebuild = asyncio.Event()

    # --- what others see

    def info(self) -> DeviceInfo:
        """The driver's own word; while there is none, what the journal knows of the device."""
        if self._driver is not None:
            return self._driver.info()
        known = self._record.online or DeviceOnline(device=self.name, protocol=self._protocol)
        return DeviceInfo(
            DeviceState.OFFLINE,
            self._protocol,
            model=known.model,
            serial=known.serial,
            firmware=known.firmware,
            detail=self._record.reason or "",
            table=known.table,
        )

    def since_us(self) -> int | None:
        """Wall clock of the last change between online and offline; None while nothing is known."""
        return self._record.since_us

    def trace(self) -> list[TraceItem]:
        """The last frames, oldest first, also those of drivers that are gone."""
        items = deque(self._past, maxlen=self._past.maxlen)
        items.extend(() if self._driver is None else self._driver.trace())
        return list(items)

    def turns(self) -> bool:
        """Whether the loop has moved within `loop_stall_ms`; waiting for the next attempt counts as moving."""
        idle_s = self._around.clock.monotonic() - self._turned_at
        return self._asleep or idle_s * 1000 < self._around.settings.loop_stall_ms

    # --- the loop

    async def run(self) -> None:
        delay_s = self._around.settings.reopen_first_ms / 1000
        while True:
            try:
                await self._serve()
            except (TransportError, ProtocolError) as error:
                await self._lost(error.message)
            except StoreError as error:
                self._log.warning("driver stopped, the store failed: {reason}", reason=error.message)
            except KioskError as error:
                await self._lost(f"{error.code}: {error.message}")
            except Exception as error:  # noqa: BLE001 - the supervisor's edge: a defect of one driver stays with it
                self._log.opt(exception=error).error("driver died of a defect: {error}", error=repr(error))
                await self._lost(f"internal error: {type(error).__name__}")
            if self._was_well:
                delay_s = self._around.settings.reopen_first_ms / 1000
            await self._pause(delay_s)
            delay_s = min(2 * delay_s, self._around.settings.reopen_max_ms / 1000)
            self.reopened += 1

    def rebuild(self) -> None:
        """Start the driver over, its machine built anew from the journal; from now on the old one gets no verbs."""
        if self.acceptor:
            self.acceptor.detach()
        self._rebuild.set()

    async def _serve(self) -> None:
        """Open, run, close. Returns when a rebuild was asked for; everything else leaves by an exception."""
        self._rebuild.clear()
        self._was_well = False
        self._turn()
        link = _Watched(await self._open_link(), self._turn, self._written)
        try:
            try:
                history = await asyncio.to_thread(self._past_of_device)
            except StoreError:
                self._driver = blind = self._make_driver(link, self._refuse, [])
                await self._until_rebuild(blind, self._around.settings.reopen_max_ms / 1000)
                return
            self._driver = driver = self._make_driver(link, self._emit, history)
            if self.acceptor and isinstance(driver, NoteAcceptor):
                self.acceptor.attach(driver)
            await self._until_rebuild(driver)
        finally:
            if self.acceptor:
                self.acceptor.detach()
            self._keep_trace()
            with contextlib.suppress(TransportError):
                await link.close()

    async def _until_rebuild(self, driver: Driver, limit_s: float = math.inf) -> None:
        """Run the driver until it raises, a rebuild is asked for, or `limit_s` are over."""
        tasks = [
            asyncio.create_task(driver.run(), name=f"driver {self.name}"),
            asyncio.create_task(self._asked(), name=f"rebuild {self.name}"),
        ]
        if limit_s < math.inf:
            limit = self._around.clock.sleep_until(self._around.clock.monotonic() + limit_s)
            tasks.append(asyncio.create_task(limit, name=f"limit {self.name}"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._was_well = driver.info().state in WELL
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _asked(self) -> None:
        await self._rebuild.wait()

    def _past_of_device(self) -> list[Event]:
        """What the machine is built from: who the device was, its standing faults, the events of its open records."""
        with self._around.store.read() as reader:
            self._record = records.load(reader, self.name)
            return [*self._record.as_events(), *reader.open_events(self.name)]

    def _keep_trace(self) -> None:
        if self._driver is not None:
            self._past.extend(self._driver.trace())
            self._driver = None

    async def _lost(self, reason: str) -> None:
        self._tell_loss(reason)
        with contextlib.suppress(StoreError):  # the journal hears of it at a later attempt
            await self._emit([DeviceOffline(device=self.name, reason=reason)])

    def _tell_loss(self, reason: str) -> None:
        """Once, until the device is back."""
        if not self._loss_told:
            self._loss_told = True
            self._log.warning("device lost: {reason}", reason=reason)

    def _tell_return(self) -> None:
        if self._loss_told:
            self._loss_told = False
            self._log.info("device back")

    async def _pause(self, delay_s: float) -> None:
        jitter = 0.75 + int.from_bytes(self._around.randomness(2), "big") / 0xFFFF / 2  # 0.75 … 1.25
        self._asleep = True
        await self._around.clock.sleep_until(self._around.clock.monotonic() + delay_s * jitter)

    # --- what passes between driver, store and link

    async def _emit(self, events: Sequence[Event]) -> None:
        fresh = self._record.fresh(events)
        if fresh:
            before_commit(self._around.on_step, fresh)
            await self._commit(fresh)
            self._ack_due = any(isinstance(event, NoteStacked) for event in fresh)
            after_commit(self._around.on_step, fresh)
        for event in events:
            if isinstance(event, DeviceOnline):
                self._tell_return()
            elif isinstance(event, DeviceOffline):
                self._tell_loss(event.reason)

    async def _refuse(self, events: Sequence[Event]) -> None:
        """Without a store a driver still runs, for one purpose: to tell its device to take nothing. It has no past and
        gets no verbs, and whatever concerns money ends it here, so that nothing is acknowledged."""
        if not all(isinstance(event, HARMLESS) for event in events):
            raise StoreError("the store is away; the device repeats this when it is back")

    async def _commit(self, events: Sequence[Event]) -> None:
        """One transaction for all events of one reply; everything about one note carries the note's id as trace."""
        trace_id = next((found for event in events if (found := event.record())), "")
        started = self._around.clock.monotonic()
        rows = await self._around.store.record(events, actor=f"device:{self.name}", trace_id=trace_id)
        self._around.commits.took(self._around.clock.monotonic() - started)
        self._record.committed(events, rows[-1].occurred_at)
        for row in rows:
            self._log.bind(seq=row.seq, trace_id=row.trace_id).info(row.type)

    def _turn(self) -> None:
        self._asleep = False
        self._turned_at = self._around.clock.monotonic()

    def _written(self) -> None:
        """Names the two steps that only the wire shows; nothing in production."""
        if self._around.on_step is quiet or self._driver is None:
            return
        if self._ack_due:
            self._ack_due = False
            self._around.on_step("acked")
        elif "STACK" in next((item.meaning for item in reversed(self._driver.trace()) if item.direction == "host"), ""):
            self._around.on_step("stack_sent")


class _Watched:
    """The link as the driver sees it; tells the supervisor that the loop turns."""

    def __init__(self, link: Link, turn: Callable[[], None], written: Callable[[], None]) -> None:
        self._link = link
        self._turn = turn
        self._written = written

    async def read(self, timeout_s: float) -> bytes:
        self._turn()
        return await self._link.read(timeout_s)

    async def write(self, data: bytes) -> None:
        self._turn()
        await self._link.write(data)
        self._written()

    async def discard_input(self) -> None:
        await self._link.discard_input()

    async def close(self) -> None:
        await self._link.close()
