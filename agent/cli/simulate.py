"""`kiosk simulate`: one device simulator alone, told what to do on stdin, telling what happens as JSON lines."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from drivers.simulation import RunningSimulator

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    protocol: Annotated[str, typer.Argument(help="Protocol, as in agent.toml: ccnet, …")],
    link: Annotated[str, typer.Option(help="pty, pty:PATH, tcp:PORT or tcp:HOST:PORT.")] = "pty",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the device; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON is the only form; accepted for uniformity.")] = False,
) -> None:
    """Be a device on a pty or TCP port. Commands on stdin (`help` lists them); answers and events as JSON lines.

    The first line names the port to configure. Ends at the end of stdin `quit`, or with Ctrl-C.

    Example: kiosk simulate ccnet --link pty:/tmp/acceptor --set speed=10
    """
    asyncio.run(_run(protocol, link, _pairs(settings or [])))


def _pairs(settings: list[str]) -> dict[str, str]:
    from agent.domain.errors import ConfigError

    wrong = [each for each in settings if "=" not in each]
    if wrong:
        raise ConfigError(f"--set wants KEY=VALUE, not {wrong[0]!r}")
    return {key: value for key, _, value in (each.partition("=") for each in settings)}


async def _run(protocol: str, link: str, settings: dict[str, str]) -> None:
    from drivers.simulation import running_simulator

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with running_simulator(protocol, link, settings) as simulator:
        simulator.on_event = _say
        _say({"event": "listening", "protocol": protocol, "port": simulator.port})
        talking = asyncio.ensure_future(_talk(simulator, ended))
        await ended.wait()
        talking.cancel()
        _say({"event": "ended", **simulator.truth()})


async def _talk(simulator: RunningSimulator, ended: asyncio.Event) -> None:
    """Commands from stdin. A closed stdin leaves the device running: a service has none."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode("utf-8", "replace"):
        if line.strip() in ("quit", "exit"):
            ended.set()
        elif line.strip():
            _say({"command": line.strip(), **await simulator.command(line)})


def _say(message: dict[str, Any]) -> None:
    typer.echo(json.dumps(message, ensure_ascii=False))
    sys.stdout.flush()
