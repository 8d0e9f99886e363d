"""A device that comes and goes: opened again with bounded pauses, told once, its machine always from the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from agent.domain.errors import DeviceFault, ProtocolError, StoreError, TransportError
from agent.domain.events import (
    CreditAcknowledged,
    DeviceFaulted,
    DeviceOffline,
    DeviceOnline,
    Event,
    NoteEscrowed,
    NoteStacked,
    StackRequested,
)
from agent.domain.money import Money
from agent.runtime.checks import CommitWatch
from agent.runtime.facade import Acceptor
from agent.runtime.guard import Guard
from agent.runtime.settings import RuntimeSettings
from agent.runtime.supervisor import Supervisor, Surroundings
from agent.store.journal import SqliteStore
from drivers.ports import DeviceState, Emit, Link
from tests.runtime.fakes import FakeClock, FakeDriver, FakeLink, eventually, turns

FIVE = Money(500, "EUR")
NOTE = NoteEscrowed(device="v", note_id="note-1", value=FIVE, note_code=2)
STACKED = NoteStacked(device="v", note_id="note-1", value=FIVE, note_code=2, payment_id=None)
SETTINGS = RuntimeSettings(reopen_first_ms=200, reopen_max_ms=1_000, loop_stall_ms=5_000)


class Bench:
    """One supervised fake device; `absent` is what opening its port raises."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.clock = clock
        self.guard = Guard(clock)
        self.steps: list[str] = []
        self.links: list[FakeLink] = []
        self.drivers: list[FakeDriver] = []
        self.absent: BaseException | None = None
        self.acceptor = Acceptor(self.guard.is_clear, self.steps.append)
        self.supervisor = Supervisor(
            "v",
            "fake",
            open_link=self._open,
            make_driver=self._make,
            acceptor=self.acceptor,
            around=Surroundings(
                store=store,
                clock=clock,
                randomness=lambda count: b"\x7f\xff"[:count],  # the middle: jitter is ≈ 1.0
                settings=SETTINGS,
                commits=CommitWatch(self.guard, clock, 1.0),
                on_step=self.steps.append,
            ),
        )

    async def _open(self) -> Link:
        if self.absent is not None:
            raise self.absent
        self.links.append(FakeLink())
        return self.links[-1]

    def _make(self, link: Link, emit: Emit, history: list[Event]) -> FakeDriver:
        self.drivers.append(FakeDriver("v", link, emit, history))
        return self.drivers[-1]

    @property
    def driver(self) -> FakeDriver:
        return self.drivers[-1]

    async def ready(self, count: int) -> None:
        """Wait for the `count`-th driver to have announced its device."""
        await eventually(lambda: len(self.drivers) == count and self.driver.state is not DeviceState.STARTING)
        await turns()

    async def pause(self) -> float:
        """Wait until the supervisor pauses between two attempts, let it pass, and tell how long it was."""
        await turns()
        await eventually(self.clock.waiting)
        [seconds] = self.clock.waiting()
        await self.clock.advance(seconds)
        return round(seconds, 2)


@pytest.fixture
async def bench(store: SqliteStore, clock: FakeClock) -> AsyncIterator[Bench]:
    made = Bench(store, clock)
    task = asyncio.create_task(made.supervisor.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(link.closed for link in made.links)


def of(events: list[Event], *kinds: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kinds)]


async def test_pauses_grow_to_the_bound_and_start_over_once_the_device_was_well(bench: Bench) -> None:
    await bench.ready(1)
    bench.absent = TransportError("unplugged")
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    assert [await bench.pause() for _ in range(5)] == [0.2, 0.4, 0.8, 1.0, 1.0]
    bench.absent = None
    await bench.pause()
    await bench.ready(2)
    bench.driver.orders.put_nowait(TransportError("again"))
    assert await bench.pause() == 0.2
    await bench.ready(3)


async def test_lost_once_and_back_once_in_journal_and_log(
    bench: Bench, recorded: Callable[[], list[Event]], log_lines: list[str]
) -> None:
    await bench.ready(1)
    bench.absent = TransportError("unplugged")
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    for _ in range(6):
        await bench.pause()
    assert bench.supervisor.info().state is DeviceState.OFFLINE
    assert bench.supervisor.info().detail == "unplugged"
    assert bench.supervisor.info().model == "F1", "what is known of a lost device is still told"
    bench.absent = None
    await bench.pause()
    await bench.ready(2)
    events = of(recorded(), DeviceOnline, DeviceOffline)
    assert [type(event) for event in events] == [DeviceOnline, DeviceOffline, DeviceOnline]
    told = [line for line in log_lines if "device lost" in line or "device back" in line]
    assert told == ["WARNING device lost: unplugged", "INFO device back"]
    assert bench.supervisor.reopened == 7
    assert bench.supervisor.since_us() is not None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProtocolError("speaks MDB"), "speaks MDB"),
        (DeviceFault("motor"), "device_fault: motor"),
        (ZeroDivisionError("a defect"), "internal error: ZeroDivisionError"),
    ],
)
async def test_whatever_ends_a_driver_it_is_started_again(
    bench: Bench, recorded: Callable[[], list[Event]], error: BaseException, reason: str
) -> None:
    await bench.ready(1)
    bench.driver.orders.put_nowait(error)
    await bench.pause()
    await bench.ready(2)
    assert [event.reason for event in of(recorded(), DeviceOffline) if isinstance(event, DeviceOffline)] == [reason]


