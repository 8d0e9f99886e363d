"""Composition root: the only file that knows everyone. Nothing is read or opened before the lifespan.

`uvicorn agent.main:app --host 127.0.0.1 --port 8005` works as it is; `kiosk agent` does the same with the settings'
host and port and with systemd.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from agent import logs
from agent.api.app import ApiParts, create_app
from agent.api.auth.caller import require
from agent.api.deferred import Deferred
from agent.api.idempotency import Idempotency
from agent.api.module import Context
from agent.api.router_factory import Found, Mounted, RouterFactory, projections
from agent.api.trace import trace_id
from agent.domain.clock import Clock
from agent.domain.errors import ConfigError
from agent.domain.events import Event
from agent.domain.ids import Randomness
from agent.runtime import guard as reasons
from agent.runtime import metrics, steps
from agent.runtime.agent import Agent
from agent.runtime.build import BUILT_AT_US, VERSION
from agent.runtime.bus import Bus
from agent.runtime.checks import ClockJudge, CommitWatch
from agent.runtime.clock import SystemClock
from agent.runtime.control import ControlSocket
from agent.runtime.devices import DeviceManager, check_ports
from agent.runtime.facade import Acceptor
from agent.runtime.guard import Guard, recorded_troubles
from agent.runtime.projections import PROJECTIONS
from agent.runtime.router import make_router as system_router
from agent.runtime.settings import DeviceSettings
from agent.runtime.signals import StopSignals
from agent.runtime.supervisor import Supervisor, Surroundings
from agent.runtime.systemd import Notifier
from agent.settings import AgentSettings, load
from agent.store.journal import Callbacks, SqliteStore
from drivers.registry import protocol_of
from sync import edge
from sync.edge import Edge
from sync.edge.router import make_router as sync_router

if TYPE_CHECKING:
    from drivers.ports import Driver, Emit, Link

MODULES = Path(__file__).resolve().parent.parent / "modules"


def __getattr__(name: str) -> Any:
    """`app` is made when a server asks for it; making it opens nothing."""
    if name == "app":
        return make_app()
    raise AttributeError(name)


def make_app(
    settings: AgentSettings | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    started: Callable[[Agent], None] | None = None,
    failed: Callable[[BaseException], None] | None = None,
) -> Deferred:
    """The ASGI app. `started` gets the agent when all is open, and then tells it `ready` itself; without it the agent
    is ready as soon as it is open. `failed` hears what stopped the start."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[FastAPI]:
        try:
            async with running(settings or load(environ), environ) as (agent, app):
                if started is None:
                    await agent.ready()
                else:
                    started(agent)
                yield app
        except BaseException as error:
            if failed is not None:
                failed(error)
            raise

    return Deferred(opening)


@asynccontextmanager
async def running(settings: AgentSettings, environ: Mapping[str, str]) -> AsyncIterator[tuple[Agent, FastAPI]]:
    """The whole agent, open and started, with its API; stopped in order at the end."""
    logs.configure(settings.logging)
    agent = await build_agent(settings, environ=environ)
    signals = StopSignals(agent.wind_down)
    try:
        app = make_api(settings, agent)
        agent.end_streams = app.state.streams.close
        control = ControlSocket(app, settings.store.directory)
        await agent.start()
        await control.start()
        signals.install()
        gc.collect()
        gc.freeze()  # what the start made stays: else a full collection walks it all and stalls the loop for tens of ms
        try:
            yield agent, app
        finally:
            signals.remove()
            await control.stop()
    finally:
        await agent.stop(signals.reason)


async def build_agent(
    settings: AgentSettings,
    *,
    environ: Mapping[str, str],
    clock: Clock | None = None,
    randomness: Randomness = os.urandom,
    vfs: str | None = None,
) -> Agent:
    """Everything constructed and the store open; nothing started. Raises `ConfigError`, `StoreLocked`, `StoreError`.

    `vfs` names the disk below SQLite; tests give one that fails.
    """
    clock = clock or SystemClock()
    on_step = steps.from_environment(environ)
    factory, found = _modules(settings)
    guard = Guard(clock)
    commits = CommitWatch(guard, clock, settings.runtime.commit_slow_ms / 1000)
    relay = _Relay(asyncio.get_running_loop())
    callbacks = relay.callbacks()
    opening = partial(
        open_store, settings, found=found, clock=clock, randomness=randomness, callbacks=callbacks, vfs=vfs
    )
    supervised = _supervisors(settings)
    store = await asyncio.to_thread(opening)
    around = Surroundings(
        store=store,
        clock=clock,
        randomness=randomness,
        settings=settings.runtime,
        commits=commits,
        on_step=on_step,
    )
    try:
        devices = DeviceManager([make(around, guard) for make in supervised], _ports(settings), guard)
        mounted = factory.build(found, _context(around, devices))
        relay.agent = agent = Agent(
            settings=settings.runtime,
            store=store,
            clock=clock,
            randomness=randomness,
            devices=devices,
            bus=_bus(around, mounted),
            guard=guard,
            judge=_judge(store, clock),
            commits=commits,
            notifier=Notifier(environ),
            modules=mounted,
            edge=_edge(settings, store, around, devices),
        )
    except BaseException:
        await store.close()
        raise
    return agent


def check(settings: AgentSettings) -> None:
    """Everything that can be known of the settings without opening anything. Raises `ConfigError`."""
    _modules(settings)
    _supervisors(settings)


