"""The daemon as systemd starts it: a real process, a real store, a validator on a pty."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.main import open_store
from agent.settings import load
from tests.runtime.daemon import Kiosk, kiosk
from tests.runtime.test_agent import ShiftedClock


def stacked(found: list[ev.Event]) -> list[ev.NoteStacked]:
    return [event for event in found if isinstance(event, ev.NoteStacked)]


async def insert(present: Kiosk, value: int) -> None:
    await present.simulator.insist(f"insert {value}")


async def test_a_note_is_paid_and_a_stop_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM with an event stream open and a note on its way: it settles, ends the stream, leaves with status 0."""
    async with kiosk(tmp_path) as present:
        await present.start()
        async with present.page() as page:
            payment = await present.pay(page, 50_00, "first")
            await insert(present, 50)
            await present.until(lambda: present.payment_state(page, payment), "completed")
            await present.pay(page, 100_00, "second")
            await insert(present, 50)
            async with page.stream("GET", "/api/v1/events", timeout=20) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                assert await present.end() == 0
                async for _ in lines:
                    pass
        assert present.simulator.truth()["state"] == "UNIT DISABLED"
        found = present.events()
        assert sum(event.value.minor for event in stacked(found)) == present.simulator.truth()["stacked_minor"]["RUB"]
        assert found[-1] == ev.AgentStopped(reason="SIGTERM")
        assert not (present.state / "agent.sock").exists()
        assert stat.S_IMODE(present.state.stat().st_mode) == 0o700
        code, out, _ = await present.run("journal", "verify")
        assert code == 0, out


async def test_unplugged_and_plugged_in_again_is_told_once_each(tmp_path: Path) -> None:
    """The payment that was open goes on with the validator that came back."""
    async with kiosk(tmp_path) as present:
        await present.start()
        async with present.page() as page:
            payment = await present.pay(page, 100_00, "one")
            await insert(present, 50)
            await present.simulator.until(lambda truth: truth["stacked_minor"].get("RUB") == 50_00)
            await present.simulator.unplug()
            await present.ready(page, "offline")
            await asyncio.sleep(1.5)  # several attempts
            present.simulator.plug()
            await present.ready(page, "active")
            await insert(present, 50)
            await present.until(lambda: present.payment_state(page, payment), "completed")
        await present.end()
        found = present.events()
        assert len(stacked(found)) == 2
        changes = [type(event) for event in found if isinstance(event, ev.DeviceOnline | ev.DeviceOffline)]
        assert changes == [ev.DeviceOnline, ev.DeviceOffline, ev.DeviceOnline]
        told = [
            line["event"] for line in present.log_lines() if line["event"].startswith(("device lost", "device back"))
        ]
        assert [line.split(":")[0] for line in told] == ["device lost", "device back"]


LONG = [pytest.param(point, marks=pytest.mark.proof) for point in ("stack_requested", "stack_sent", "acked", "closed")]


@pytest.mark.parametrize("point", ["escrow_recorded", "stacked_received", "stacked_committed", *LONG])
async def test_killed_at_a_named_step_the_note_is_there_once(tmp_path: Path, point: str) -> None:
    """Box and journal agree after the restart, whatever the moment; the payment completes with that one note."""
    async with kiosk(tmp_path) as present:
        await present.start({"KIOSK_FAULT_POINT": point})
        async with present.page() as page:
            payment = await present.pay(page, 50_00, "one")
            await insert(present, 50)
            assert await present.ended() == -signal.SIGKILL
        await present.start()
        async with present.page() as page:
            if point == "escrow_recorded":  # nobody told the device to keep it: it went back, and comes again
                await present.ready(page, "active")
                await insert(present, 50)
            await present.until(lambda: present.payment_state(page, payment), "completed")
        assert await present.end() == 0
        [note] = stacked(present.events())
        assert note.value.minor == present.simulator.truth()["stacked_minor"]["RUB"] == 50_00
        assert note.payment_id == payment


async def test_a_second_start_names_the_first_and_the_socket_is_for_this_account(tmp_path: Path) -> None:
    """Also on another port: it is the state directory that there can be only one agent for."""
    async with kiosk(tmp_path) as present:
        await present.start()
        assert present.process is not None
        for extra in ({}, {"KIOSK_API__PORT": str(present.port + 1)}):
            code, _, err = await present.run("agent", extra=extra)
            assert code == 2
            last = err.splitlines()[-1]
            assert last.startswith("error: ")
            assert f"pid {present.process.pid}" in last
            assert "Traceback" not in err
        info = (present.state / "agent.sock").stat()
        assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o600, os.getuid())
        code, out, _ = await present.run("devices")
        assert (code, "validator" in out) == (0, True)


async def test_systemd_hears_ready_watchdog_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.setblocking(False)
        heard: list[str] = []
        asyncio.get_running_loop().add_reader(ear, lambda: heard.extend(ear.recv(4096).decode().splitlines()))
        async with kiosk(tmp_path) as present:
            await present.start({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"})
            async with asyncio.timeout(20):
                while heard.count("WATCHDOG=1") < 2:  # noqa: ASYNC110 - another process decides when
                    await asyncio.sleep(0.05)
            assert present.process is not None
            assert heard.index("READY=1") < heard.index("WATCHDOG=1")
            assert f"MAINPID={present.process.pid}" in heard
            await present.end()
            await asyncio.sleep(0.1)
        asyncio.get_running_loop().remove_reader(ear)
    assert "STOPPING=1" in heard
    assert any(line.startswith("STATUS=1 of 1 devices ready") for line in heard)


async def test_uvicorn_serves_it_as_it_is(tmp_path: Path) -> None:
    """Nothing is opened at import time, all of it in the lifespan; SIGTERM takes the same orderly way."""
    async with kiosk(tmp_path) as present:
        port = str(present.port)
        uvicorn = (sys.executable, "-m", "uvicorn", "agent.main:app", "--host", "127.0.0.1", "--port", port)
        await present.start(command=uvicorn)
        async with present.page() as page:
            payment = await present.pay(page, 50_00, "one")
            await insert(present, 50)
            await present.until(lambda: present.payment_state(page, payment), "completed")
        assert await present.end() == -signal.SIGTERM, "uvicorn raises the signal again at its end"
        assert present.events()[-1] == ev.AgentStopped(reason="SIGTERM")


async def test_a_technician_tells_the_agent_that_the_clock_is_right(tmp_path: Path) -> None:
    """Rows written under a clock that ran days ahead: no money, until a person says which time it is."""
    async with kiosk(tmp_path) as present:
        config = load({"KIOSK_CONFIG": str(present.config)})
        open_store(config, clock=ShiftedClock(3 * 24 * 3_600_000_000)).close_now()
        await present.start()
        code, out, _ = await present.run("doctor")
        assert code == 1
        assert "clock_absurd" in out
        assert "kiosk doctor --accept-clock" in out
        code, out, err = await present.run("doctor", "--accept-clock")
        assert code == 0, out + err
        assert "clock_absurd" not in out
        async with present.page() as page:
            await present.pay(page, 50_00, "one")
