"""The disk refuses in the middle of a payment: nothing is acknowledged, the validator is told to take nothing, and when
the disk is back the note is there once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from agent.domain import events as ev
from agent.domain.errors import StoreError
from agent.main import build_agent
from agent.runtime import guard as reasons
from agent.runtime.agent import Agent
from drivers.ports import DeviceState
from drivers.simulation import running_simulator
from tests.crash.vfs import FailingVfs, Kind
from tests.runtime.fakes import eventually
from tests.runtime.test_agent import about_acceptance, enabled, journal, settings

_NUMBERS = itertools.count(1)
SLOW = {"speed": "2"}  # a note stays in escrow for five seconds


@pytest.fixture
def disk() -> Iterator[FailingVfs]:
    vfs = FailingVfs(f"runtime-failing-{next(_NUMBERS)}")
    yield vfs
    vfs.unregister()


def refuse(disk: FailingVfs) -> None:
    disk.order = lambda kind, _file: apsw.IOError if kind is Kind.SYNC else None


def heal(disk: FailingVfs) -> None:
    disk.order = lambda _kind, _file: None


async def recovered(agent: Agent) -> None:
    """Both rows are there: the cause is gone and was told."""
    wanted = [("AcceptanceInhibited", reasons.STORE_FAILED), ("AcceptanceResumed", reasons.STORE_FAILED)]
    await eventually(lambda: agent.store.health().failed is None and about_acceptance(agent) == wanted, 30)


async def test_a_credit_that_cannot_be_written_is_not_acknowledged_and_comes_again(
    tmp_path: Path, disk: FailingVfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails at the very commit that the ACK of the credit event waits for."""

    steps: list[str] = []

    def on_step(step: str) -> None:
        steps.append(step)
        if step == "stacked_received" and steps.count(step) == 1:
            refuse(disk)

    monkeypatch.setattr("agent.runtime.steps.from_environment", lambda _environ: on_step)
    async with running_simulator("ccnet", link=f"pty:{tmp_path}/validator", settings=SLOW) as simulator:
        agent = await build_agent(settings(tmp_path), environ={}, vfs=disk.name)
        await agent.start()
        await agent.ready()
        try:
            await enabled(agent)
            await simulator.insist("insert 50")
            await eventually(lambda: any(isinstance(event, ev.NoteEscrowed) for event in journal(agent)))
            note = next(event for event in journal(agent) if isinstance(event, ev.NoteEscrowed))
            wanted = ev.StackRequested(device="validator", note_id=note.note_id, payment_id=None)
            await agent.store.record([wanted], actor="module:test")
            agent.devices.note_acceptors()["validator"].stack(note.note_id, None)
            await eventually(lambda: agent.guard.has(reasons.STORE_FAILED), 20)
            assert simulator.truth()["state"] == "BILL STACKED", "the device still waits for its ACK"
            assert agent.devices.inhibit_reasons() == [reasons.STORE_FAILED]
            heal(disk)
            await recovered(agent)
            await eventually(lambda: any(isinstance(event, ev.CreditAcknowledged) for event in journal(agent)), 20)
            await eventually(lambda: agent.devices.info("validator").state is DeviceState.ACTIVE, 20)
            stacked = [event for event in journal(agent) if isinstance(event, ev.NoteStacked)]
            assert [event.note_id for event in stacked] == [note.note_id]
            assert simulator.truth()["stacked_minor"] == {"RUB": 50_00}
        finally:
            await agent.stop()


async def test_an_idle_validator_is_disabled_while_the_journal_cannot_be_written(
    tmp_path: Path, disk: FailingVfs
) -> None:
    """Also when its port is opened again in the meantime, by a driver that has no journal to start from."""
    async with running_simulator("ccnet", link=f"pty:{tmp_path}/validator", settings={"speed": "20"}) as simulator:
        agent = await build_agent(settings(tmp_path), environ={}, vfs=disk.name)
        await agent.start()
        await agent.ready()
        try:
            await enabled(agent)
            refuse(disk)
            with pytest.raises(StoreError):
                await agent.store.record([ev.StackerRemoved(device="validator")], actor="test")
            await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED")
            await simulator.command("power-cut")
            await simulator.command("power-on")
            agent.devices.rebuild()
            await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED", 20)
            heal(disk)
            await recovered(agent)
            await simulator.until(lambda truth: truth["state"] == "IDLING", 20)
            assert not any(isinstance(event, ev.StackerRemoved) for event in journal(agent))
        finally:
            await agent.stop()