def make_api(settings: AgentSettings, agent: Agent) -> FastAPI:
    gatherer = metrics.Gatherer(
        agent.devices,
        agent.bus,
        agent.guard,
        agent.store.health,
        lambda: None if agent.edge is None else agent.edge.status(),
    )
    return create_app(
        ApiParts(
            settings=settings.api,
            state_dir=settings.store.directory,
            store=agent.store,
            clock=agent.clock,
            randomness=agent.randomness,
            devices=agent.devices,
            status=agent,
            metrics=metrics.renderer(gatherer),
            version=VERSION,
            owner_uids=frozenset({0, os.getuid()}),
            modules=agent.modules,
            routers=[
                system_router(agent, require),
                *([] if agent.edge is None else [sync_router(agent.edge, require)]),
            ],
        )
    )


def open_store(
    settings: AgentSettings,
    *,
    found: Sequence[Found] | None = None,
    clock: Clock | None = None,
    randomness: Randomness = os.urandom,
    callbacks: Callbacks = Callbacks(),  # noqa: B008 - frozen
    vfs: str | None = None,
) -> SqliteStore:
    """The store with every projection of this configuration, under its lock. Blocks. Also for the command line."""
    found = _modules(settings)[1] if found is None else found
    return SqliteStore.open(
        settings.store,
        clock=clock or SystemClock(),
        randomness=randomness,
        projections=[*PROJECTIONS, *edge.PROJECTIONS, *projections(found)],
        callbacks=callbacks,
        vfs=vfs,
    )


def _modules(settings: AgentSettings) -> tuple[RouterFactory, list[Found]]:
    factory = RouterFactory(MODULES)
    return factory, factory.discover(settings.modules.enabled, settings.modules.tables())


def _context(around: Surroundings, devices: DeviceManager) -> Context:
    return Context(
        store=around.store,
        clock=around.clock,
        randomness=around.randomness,
        devices=devices,
        require=require,
        once=Idempotency(around.store).once,
        trace_id=trace_id,
    )


def _bus(around: Surroundings, mounted: Sequence[Mounted]) -> Bus:
    bus = Bus(around.store, around.clock, around.settings.handler_retry_max_ms / 1000)
    for module in mounted:
        bus.add(module.name, module.parts.handlers)
    return bus


def _edge(settings: AgentSettings, store: SqliteStore, around: Surroundings, devices: DeviceManager) -> Edge | None:
    return edge.build_edge(
        settings.sync,
        store=store,
        store_path=store.path,
        state_dir=settings.store.directory,
        clock=around.clock,
        randomness=around.randomness,
        agent_version=VERSION,
        devices_info=lambda: {name: devices.info(name).state.value for name in devices.names()},
        on_step=around.on_step,
    )


def _enabled(settings: AgentSettings) -> dict[str, DeviceSettings]:
    return {name: device for name, device in settings.devices.items() if device.enabled}


def _ports(settings: AgentSettings) -> dict[str, str]:
    return {name: device.port for name, device in _enabled(settings).items()}


MakeSupervisor = Callable[[Surroundings, Guard], Supervisor]


def _supervisors(settings: AgentSettings) -> list[MakeSupervisor]:
    """How each device will be kept, its settings checked. Raises `ConfigError`, also for two devices on one port."""
    check_ports(_enabled(settings))
    return [_supervisor(name, device) for name, device in _enabled(settings).items()]


def _supervisor(name: str, device: DeviceSettings) -> MakeSupervisor:
    try:
        entry = protocol_of(device.protocol)
        checked = entry.parse_settings(device.settings)
    except ConfigError as error:
        raise ConfigError(f"devices.{name}: {error.message}") from error

    def make(around: Surroundings, guard: Guard) -> Supervisor:
        def make_driver(link: Link, emit: Emit, history: list[Event]) -> Driver:
            return entry.driver(
                link,
                name=name,
                clock=around.clock,
                randomness=around.randomness,
                emit=emit,
                settings=checked,
                history=history,
            )

        return Supervisor(
            name,
            device.protocol,
            open_link=partial(entry.open_link, device.port, checked),
            make_driver=make_driver,
            acceptor=Acceptor(guard.is_clear, around.on_step) if entry.kind == "note_acceptor" else None,
            around=around,
        )

    return make


def _judge(store: SqliteStore, clock: Clock) -> ClockJudge:
    """Judges by what was believed when the clock was last found absurd, else by the last row."""
    with store.read() as reader:
        troubles = recorded_troubles(reader)
        seq, _ = reader.head()
        last = reader.rows(seq - 1, 1)
    reference = troubles.get(reasons.CLOCK_ABSURD)
    if reference is None and last:
        reference = last[0].occurred_at
    return ClockJudge(clock, BUILT_AT_US, reference)


class _Relay:
    """Carries what the store's writer thread has to say over to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.agent: Agent | None = None

    def callbacks(self) -> Callbacks:
        return Callbacks(
            on_failure=lambda failure: self._tell(lambda agent: agent.store_failed(failure.message)),
            on_recovered=lambda: self._tell(lambda agent: agent.store_recovered()),
            on_space=lambda space, free: self._tell(lambda agent: agent.space_changed(space, free)),
        )

    def _tell(self, what: Callable[[Agent], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._now, what)

    def _now(self, what: Callable[[Agent], None]) -> None:
        if self.agent is not None:
            what(self.agent)
