"""The agent in this process: start order, the guard at work on a real validator, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.domain import events as ev
from agent.domain.errors import NotFound, StoreError
from agent.domain.wire import event_of
from agent.main import build_agent, make_api, open_store, running
from agent.runtime import guard as reasons
from agent.runtime.agent import Agent
from agent.runtime.clock import SystemClock
from agent.settings import AgentSettings
from agent.store.space import Space
from drivers.ports import DeviceState
from drivers.simulation import RunningSimulator, running_simulator
from tests.runtime.daemon import FAST
from tests.runtime.fakes import eventually

YEAR_US = 365 * 24 * 3_600_000_000


class ShiftedClock(SystemClock):
    """The system's clock with a wall clock that somebody set wrong."""

    def __init__(self, shift_us: int = 0) -> None:
        self.shift_us = shift_us

    def now_us(self) -> int:
        return super().now_us() + self.shift_us


def settings(folder: Path, **runtime: int) -> AgentSettings:
    store = {"wal_size_mib": 1, "reserve_mib": 0, "disk_low_mib": 2, "disk_resume_mib": 3, "disk_critical_mib": 1}
    device = {"poll_idle_ms": 20, "poll_interval_ms": 20}
    return AgentSettings.model_validate(
        {
            "store": {"directory": folder / "state", **store},
            "runtime": {"check_interval_ms": 50, "reopen_max_ms": 400, **runtime},
            "devices": {"validator": {"protocol": "ccnet", "port": f"{folder}/validator", "settings": device}},
        }
    )


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[RunningSimulator]:
    async with running_simulator("ccnet", link=f"pty:{tmp_path}/validator", settings=FAST) as found:
        yield found


@asynccontextmanager
async def started(folder: Path, clock: SystemClock | None = None, **runtime: int) -> AsyncIterator[Agent]:
    agent = await build_agent(settings(folder, **runtime), environ={}, clock=clock)
    await agent.start()
    await agent.ready()
    try:
        yield agent
    finally:
        await agent.stop()


def state(agent: Agent) -> DeviceState:
    return agent.devices.info("validator").state


async def enabled(agent: Agent) -> None:
    """The validator takes notes."""
    await eventually(lambda: state(agent) is DeviceState.READY, 20)
    agent.devices.note_acceptors()["validator"].enable()
    await eventually(lambda: state(agent) is DeviceState.ACTIVE)


def journal(agent: Agent) -> list[ev.Event]:
    with agent.store.read() as reader:
        return [event_of(row) for row in reader.rows(0, 1_000)]


def about_acceptance(agent: Agent) -> list[tuple[str, str]]:
    kinds = (ev.AcceptanceInhibited, ev.AcceptanceResumed)
    return [(type(event).__name__, event.reason) for event in journal(agent) if isinstance(event, kinds)]


def two_slow_commits(agent: Agent) -> None:
    for _ in range(2):
        agent.commits.took(9)


Trouble = tuple[str, Callable[[Agent, ShiftedClock], None], Callable[[Agent, ShiftedClock], None]]
TROUBLES: list[Trouble] = [
    (
        reasons.DISK_LOW,
        lambda agent, clock: agent.space_changed(Space.LOW, 1 << 20),
        lambda agent, clock: agent.space_changed(Space.AMPLE, 1 << 30),
    ),
    (
        reasons.STORE_FAILED,
        lambda agent, clock: agent.store_failed("EIO"),
        lambda agent, clock: agent.store_recovered(),
    ),
    (
        reasons.CLOCK_ABSURD,
        lambda agent, clock: setattr(clock, "shift_us", 2 * YEAR_US),
        lambda agent, clock: setattr(clock, "shift_us", 0),
    ),
    (
        reasons.COMMITS_SLOW,
        lambda agent, clock: two_slow_commits(agent),
        lambda agent, clock: None,  # the next check measures a real commit
    ),
]


@pytest.mark.parametrize(("reason", "begin", "end"), TROUBLES, ids=[each[0] for each in TROUBLES])
async def test_trouble_inhibits_the_device_itself_and_passes(
    tmp_path: Path,
    simulator: RunningSimulator,
    reason: str,
    begin: Callable[[Agent, ShiftedClock], None],
    end: Callable[[Agent, ShiftedClock], None],
) -> None:
    """Promise 5, seen from the validator: disabled at once, enabled again by itself, both in the journal."""
    clock = ShiftedClock()
    async with started(tmp_path, clock) as agent:
        await enabled(agent)
        begin(agent, clock)
        await eventually(lambda: (ev.AcceptanceInhibited.__name__, reason) in about_acceptance(agent))
        if reason != reasons.COMMITS_SLOW:
            assert list(agent.devices.inhibit_reasons()) == [reason]
            assert not agent.devices.accepting_allowed()
            await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED")
            assert [part.code for part in agent.parts() if part.required and not part.ok] == [reason]
        end(agent, clock)
        await eventually(lambda: (ev.AcceptanceResumed.__name__, reason) in about_acceptance(agent))
        assert agent.devices.accepting_allowed()
        await simulator.until(lambda truth: truth["state"] == "IDLING")


