"""A cash module on a real store, with acceptors that the test moves by hand and a clock that only the test moves.

The acceptor here stands where a driver does (`NoteAcceptor`, domain events), so that a test can order every outcome,
including those that take a real device minutes. The same service with the CCNET driver: test_ccnet.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from agent.api.app import ApiParts, create_app
from agent.api.auth.caller import require
from agent.api.auth.secrets import Cost
from agent.api.idempotency import Idempotency
from agent.api.module import Answer, Context, Devices
from agent.api.ports import PartState
from agent.api.router_factory import Mounted
from agent.api.settings import ApiSettings
from agent.api.trace import trace_id
from agent.domain import events as ev
from agent.domain import payments
from agent.domain.events import Denomination, Event
from agent.domain.ids import uuid7
from agent.domain.money import Money
from agent.domain.payments import Payment
from agent.domain.wire import event_of
from agent.store.journal import SqliteStore
from agent.store.settings import StoreSettings
from drivers.ports import DeviceInfo, DeviceState, NoteAcceptor, TraceItem
from modules.cash_system import queries
from modules.cash_system.module import build
from modules.cash_system.projections import CashProjection, payment_of
from modules.cash_system.schemas import PaymentIn, PaymentOptionsIn, PaymentOut, ReasonIn, ResolveIn
from modules.cash_system.service import CashService, Work
from modules.cash_system.settings import CashSettings

ORIGIN = "http://127.0.0.1:8005"
UI_TOKEN = "ui-token-of-the-tests-0123456789abcdef"
OWNER = 1000
EPOCH_US = 1_790_000_000_000_000
EURO = (500, 1000, 2000, 5000, 10000)


def eur(minor: int) -> Money:
    return Money(minor, "EUR")


class HandClock:
    """Time stands still until `pass_by`; sleepers wake in order of their deadlines."""

    def __init__(self) -> None:
        self._monotonic = 1000.0
        self.wall_us = EPOCH_US
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._monotonic

    def now_us(self) -> int:
        return self.wall_us

    async def sleep_until(self, deadline: float) -> None:
        if deadline <= self._monotonic:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (deadline, woken)
        self._sleepers.append(entry)
        try:
            await woken
        finally:
            self._sleepers.remove(entry)

    def forward(self, seconds: float) -> None:
        self._monotonic += seconds
        self.wall_us += round(seconds * 1_000_000)
        for deadline, woken in list(self._sleepers):
            if deadline <= self._monotonic and not woken.done():
                woken.set_result(None)

    async def quiet(self) -> None:
        """Return when the timer task sleeps again: it has done all that this moment asked for."""
        for _ in range(20_000):
            await asyncio.sleep(0.0005)
            if any(not woken.done() for _, woken in self._sleepers):
                return
        raise AssertionError("the timers never came to rest")

    def jump(self, seconds: float) -> None:
        """The wall clock is set; time itself goes on as before."""
        self.wall_us += round(seconds * 1_000_000)


class HandAcceptor:
    """A device at the port's height. `enabled`: what it was told to take, None when inhibited. Notes that were
    stacked lie in `box`; what the customer got back is in `returned`."""

    def __init__(self, name: str, table: Sequence[Denomination]) -> None:
        self.name = name
        self.state = DeviceState.READY
        self.table = tuple(table)
        self.enabled: Any = False
        self.escrow: tuple[str, Money | None] | None = None
        self.told: list[tuple[str, str, str | None]] = []  # (verb, note, payment)
        self.box: Counter[Money] = Counter()
        self.returned: Counter[Money] = Counter()
        self.unreported: list[Event] = []  # happened, and not acknowledged by the host yet: said again after a cut

    def enable(self, notes: frozenset[Money] | None = None) -> None:
        self.enabled = notes

    def inhibit(self) -> None:
        self.enabled = False

    def stack(self, note_id: str, payment_id: str | None) -> None:
        self.told.append(("stack", note_id, payment_id))

    def return_note(self, note_id: str) -> None:
        self.told.append(("return", note_id, None))

    def hold(self, note_id: str) -> None:
        self.told.append(("hold", note_id, None))

    @property
    def asked(self) -> tuple[str, str | None] | None:
        """(verb, payment) that the note in escrow was last told; None when nothing was."""
        if self.escrow is None:
            return None
        return next(((verb, payment) for verb, note, payment in reversed(self.told) if note == self.escrow[0]), None)

    def info(self) -> DeviceInfo:
        return DeviceInfo(state=self.state, protocol="hand", table=self.table)


class HandDevices(Devices):
    def __init__(self, *acceptors: HandAcceptor) -> None:
        self.acceptors = {each.name: each for each in acceptors}
        self.reasons: list[str] = []

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]:
        return dict(self.acceptors)

    def info(self, name: str) -> DeviceInfo:
        return self.acceptors[name].info()

    def accepting_allowed(self) -> bool:
        return not self.reasons

    def inhibit_reasons(self) -> Sequence[str]:
        return list(self.reasons)

    def names(self) -> Sequence[str]:
        return list(self.acceptors)

    def port(self, name: str) -> str:
        return f"/dev/{name}"

    def trace(self, name: str) -> Sequence[TraceItem]:
        return ()


class Well:
    """The rest of the agent, in health."""

    def parts(self) -> Sequence[PartState]:
        return [PartState("store", ok=True, required=True)]


def table_of(currency: str = "EUR", values: Sequence[int] = EURO) -> list[Denomination]:
    return [Denomination(code=code, value=Money(minor, currency)) for code, minor in enumerate(values)]


class Rig:
    """Everything around one run of the module; `restart` ends the run as a crash would and begins the next."""

    def __init__(self, folder: Path, *, seed: int = 1, **settings: Any) -> None:
        self.clock = HandClock()
        self.randomness = random.Random(seed).randbytes
        self.settings = CashSettings(**settings)
        self.acceptor = HandAcceptor("cashcode", table_of())
        self.second = HandAcceptor("second", table_of())
        self.devices = HandDevices(self.acceptor, self.second)
        self.folder = folder
        self.cursor = 0
        self.store: SqliteStore
        self.service: CashService

    async def open(self) -> None:
        self.store = await asyncio.to_thread(
            SqliteStore.open,
            StoreSettings(
                directory=self.folder,
                wal_size_mib=0.25,
                reserve_mib=0,
                disk_critical_mib=0,
                disk_low_mib=0.001,
                disk_resume_mib=0.002,
            ),
            clock=self.clock,
            randomness=self.randomness,
            projections=[CashProjection()],
        )
        context = Context(
            store=self.store,
            clock=self.clock,
            randomness=self.randomness,
            devices=self.devices,
            require=require,
            once=Idempotency(self.store).once,
            trace_id=trace_id,
        )
        self.parts = build(context, self.settings)
        self.service = service_of(self.parts.start)
        assert self.parts.start is not None
        await self.parts.start()

    async def close(self) -> None:
        assert self.parts.stop is not None
        await self.parts.stop()
        await self.store.close()

    async def restart(self, *, seconds: float = 3.0, forget_cursor: bool = False) -> None:
        """The process ends without a word and begins again; the device keeps its note. `forget_cursor`: all rows come
        to the handlers once more."""
        await self.service.stop()
        await self.store.close()
        self.clock.forward(seconds)
        self.acceptor.inhibit()
        self.second.inhibit()
        if forget_cursor:
            self.cursor = 0
        await self.open()
        await self.pump()

    def http(self, peer_uid: int | None = None) -> httpx.AsyncClient:
        """The kiosk's own page; with `peer_uid` a program on the control socket. Paths are below `/api/v1`."""
        app = create_app(
            ApiParts(
                settings=ApiSettings(ui_token=SecretStr(UI_TOKEN)),
                state_dir=self.folder,
                store=self.store,
                clock=self.clock,
                randomness=self.randomness,
                devices=self.devices,
                status=Well(),
                metrics=lambda: b"",
                version="0",
                owner_uids=frozenset({OWNER}),
                modules=[Mounted("cash_system", "cash", self.parts)],
                secrets_cost=Cost(memory_kib=8, passes=1, lanes=1),
            )
        )

        async def at_socket(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"] = {"kiosk.peer": {"uid": peer_uid, "pid": 1}}
            await app(scope, receive, send)

        transport = httpx.ASGITransport(app if peer_uid is None else at_socket, raise_app_exceptions=False)
        headers = {} if peer_uid is not None else {"Origin": ORIGIN}
        return httpx.AsyncClient(transport=transport, base_url=f"{ORIGIN}/api/v1", headers=headers)

    # --- what the bus does

    async def pump(self) -> None:
        """Hand every new row to its handler, until there are none."""
        while True:
            with self.store.read() as reader:
                rows = reader.rows(self.cursor, 100)
            if not rows:
                return
            for row in rows:
                event = event_of(row)
                if (handler := self.parts.handlers.get(type(event))) is not None:
                    await handler(row, event)
                self.cursor = row.seq

    async def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, with every timer task getting its turns."""
        left = seconds
        while left > 0:
            self.clock.forward(min(left, step))
            left -= step
            await self.clock.quiet()
            await self.pump()

    async def record(self, *events: Event, actor: str = "device:cashcode") -> None:
        await self.store.record(events, actor=actor, trace_id=events[0].record() or "")
        await self.pump()

    # --- what the UI does

    async def run(self, work: Work, actor: str = "ui") -> Answer:
        return await self.store.transact(work, actor=actor)

    async def create(self, minor: int, currency: str = "EUR", **options: Any) -> str:
        request = PaymentIn(amount_minor=minor, currency=currency, reference="r", options=PaymentOptionsIn(**options))
        status, body = await self.run(self.service.creating(request))
        assert status == 201
        self.service.follow()
        await self.pump()
        return str(body["id"])

    async def cancel(self, payment_id: str) -> Answer:
        answer = await self.run(self.service.cancelling(payment_id, ReasonIn(reason="customer")))
        await self.service.settle(payment_id)
        await self.pump()
        return answer

    async def finish(self, payment_id: str) -> Answer:
        answer = await self.run(self.service.finishing(payment_id))
        await self.service.settle(payment_id)
        await self.pump()
        return answer

    async def extend(self, payment_id: str) -> Answer:
        answer = await self.run(self.service.extending(payment_id))
        self.service.follow()
        return answer

    async def resolve(self, doubt_id: str, outcome: str, **more: Any) -> Answer:
        finding = ResolveIn.model_validate({"outcome": outcome, "reason": "counted", **more})
        answer = await self.run(self.service.resolving(doubt_id, finding), actor="user:anna")
        await self.pump()
        return answer

    # --- what the customer and the device do

    async def insert(self, minor: int, currency: str = "EUR", acceptor: HandAcceptor | None = None) -> str:
        """A note reaches escrow; returns its id."""
        device = acceptor or self.acceptor
        assert device.escrow is None, "the bezel is occupied"
        note_id = str(uuid7(self.clock.now_us() // 1000, self.randomness(10)))
        value = Money(minor, currency) if minor else None
        device.escrow = (note_id, value)
        await self.report(device, ev.NoteEscrowed(device=device.name, note_id=note_id, value=value, note_code=1))
        return note_id

    async def report(self, device: HandAcceptor, *events: Event) -> None:
        """The device says it until the host has it on the disk."""
        device.unreported = list(events)
        await self.store.record(events, actor=f"device:{device.name}", trace_id=events[0].record() or "")
        device.unreported = []
        await self.pump()

    async def obey(self, acceptor: HandAcceptor | None = None) -> str | None:
        """The device does what it was told with the note in escrow; returns the verb."""
        device = acceptor or self.acceptor
        if device.escrow is None or device.asked is None:
            return None
        verb, payment_id = device.asked
        (note_id, value), device.escrow = device.escrow, None
        if verb == "stack":
            assert value is not None
            await self.stacked(note_id, value, payment_id, device)
        else:
            if value is not None:
                device.returned[value] += 1
            await self.report(device, ev.NoteReturned(device=device.name, note_id=note_id, value=value))
        return verb

    async def stacked(
        self, note_id: str, value: Money, payment_id: str | None, device: HandAcceptor | None = None
    ) -> None:
        """The credit point, and the device moves on."""
        device = device or self.acceptor
        device.box[value] += 1
        await self.report(
            device,
            ev.NoteStacked(device=device.name, note_id=note_id, value=value, note_code=1, payment_id=payment_id),
            ev.CreditAcknowledged(device=device.name, note_id=note_id),
        )

    async def pay(self, minor: int, currency: str = "EUR", acceptor: HandAcceptor | None = None) -> str | None:
        """Insert a note and let the device obey."""
        await self.insert(minor, currency, acceptor)
        return await self.obey(acceptor)

    async def doubt(self, acceptor: HandAcceptor | None = None, *, in_box: bool = True) -> str:
        """The device cannot say where the note that it was asked to stack is; in truth it is in the box or not."""
        device = acceptor or self.acceptor
        assert device.escrow is not None and device.asked is not None
        (note_id, value), payment_id = device.escrow, device.asked[1]
        device.escrow = None
        if in_box and value is not None:
            device.box[value] += 1
        await self.report(
            device,
            ev.DoubtOpened(
                device=device.name,
                doubt_id=note_id,
                amount=value,
                payment_id=payment_id,
                reason="idle_after_stack",
                evidence=("host 02 STACK", "device 02 IDLING"),
            ),
        )
        return note_id

    # --- what the books say

    def payment(self, payment_id: str) -> PaymentOut:
        return self.service.payment(payment_id)

    def state(self, payment_id: str) -> str:
        return self.payment(payment_id).state.value

    def types(self) -> list[str]:
        """Types of all journal rows."""
        with self.store.read() as reader:
            return [row.type for row in reader.rows(0, 10_000)]

    def events(self, kind: type[Event]) -> list[Any]:
        with self.store.read() as reader:
            return [event for row in reader.rows(0, 10_000) if isinstance(event := event_of(row), kind)]

    def claims(self, payment_id: str) -> list[tuple[int, str, str]]:
        with self.store.read() as reader:
            rows = queries.claims_of(reader, payment_id)
        return [(row["amount_minor"], row["currency"], row["reason"]) for row in rows]

    def balances(self) -> dict[tuple[str, str], tuple[int, int]]:
        with self.store.read() as reader:
            rows = queries.balances(reader)
        return {(row["account"], row["currency"]): (row["posted_minor"], row["pending_minor"]) for row in rows}

    def reduced(self) -> dict[str, Payment]:
        """All payments, from the journal by the pure reducer alone."""
        found: dict[str, Payment] = {}
        with self.store.read() as reader:
            events = [event_of(row) for row in reader.rows(0, 100_000)]
        for event in events:
            if isinstance(event, ev.PaymentCreated):
                found[event.payment_id] = payments.create(event)
            elif (payment_id := getattr(event, "payment_id", None)) in found:
                found[payment_id] = payments.apply(found[payment_id], event)
        return found

    def check_books(self) -> None:
        """What must hold at every moment, whatever happened."""
        balances = self.balances()
        for currency in {currency for _, currency in balances}:
            assert sum(posted for (_, of), (posted, _) in balances.items() if of == currency) == 0
            assert sum(pending for (_, of), (_, pending) in balances.items() if of == currency) == 0
        with self.store.read() as reader:
            rows = reader.all("SELECT * FROM payments")
            assert sum(row["open"] for row in rows) <= 1
            units = {(row["unit"], row["currency"]): 0 for row in queries.unit_contents(reader)}
            for row in queries.unit_contents(reader):
                units[row["unit"], row["currency"]] += row["value_minor"] * row["count"]
        assert {row["id"]: payment_of(row) for row in rows} == self.reduced()
        for row in rows:
            assert min(row["collected_minor"], row["claimed_minor"], row["in_doubt_minor"], row["paid_minor"]) >= 0
            if not row["open"]:
                assert row["collected_minor"] == row["claimed_minor"] + row["paid_minor"], dict(row)
                assert row["state"] != "completed" or row["paid_minor"] > 0
        assert units == {
            key: balances[key][0] for key in balances if key[0].startswith("stacker:") and balances[key][0]
        }


def service_of(method: Callable[..., Any] | None) -> CashService:
    """The service behind one of its own methods in `Parts`."""
    service = getattr(method, "__self__", None)
    assert isinstance(service, CashService)
    return service


@asynccontextmanager
async def rig(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    made = Rig(folder, **settings)
    await made.open()
    try:
        yield made
        made.check_books()
    finally:
        await made.close()
