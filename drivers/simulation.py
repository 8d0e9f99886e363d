"""Running a device simulator: what every simulator is, and how one lives on a pty, a TCP port or a memory link.

async with running_simulator("ccnet", link="pty:/run/kiosk/acceptor", settings={"speed": 20}) as simulator:
    await simulator.command("insert 500")
    simulator.truth()["stacker"]
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from pydantic import ValidationError

from agent.domain.errors import ConfigError, TransportError
from drivers.ports import Link

Reply = dict[str, Any]
EVENTS_MAX = 10_000
READ_S = 1.0
TICK_S = 0.02  # how finely a simulator's own time runs while nobody talks to it


@dataclass(frozen=True, slots=True)
class Transmission:
    """Bytes that leave the device at `at` (seconds of the clock that `receive` is given)."""

    at: float
    data: bytes


class Simulator(Protocol):
    """One simulated device, without I/O. `now` is seconds of one steady clock, the same in all calls."""

    def receive(self, data: bytes, now: float) -> list[Transmission]:
        """Bytes from the host; what the device sends because of them."""
        ...

    def command(self, line: str, now: float) -> Reply:
        """A person does something; `{"ok": true, …}` or `{"ok": false, "error": …}`. `help` lists the commands."""
        ...

    def advance(self, now: float) -> float | None:
        """Let time pass; when something next happens by itself, if known."""
        ...

    def truth(self) -> dict[str, Any]:
        """Where everything physically is: JSON-able, and unharmed by simulated power cuts."""
        ...

    def drain(self) -> list[dict[str, Any]]:
        """What happened since the last call, oldest first."""
        ...


class RunningSimulator:
    """A simulator on its link. `port` is what the host configures to reach it."""

    def __init__(self, simulator: Simulator, connect: Callable[[], Link], port: str) -> None:
        self.simulator = simulator
        self.port = port
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self._connect = connect
        self._link: Link | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- for tests, the demo and the command line

    async def command(self, line: str) -> Reply:
        """One text command; `unplug` and `plug` (the cable) work for every device."""
        match line.strip():
            case "unplug":
                await self.unplug()
                return {"ok": True}
            case "plug":
                self.plug()
                return {"ok": True}
        reply = self.simulator.command(line, self._now())
        self._collect()
        return reply

    async def insist(self, line: str, timeout_s: float = 30.0) -> Reply:
        """Repeat a command until it succeeds, as a customer does who waits for the slot to open."""
        async with asyncio.timeout(timeout_s):
            while not (reply := await self.command(line))["ok"]:  # noqa: ASYNC110 - only the device knows when
                await asyncio.sleep(TICK_S)
        return reply

    async def until(self, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait until the physical truth fulfils `holds`; returns it."""
        async with asyncio.timeout(timeout_s):
            while not holds(truth := self.truth()):  # noqa: ASYNC110 - only the device knows when
                await asyncio.sleep(TICK_S)
        return truth

    def truth(self) -> dict[str, Any]:
        self.simulator.advance(self._now())
        self._collect()
        return self.simulator.truth()

    def events(self) -> list[dict[str, Any]]:
        """The last events, oldest first."""
        self._collect()
        return list(self._events)

    async def unplug(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def plug(self) -> None:
        if self._link is None:
            self._link = self._connect()
            self._changed.set()

    # --- running

    def start(self, *, plugged: bool = True) -> None:
        """`plugged` False: links are handed to `serve` from outside."""
        if plugged:
            self.plug()
        self._tasks = [asyncio.ensure_future(self._serve()), asyncio.ensure_future(self._live())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.unplug()

    async def _serve(self) -> None:
        while True:
            link = self._link
            if link is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self.serve(link)
            except TransportError:
                if self._link is link:
                    self._link = None

    async def serve(self, link: Link) -> None:
        """Be the device on `link` until it breaks (`TransportError`)."""
        while True:
            data = await link.read(READ_S)
            for transmission in self.simulator.receive(data, self._now()) if data else ():
                delay = transmission.at - self._now()
                if delay > 0:
                    asyncio.get_running_loop().call_later(delay, self._send_late, link, transmission.data)
                else:
                    await link.write(transmission.data)
            self._collect()

    def _send_late(self, link: Link, data: bytes) -> None:
        task = asyncio.ensure_future(_write(link, data))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _live(self) -> None:
        """Time passes for the device also while no host asks."""
        while True:
            due = self.simulator.advance(self._now())
            self._collect()
            wait = TICK_S if due is None else min(max(due - self._now(), 0.001), TICK_S)
            await asyncio.sleep(wait)

    def _collect(self) -> None:
        for event in self.simulator.drain():
            self._events.append(event)
            if self.on_event is not None:
                self.on_event(event)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _write(link: Link, data: bytes) -> None:
    with suppress(TransportError):
        await link.write(data)


def make_simulator(protocol: str, settings: Mapping[str, Any]) -> Simulator:
    """A simulated device without a link. Raises `ConfigError` for an unknown protocol or impossible settings."""
    try:
        module = import_module(f"drivers.{protocol}.simulator")
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no simulator of a protocol {protocol!r}") from error
    try:
        simulator: Simulator = module.make_simulator(settings)
    except ValidationError as error:
        raise ConfigError(f"settings of a {protocol} simulator: {error}") from error
    return simulator


@asynccontextmanager
async def running_simulator(
    protocol: str, link: str | Link = "pty", settings: Mapping[str, Any] | None = None
) -> AsyncIterator[RunningSimulator]:
    """A simulator of `protocol` on `pty`, `pty:PATH` (a symlink is made there), `tcp:PORT`, `tcp:HOST:PORT`, or on a
    `Link` of the caller's (then `plug` has nothing to reconnect)."""
    simulator = make_simulator(protocol, settings or {})
    if not isinstance(link, str):
        own = link
        running = RunningSimulator(simulator, lambda: own, "memory")
    elif link.startswith("tcp:"):
        async with _on_tcp(simulator, link) as running:
            yield running
        return
    else:
        running = _on_pty(simulator, link)
    running.start()
    try:
        yield running
    finally:
        await running.stop()


def _on_pty(simulator: Simulator, link: str) -> RunningSimulator:
    from drivers.links.pty import PtyLink, open_pty

    if link != "pty" and not link.startswith("pty:"):
        raise ConfigError(f"a simulator's link is pty, pty:PATH, tcp:PORT or tcp:HOST:PORT, not {link!r}")
    path = link.removeprefix("pty").removeprefix(":") or None
    first: PtyLink = open_pty(path)
    fresh = [first]
    return RunningSimulator(simulator, lambda: fresh.pop() if fresh else open_pty(path), first.port)


@asynccontextmanager
async def _on_tcp(simulator: Simulator, link: str) -> AsyncIterator[RunningSimulator]:
    """Every connection speaks to the same device, as with a serial device server."""
    from drivers.links.tcp import serve_tcp

    host, _, port = link.removeprefix("tcp:").rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"tcp link {link!r}: write tcp:PORT or tcp:HOST:PORT")
    running = RunningSimulator(simulator, _no_cable, "")
    server = await serve_tcp(host or "127.0.0.1", int(port), running.serve)
    address = server.sockets[0].getsockname()
    running.port = f"tcp:{address[0]}:{address[1]}"
    running.start(plugged=False)
    try:
        yield running
    finally:
        server.close()
        await running.stop()


def _no_cable() -> Link:
    raise TransportError("a TCP simulator has no cable to plug; connect to it")
