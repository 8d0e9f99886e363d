"""The running agent: starts its parts in order, watches them, and stops them in the order that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loguru import logger

from agent.api.ports import PartState
from agent.api.router_factory import Mounted
from agent.domain.clock import Clock
from agent.domain.errors import StoreError
from agent.domain.events import AgentStarted, AgentStopped
from agent.domain.ids import Randomness
from agent.runtime import guard as reasons
from agent.runtime.build import VERSION
from agent.runtime.bus import Bus
from agent.runtime.checks import ClockJudge, CommitWatch
from agent.runtime.devices import DeviceManager
from agent.runtime.guard import Guard, recorded_troubles
from agent.runtime.scheduler import Every, Scheduler
from agent.runtime.settings import RuntimeSettings
from agent.runtime.systemd import SLICES, Notifier
from agent.store.journal import SqliteStore
from agent.store.ports import Transaction
from agent.store.space import Space
from drivers.ports import DeviceState
from sync.edge import Edge

PROBE_KEY = "runtime.probe"
WELL = (DeviceState.READY, DeviceState.ACTIVE)


@dataclass(slots=True, kw_only=True)
class Agent:
    """Built by `agent/main.py` with its store already open. `end_streams` is set once the API exists.

    `start`, `ready`, then `wind_down` (at the signal) and `stop`; `stop` winds down by itself when nobody did.
    """

    settings: RuntimeSettings
    store: SqliteStore
    clock: Clock
    randomness: Randomness
    devices: DeviceManager
    bus: Bus
    guard: Guard
    judge: ClockJudge
    commits: CommitWatch
    notifier: Notifier
    modules: Sequence[Mounted]
    edge: Edge | None
    end_streams: Callable[[], Awaitable[None]] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _scheduler: Scheduler | None = None
    _wound_down: bool = False

    # --- start

    async def start(self) -> None:
        """The first checks come before the first device, so that nothing is taken that could not be kept."""
        with self.store.read() as reader:
            self.guard.restore(recorded_troubles(reader))
        self.guard.subscribe(self._flush_soon)
        self._first_checks()
        await self.store.record([AgentStarted(version=VERSION)], actor="agent")
        await self.guard.record_changes(self.store)
        self.devices.start()
        for module in self.modules:
            if module.parts.start is not None:
                await module.parts.start()
        self.bus.start()
        if self.edge is not None:
            self._tasks.append(asyncio.create_task(self.edge.run(), name="sync edge"))
        logger.bind(version=VERSION, journal=str(self.store.journal_id)).info("agent started")

    async def ready(self) -> None:
        """The API listens: tell systemd, and begin what may come later."""
        self.notifier.ready(self._summary())
        check_s = self.settings.check_interval_ms / 1000
        jobs = [Every("checks", check_s, self.check)]
        if self.notifier.watchdog_s:
            jobs.append(Every("watchdog", self.notifier.watchdog_s / SLICES, self.feed))
        self._scheduler = Scheduler(jobs)
        self._tasks.append(asyncio.create_task(self._scheduler.start(), name="scheduler"))

    def _first_checks(self) -> None:
        self.judge.check(self.guard)
        self.space_changed(self.store.health().space, self.store.health().free_bytes)
        self._check_journal()
        for reason in (reasons.STORE_FAILED, reasons.COMMITS_SLOW):  # it has just been opened
            self.guard.lift(reason)

    # --- watching

    async def check(self) -> None:
        """What is looked at every `check_interval_ms`."""
        self.judge.check(self.guard)
        self._check_journal()
        await self._probe()
        await self.guard.record_changes(self.store)
        self.notifier.status(self._summary())

    async def feed(self) -> None:
        """The watchdog eats only while every device loop turns and the store's writer answers."""
        if not self.hangs():
            self.notifier.feed()

    def hangs(self) -> list[str]:
        """Names of the parts that have not moved for `loop_stall_ms`."""
        idle_s = self.clock.monotonic() - self.commits.answered_at
        store = ["store"] if idle_s * 1000 > self.settings.loop_stall_ms else []
        return store + [f"device:{name}" for name in self.devices.stalled()]

    def store_failed(self, reason: str) -> None:
        self.guard.set(reasons.STORE_FAILED, reason)

    def store_recovered(self) -> None:
        """Machines first, acceptance after: the order of DESIGN 8."""
        self.devices.rebuild()
        self.guard.lift(reasons.STORE_FAILED)

    def space_changed(self, space: Space, free_bytes: int) -> None:
        if space is Space.AMPLE:
            self.guard.lift(reasons.DISK_LOW)
        else:
            self.guard.set(reasons.DISK_LOW, f"{free_bytes >> 20} MiB are free on the disk ({space.value})")

    def accept_clock(self) -> None:
        """A technician says that the clock is right."""
        self.judge.accept()
        self.judge.check(self.guard)

    def _check_journal(self) -> None:
        with contextlib.suppress(StoreError), self.store.read() as reader:
            row = reader.one("SELECT max(epoch) AS epoch FROM journals")
            epoch = None if row is None else row["epoch"]
            damages = [each for each in self.store.health().damages if each.epoch == epoch]
            if damages:
                first = damages[0]
                detail = f"row {first.seq}: {first.reason}; {first.detail}; see: kiosk journal verify"
                self.guard.set(reasons.JOURNAL_DAMAGED, detail)
            else:
                self.guard.lift(reasons.JOURNAL_DAMAGED)

    async def _probe(self) -> None:
        """Does the writer answer; and, while commits are slow, does a real one still take so long?"""
        slow = self.guard.has(reasons.COMMITS_SLOW)
        started = self.clock.monotonic()
        try:
            await self.store.transact(_touch if slow else _look, actor="agent")
        except StoreError:
            self.commits.answered()
            return
        if slow:
            self.commits.took(self.clock.monotonic() - started)
        self.commits.answered()

    def _flush_soon(self) -> None:
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self.guard.record_changes(self.store), name="guard rows"))

    def _summary(self) -> str:
        names = self.devices.names()
        well = sum(self.devices.info(name).state in WELL for name in names)
        why = ", ".join(sorted(self.guard.troubles()))
        return f"{well} of {len(names)} devices ready" + (f"; takes no money: {why}" if why else "")

    def parts(self) -> Sequence[PartState]:
        """See `agent.api.ports.AgentStatus`."""
        troubles = self.guard.troubles()
        found = []
        for reason, part in _PART_OF.items():
            trouble = troubles.get(reason)
            detail = trouble.detail if trouble else ""
            found.append(PartState(part, trouble is None, True, reason if trouble else "", detail))
        for name in self.devices.names():
            info = self.devices.info(name)
            well = info.state in WELL
            code = "" if well else info.fault or info.state.value
            found.append(PartState(f"device:{name}", well, False, code, info.detail))
        for name, position in self.bus.positions().items():
            code = "handler_failing" if position.failing else ""
            found.append(PartState(f"module:{name}", not position.failing, False, code, position.failing))
        return found

    # --- the end

    async def wind_down(self, reason: str) -> None:
        """Take nothing more, let what is on its way arrive, end the streams. All waits are bounded."""
        if self._wound_down:
            return
        self._wound_down = True
        logger.bind(reason=reason).info("agent stops")
        self.notifier.stopping(f"stopping: {reason}")
        self.guard.set(reasons.STOPPING, reason)
        try:
            async with asyncio.timeout(self.settings.settle_timeout_ms / 1000):
                await self.devices.settle(self._has_open_records)
                await self.bus.drained()
        except TimeoutError:
            logger.warning("stopped with something still on its way; it goes on at the next start")
        if self.end_streams is not None:
            await self.end_streams()

    async def stop(self, reason: str = "stopped") -> None:
        await self.wind_down(reason)
        if self._scheduler is not None:
            await self._scheduler.stop()
        if self.edge is not None:
            await self.edge.stop()
        await self.bus.stop()
        for module in reversed(self.modules):
            if module.parts.stop is not None:
                await module.parts.stop()
        await self.devices.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self.guard.record_changes(self.store)
            await self.store.record([AgentStopped(reason=reason)], actor="agent")
        await self.store.close()
        logger.info("agent stopped")

    def _has_open_records(self, device: str) -> bool:
        try:
            with self.store.read() as reader:
                return bool(reader.open_events(device))
        except StoreError:
            return False


_PART_OF = {
    reasons.STORE_FAILED: "store",
    reasons.DISK_LOW: "disk",
    reasons.CLOCK_ABSURD: "clock",
    reasons.COMMITS_SLOW: "commits",
    reasons.JOURNAL_DAMAGED: "journal",
    reasons.STOPPING: "agent",
}


def _look(tx: Transaction) -> None:
    """Nothing: that it came back is the answer."""


def _touch(tx: Transaction) -> None:
    """One write that must reach the disk and that nobody reads."""
    tx.execute("INSERT INTO meta VALUES (?, 0) ON CONFLICT (key) DO UPDATE SET value = 1 - value", PROBE_KEY)
