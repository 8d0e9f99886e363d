"""Simulators on their links, and `kiosk simulate` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.simulate import app
from agent.domain.errors import ConfigError, TransportError
from drivers.links import open_link
from drivers.links.memory import memory_pair
from drivers.ports import Link
from drivers.simulation import running_simulator

POLL = bytes.fromhex("02 03 06 33 DA 81")
POWER_UP = bytes.fromhex("02 03 06 10 43 92")


async def ask(link: Link) -> bytes:
    await link.write(POLL)
    data = b""
    async with asyncio.timeout(5):
        while len(data) < len(POWER_UP):
            data += await link.read(1.0)
    return data


@pytest.mark.parametrize("link", ["pty", "pty:{}/acceptor", "tcp:0", "tcp:127.0.0.1:0"])
async def test_a_simulator_answers_on_every_kind_of_link(link: str, tmp_path: Path) -> None:
    async with running_simulator("ccnet", link.format(tmp_path)) as simulator:
        host = await open_link(simulator.port)
        assert await ask(host) == POWER_UP
        assert (await simulator.command("truth"))["state"] == "POWER UP"
        await host.close()
        again = await open_link(simulator.port)
        assert await ask(again) == POWER_UP
        await again.close()


async def test_unplug_and_plug(tmp_path: Path) -> None:
    async with running_simulator("ccnet", f"pty:{tmp_path}/acceptor") as simulator:
        host = await open_link(simulator.port)
        await simulator.command("unplug")
        with pytest.raises(TransportError):
            await ask(host)
        await host.close()
        await simulator.command("unplug")
        await simulator.command("plug")
        await simulator.command("plug")
        host = await open_link(simulator.port)
        assert await ask(host) == POWER_UP
        await host.close()


async def test_late_answers_leave_late_and_a_broken_link_is_survived() -> None:
    host, device = memory_pair()
    async with running_simulator("ccnet", device) as simulator:
        await simulator.command("fault late 30")
        await host.write(POLL)
        assert await host.read(0.005) == b""
        assert await host.read(1.0) == POWER_UP
        await simulator.command("fault late 30")
        await host.write(POLL)
        await asyncio.sleep(0.01)
        await host.close()
        await asyncio.sleep(0.05)
        assert simulator.truth()["powered"]


async def test_events_are_kept_and_told() -> None:
    told: list[dict[str, Any]] = []
    host, device = memory_pair()
    async with running_simulator("ccnet", device, {"speed": 1000}) as simulator:
        simulator.on_event = told.append
        await host.write(bytes.fromhex("02 03 06 30 41 B3"))
        await simulator.until(lambda truth: truth["state"] == "UNIT DISABLED")
        assert [each.get("state") for each in simulator.events()] == ["INITIALIZE", "UNIT DISABLED"]
        assert told == simulator.events()
        with pytest.raises(TimeoutError):
            await simulator.insist("insert 500", 0.05)
        with pytest.raises(TimeoutError):
            await simulator.until(lambda truth: False, 0.05)


async def test_links_and_protocols_that_make_no_sense() -> None:
    for protocol, link, settings in (
        ("nonsense", "pty", {}),
        ("ccnet", "usb:1", {}),
        ("ccnet", "tcp:port", {}),
        ("ccnet", "pty", {"speed": 0}),
    ):
        with pytest.raises(ConfigError):
            async with running_simulator(protocol, link, settings):
                raise AssertionError("must not start")


async def test_the_command_line_simulator(tmp_path: Path) -> None:
    """JSON lines out, commands in; ends politely on a signal and says where the money is."""
    port = tmp_path / "acceptor"
    code = "from agent.cli.simulate import app; app()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, "ccnet", "--link", f"pty:{port}", "--set", "speed=100", "--set", "table=EUR"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None

    async def heard() -> dict[str, Any]:
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        return found

    assert await heard() == {"event": "listening", "protocol": "ccnet", "port": str(port)}
    host = await open_link(str(port))
    assert await ask(host) == POWER_UP
    await host.close()
    process.stdin.write(b"insert 5\n\nhelp\n")
    await process.stdin.drain()
    assert await heard() == {"command": "insert 5", "ok": False, "error": "not_accepting"}
    assert "power-cut" in json.dumps(await heard())
    process.send_signal(signal.SIGTERM)
    assert (await heard())["event"] == "ended"
    assert await process.wait() == 0
    assert not port.is_symlink()


def test_wrong_arguments() -> None:
    assert CliRunner().invoke(app, ["ccnet", "--set", "speed"]).exit_code != 0