async def test_a_machine_is_built_from_its_open_records(bench: Bench, store: SqliteStore) -> None:
    """Whoever comes next finds the note that is on its way, who the device was, and what is wrong with it."""
    await bench.ready(1)
    fault = DeviceFaulted(device="v", code="jam")
    bench.driver.orders.put_nowait([NOTE, fault])
    await eventually(lambda: len(bench.links[0].written) == 2)
    requested = StackRequested(device="v", note_id="note-1", payment_id=None)
    await store.record([requested], actor="module:cash_system")
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    await bench.pause()
    await bench.ready(2)
    known = [event for event in bench.driver.history if not isinstance(event, DeviceOnline)]
    assert known == [fault, NOTE, requested]
    bench.driver.orders.put_nowait([STACKED, CreditAcknowledged(device="v", note_id="note-1")])
    await eventually(lambda: len(bench.links[-1].written) == 2)
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    await bench.pause()
    await bench.ready(3)
    assert of(bench.driver.history, NoteEscrowed, NoteStacked) == []


async def test_rows_about_a_note_carry_its_id_as_trace(bench: Bench, store: SqliteStore) -> None:
    await bench.ready(1)
    bench.driver.orders.put_nowait([NOTE])
    await eventually(lambda: len(bench.links[0].written) == 2)
    with store.read() as reader:
        row = reader.rows(reader.head()[0] - 1, 1)[0]
    assert (row.trace_id, row.actor, row.subject) == ("note-1", "device:v", "device/v")


async def test_a_failed_commit_is_never_acknowledged(
    bench: Bench, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, recorded: Callable[[], list[Event]]
) -> None:
    """The store fails under a credit: no ACK leaves, and the machine that repeats it is a new one."""
    await bench.ready(1)
    bench.acceptor.enable()
    with monkeypatch.context() as failing:
        failing.setattr(store, "record", _away)
        bench.driver.orders.put_nowait([STACKED])
        await bench.pause()
    await bench.ready(2)
    assert bench.links[0].written == [b"hello"]
    assert of(recorded(), NoteStacked, DeviceOffline) == []
    assert bench.driver.verbs == [("enable", None)]


async def test_without_a_store_a_driver_only_tells_its_device_to_take_nothing(
    bench: Bench, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, recorded: Callable[[], list[Event]]
) -> None:
    """DESIGN 8: inhibit comes first. That driver gets no verbs, and nothing about money passes it."""
    await bench.ready(1)
    bench.acceptor.enable()
    with monkeypatch.context() as failing:
        failing.setattr(store, "read", _cannot_read)
        bench.driver.orders.put_nowait(TransportError("unplugged"))
        await bench.pause()
        await bench.ready(2)
        assert (bench.driver.verbs, bench.driver.history) == ([], [])
        bench.driver.orders.put_nowait([STACKED])
        await bench.pause()
        await bench.ready(3)
        assert bench.links[1].written == [b"hello"]
        assert bench.driver.verbs == []
    bench.supervisor.rebuild()
    await bench.pause()
    await bench.ready(4)
    assert bench.driver.verbs == [("enable", None)]
    assert of(recorded(), NoteStacked) == []


async def test_a_blind_driver_is_given_up_even_if_nobody_says_that_the_store_is_back(
    bench: Bench, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.ready(1)
    with monkeypatch.context() as failing:
        failing.setattr(store, "read", _cannot_read)
        bench.driver.orders.put_nowait(TransportError("unplugged"))
        await bench.pause()
        await bench.ready(2)
    await bench.clock.advance(SETTINGS.reopen_max_ms / 1000)
    await bench.pause()
    await bench.ready(3)
    assert bench.driver.verbs == [("inhibit",)]


async def test_a_rebuild_takes_the_verbs_from_the_old_machine_at_once(bench: Bench) -> None:
    await bench.ready(1)
    first = bench.driver
    first.verbs.clear()
    bench.supervisor.rebuild()
    bench.acceptor.stack("note-1", None)
    await bench.pause()
    await bench.ready(2)
    assert first.verbs == []
    assert bench.driver.verbs == [("inhibit",), ("stack", "note-1", None)]


async def test_the_trace_survives_the_driver(bench: Bench) -> None:
    await bench.ready(1)
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    await bench.pause()
    await bench.ready(2)
    assert [item.raw for item in bench.supervisor.trace()] == [b"hello", b"hello"]


async def test_a_loop_that_does_not_turn_is_noticed(bench: Bench) -> None:
    """The watchdog starves for a driver that hangs, not for one that waits for its device to come back."""
    await bench.ready(1)
    assert bench.supervisor.turns()
    await bench.clock.advance(6)
    assert not bench.supervisor.turns()
    bench.absent = TransportError("unplugged")
    bench.driver.orders.put_nowait(TransportError("unplugged"))
    await bench.pause()
    await eventually(bench.clock.waiting)
    assert bench.supervisor.turns()


async def test_steps_have_names_for_the_crash_tests(bench: Bench) -> None:
    await bench.ready(1)
    bench.driver.orders.put_nowait([NOTE])
    bench.driver.orders.put_nowait([STACKED])
    bench.driver.orders.put_nowait([CreditAcknowledged(device="v", note_id="note-1")])
    await eventually(lambda: len(bench.links[0].written) == 4)
    assert bench.steps == [
        "escrow_received",
        "escrow_recorded",
        "stacked_received",
        "stacked_committed",
        "acked",
        "closed",
    ]


async def _away(*_arguments: object, **_named: object) -> None:
    raise StoreError("away")


def _cannot_read() -> None:
    raise StoreError("away")
