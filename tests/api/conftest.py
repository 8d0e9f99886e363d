"""A kiosk's API over a real store: in process (`api`) and behind a real socket (`served`)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from agent.api.app import ApiParts, create_app
from agent.api.auth.caller import require
from agent.api.auth.secrets import Cost
from agent.api.idempotency import Idempotency
from agent.api.module import Context
from agent.api.ports import PartState
from agent.api.router_factory import Mounted, RouterFactory, projections
from agent.api.settings import ApiSettings
from agent.api.trace import trace_id
from agent.domain.errors import NotFound
from agent.domain.events import Denomination, Event
from agent.domain.money import Money
from agent.store.journal import SqliteStore
from agent.store.ports import Projection
from agent.store.settings import StoreSettings
from drivers.ports import DeviceInfo, DeviceState, NoteAcceptor, TraceItem

ORIGIN = "http://127.0.0.1:8005"
UI_TOKEN = "ui-token-of-the-tests-0123456789abcdef"
PIN = "270415"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
MODULES = Path(__file__).resolve().parents[2] / "modules"
OWNER = os.getuid()


@dataclass
class TestClock:
    """Stands still until a test moves it; both hands, or the wall clock alone."""

    __test__ = False
    seconds: float = 1000.0
    wall_us: int = 1_795_400_000_000_000

    def monotonic(self) -> float:
        return self.seconds

    def now_us(self) -> int:
        return self.wall_us

    async def sleep_until(self, deadline: float) -> None:
        raise AssertionError("nothing in the API sleeps by the clock")

    def go(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_us += int(seconds * 1e6)

    def jump_wall(self, seconds: float) -> None:
        self.wall_us += int(seconds * 1e6)


@dataclass
class Board:
    """The devices of a kiosk without devices behind them."""

    infos: dict[str, DeviceInfo] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def names(self) -> Sequence[str]:
        return list(self.infos)

    def info(self, name: str) -> DeviceInfo:
        if name not in self.infos:
            raise NotFound(f"there is no device {name}")
        return self.infos[name]

    def port(self, name: str) -> str:
        return "/dev/serial/by-id/cashcode"

    def trace(self, name: str) -> Sequence[TraceItem]:
        self.info(name)
        return [TraceItem(990.0, "host", bytes.fromhex("02030633DA81"), "POLL", True)]

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]:
        return {}

    def accepting_allowed(self) -> bool:
        return not self.reasons

    def inhibit_reasons(self) -> Sequence[str]:
        return self.reasons


@dataclass
class Status:
    states: list[PartState] = field(default_factory=lambda: [PartState("store", ok=True, required=True)])

    def parts(self) -> Sequence[PartState]:
        return self.states


CASHCODE = DeviceInfo(
    state=DeviceState.READY,
    protocol="ccnet",
    model="SM-1234",
    serial="A1B2",
    firmware="1.02",
    table=(Denomination(code=2, value=Money(500, "EUR")),),
    counters={"polls": 12},
)


@dataclass
class Kiosk:
    """One kiosk under test. `client` is a program of this machine without a session."""

    app: FastAPI
    store: SqliteStore
    clock: TestClock
    board: Board
    status: Status
    folder: Path
    settings: ApiSettings
    origin: str = ORIGIN
    port: int = 8005

    def client(self, uid: int | None = None, **headers: str) -> httpx.AsyncClient:
        """A browser's page of our own, or, with `uid`, a process of that account on the control socket."""
        if uid is None:
            headers = {"Origin": self.origin, **headers}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=_at_socket(self.app, uid), raise_app_exceptions=False),
            base_url=self.origin,
            headers=headers,
        )

    async def first_admin(self, name: str = "root", pin: str = PIN) -> str:
        async with self.client(uid=OWNER) as client:
            answer = await client.post("/api/v1/auth/first-admin", json={"name": name, "secret": pin})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def as_user(self, role: str, name: str = "", pin: str = PIN) -> httpx.AsyncClient:
        """A logged-in browser of somebody with this role."""
        name = name or f"the {role}"
        if role != "ui":
            async with self.client(uid=OWNER) as owner:
                body = {"name": name, "role": role, "secret": pin}
                assert (await owner.post("/api/v1/auth/users", json=body)).status_code in {201, 409}
        client = self.client()
        path, body = ("login", {"name": name, "secret": pin}) if role != "ui" else ("ui", {"token": UI_TOKEN})
        answer = await client.post(f"/api/v1/auth/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return client

    async def record(self, *events: Event) -> int:
        rows = await self.store.record(events, actor="device:cashcode", trace_id="trace-of-the-note")
        return rows[-1].seq

    def types(self) -> list[str]:
        """Of all journal rows."""
        with self.store.read() as reader:
            return [row.type for row in reader.rows(0, 10_000)]


def _at_socket(app: FastAPI, uid: int | None) -> Any:
    if uid is None:
        return app

    async def with_peer(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"] = {**(scope.get("extensions") or {}), "kiosk.peer": {"uid": uid, "pid": 1}}
        scope["client"] = None
        scope["server"] = ("/run/agent.sock", None)
        await app(scope, receive, send)

    return with_peer


def open_store(folder: Path, clock: Any, tables: Sequence[Projection] = ()) -> SqliteStore:
    settings = StoreSettings(
        directory=folder, reserve_mib=0, disk_low_mib=0.002, disk_resume_mib=0.003, disk_critical_mib=0.001
    )
    return SqliteStore.open(settings, clock=clock, randomness=os.urandom, projections=tables)


KioskMaker = Callable[..., Any]


@pytest.fixture
def kiosk_at(tmp_path: Path) -> KioskMaker:
    """`async with kiosk_at(clock, key=setting…) as kiosk`: open it, and again on the same folder for a restart."""

    @asynccontextmanager
    async def make(
        clock: Any = None,
        *,
        modules: Sequence[Mounted] = (),
        real_modules: Sequence[str] = (),
        routers: Sequence[Any] = (),
        **settings: Any,
    ) -> AsyncIterator[Kiosk]:
        clock = clock or TestClock()
        board, status = Board({"cashcode": CASHCODE}), Status()
        chosen = ApiSettings.model_validate({"ui_token": UI_TOKEN, **settings})
        factory = RouterFactory(MODULES)
        found = factory.discover(real_modules, {})
        store = open_store(tmp_path, clock, projections(found))
        context = Context(store, clock, os.urandom, board, require, Idempotency(store).once, trace_id)
        mounted = [*modules, *factory.build(found, context)]
        app = create_app(
            ApiParts(
                settings=chosen,
                state_dir=tmp_path,
                store=store,
                clock=clock,
                randomness=os.urandom,
                devices=board,
                status=status,
                metrics=lambda: b"kiosk_up 1\n",
                version="0.0-test",
                owner_uids=frozenset({OWNER}),
                modules=mounted,
                routers=routers,
                secrets_cost=CHEAP,
            )
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            await stack.enter_async_context(app.router.lifespan_context(app))
            for module in mounted:
                if module.parts.start and module.parts.stop:
                    await module.parts.start()
                    stack.push_async_callback(module.parts.stop)
            yield Kiosk(app, store, clock, board, status, tmp_path, chosen)

    return make


@pytest.fixture
async def kiosk(kiosk_at: KioskMaker) -> AsyncIterator[Kiosk]:
    async with kiosk_at() as made:
        yield made


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    """The app behind uvicorn on a free loopback port, as in production; its lifespan is the caller's business."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5, ws_max_size=65_536)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def live(kiosk_at: KioskMaker) -> AsyncIterator[Kiosk]:
    """A kiosk with a real clock behind a real socket."""
    from agent.runtime.clock import SystemClock

    async with kiosk_at(SystemClock(), heartbeat_s=0.2) as made, served(made.app) as port:
        made.port, made.origin = port, f"http://127.0.0.1:{port}"
        yield made
        await made.app.state.streams.close()