async def test_a_restart_under_an_absurd_clock_does_not_believe_its_own_rows(tmp_path: Path) -> None:
    """The rows written meanwhile carry the absurd time; what was believed before them is what counts."""
    async with started(tmp_path):
        pass
    for _ in range(2):
        async with started(tmp_path, ShiftedClock(2 * YEAR_US)) as agent:
            assert agent.guard.has(reasons.CLOCK_ABSURD)
    async with started(tmp_path) as agent:
        assert agent.devices.accepting_allowed()
        assert about_acceptance(agent) == [
            ("AcceptanceInhibited", reasons.CLOCK_ABSURD),
            ("AcceptanceResumed", reasons.CLOCK_ABSURD),
        ]
    async with started(tmp_path, ShiftedClock(2 * YEAR_US)) as agent:
        agent.accept_clock()
        assert agent.devices.accepting_allowed()


async def test_rows_that_were_acknowledged_and_are_gone_stop_money(tmp_path: Path) -> None:
    """A journal cut behind our back is found at the start, told, and nothing is taken on top of it."""
    async with started(tmp_path) as agent:
        folder = agent.store.path.parent
        keep = {path.name: path.read_bytes() for path in folder.glob("journal.db*")}
        await agent.store.record([ev.StackerRemoved(device="validator")], actor="device:validator")
    for path in folder.glob("journal.db*"):
        path.unlink()
    for name, content in keep.items():
        (folder / name).write_bytes(content)
    async with started(tmp_path) as agent:
        assert agent.guard.has(reasons.JOURNAL_DAMAGED)
        assert [part.name for part in agent.parts() if not part.ok and part.required] == ["journal"]


async def test_a_note_on_its_way_holds_up_the_stop_no_longer_than_allowed(
    tmp_path: Path, simulator: RunningSimulator
) -> None:
    """Nobody decides on it: the stop is bounded, and the journal keeps its record open for the next start."""
    async with started(tmp_path, settle_timeout_ms=300) as agent:
        agent.bus._subscriptions.clear()
        await enabled(agent)
        await simulator.insist("insert 50")
        await eventually(lambda: any(isinstance(event, ev.NoteEscrowed) for event in journal(agent)))
        async with asyncio.timeout(5):
            await agent.wind_down("test")
    store = await asyncio.to_thread(open_store, settings(tmp_path))
    with store.read() as reader:
        assert [type(event) for event in reader.open_events("validator")] == [ev.NoteEscrowed]
    await store.close()


async def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Agent) -> None:
        raise StoreError("the start fails")

    with monkeypatch.context() as broken:
        broken.setattr(Agent, "start", fails)
        with pytest.raises(StoreError, match="the start fails"):
            async with running(settings(tmp_path), {}):
                raise AssertionError("it must not get here")
    async with started(tmp_path) as agent:
        assert agent.devices.names() == ["validator"]


async def test_metrics_tell_store_devices_handlers_and_guard(tmp_path: Path, simulator: RunningSimulator) -> None:
    async with started(tmp_path) as agent:
        await enabled(agent)
        agent.guard.set(reasons.DISK_LOW, "full")
        app = make_api(settings(tmp_path), agent)
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8005") as client:
            text = (await client.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['kiosk_device_state{device="validator",state="active"}'] == "1.0"
    assert values['kiosk_device_state{device="validator",state="offline"}'] == "0.0"
    assert float(values['kiosk_device_events_total{counter="poll",device="validator"}']) > 0
    assert values['kiosk_acceptance_inhibited{reason="disk_low"}'] == "1.0"
    assert values['kiosk_acceptance_inhibited{reason="store_failed"}'] == "0.0"
    assert values['kiosk_handler_lag_rows{subscriber="cash_system"}'] == "0.0"
    assert float(values["kiosk_journal_head_seq"]) >= 3
    assert values["kiosk_store_failed"] == "0.0"
    assert values["kiosk_sync_enrolled"] == "0.0"


async def test_what_a_device_board_answers(tmp_path: Path, simulator: RunningSimulator) -> None:
    async with started(tmp_path) as agent:
        await enabled(agent)
        board = agent.devices
        assert board.port("validator") == f"{tmp_path}/validator"
        assert board.since_us("validator") is not None
        assert board.reopened("validator") == 0
        assert board.trace("validator")
        assert agent.hangs() == []
        calls: list[Any] = [board.info, board.port, board.trace, board.since_us, board.reopened]
        for call in calls:
            with pytest.raises(NotFound, match="configured are: validator"):
                call("nobody")


async def test_a_hanging_store_starves_the_watchdog(tmp_path: Path) -> None:
    async with started(tmp_path) as agent:
        agent.commits.answered_at -= agent.settings.loop_stall_ms / 1000 + 1
        assert "store" in agent.hangs()
        await agent.check()
        assert agent.hangs() == []
