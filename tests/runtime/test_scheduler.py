"""The bell rings, also after a job has failed; the stop signals wind down first."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from agent.domain.errors import ConfigError
from agent.runtime import steps
from agent.runtime.scheduler import Every, Scheduler
from agent.runtime.signals import StopSignals
from tests.runtime.fakes import eventually


async def test_a_job_that_fails_is_told_once_and_rings_again(log_lines: list[str]) -> None:
    calls = 0

    async def job() -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise ValueError("a defect")

    scheduler = Scheduler([Every("checks", 0.02, job)])
    await scheduler.start()
    try:
        await eventually(lambda: calls > 5)
    finally:
        await scheduler.stop()
        await scheduler.stop()
    told = [line for line in log_lines if line.startswith(("ERROR job", "INFO job"))]
    assert [line.split(":")[0] for line in told] == ["ERROR job failed", "INFO job works again"]
    seen = calls
    await asyncio.sleep(0.1)
    assert calls == seen


@pytest.fixture
def server_signals() -> Iterator[list[int]]:
    """A server that handles SIGTERM, as uvicorn does before our lifespan begins."""
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    yield caught
    signal.signal(signal.SIGTERM, before)


async def test_the_server_hears_of_a_signal_after_the_agent_wound_down(server_signals: list[int]) -> None:
    order: list[object] = []
    done = asyncio.Event()

    async def wind_down(reason: str) -> None:
        order.append((reason, list(server_signals)))
        await done.wait()

    signals = StopSignals(wind_down)
    signals.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: order)
        assert order == [("SIGTERM", [])]
        done.set()
        await eventually(lambda: server_signals)
        assert signals.reason == "SIGTERM"
    finally:
        signals.remove()


async def test_a_second_signal_does_not_wait(server_signals: list[int]) -> None:
    """An impatient person gets out even if something hangs on its way down."""

    async def hangs(reason: str) -> None:
        await asyncio.sleep(60)

    signals = StopSignals(hangs)
    signals.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: server_signals == [signal.SIGTERM])
    finally:
        signals.remove()
        assert signals._task is not None
        signals._task.cancel()
        await asyncio.gather(signals._task, return_exceptions=True)


def test_steps_are_inert_unless_one_is_named() -> None:
    assert steps.from_environment({}) is steps.quiet
    steps.quiet("acked")
    for wrong in ("nowhere", "acked:0", "acked:x", ":1"):
        with pytest.raises(ConfigError, match="KIOSK_FAULT_POINT"):
            steps.from_environment({steps.VARIABLE: wrong})


def test_the_named_step_ends_the_process_at_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    on_step = steps.from_environment({steps.VARIABLE: "acked:2"})
    for step in ("acked", "closed", "closed"):
        on_step(step)
    assert killed == []
    on_step("acked")
    assert killed == [(os.getpid(), signal.SIGKILL)]
