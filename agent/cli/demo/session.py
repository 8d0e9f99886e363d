"""One run of `kiosk demo`: scripted, or until the person at the terminal has seen enough."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
from pathlib import Path

import typer

from agent.cli.demo.panel import Panel
from agent.cli.demo.rig import Rig
from agent.cli.demo.script import perform
from sync.central.embedded import HOST, free_port

PROMPT_LINES = """Type what happens at the kiosk, for example `insert 500`; `help` lists everything, Ctrl-C ends it."""


async def run(directory: Path, *, scripted: bool, port: int) -> None:
    """Raises `KioskError` when something does not start, or when the script does not see what it should."""
    typer.echo("starting Postgres, Redis, S3, the office and the kiosk …")
    async with Rig(directory, agent_port=_port(port), fast=scripted) as rig:
        if scripted:
            await perform(rig)
            return
        async with Panel(rig) as panel:
            _introduce(rig, panel)
            await _until_interrupted(rig)
    typer.echo("stopped")


def _port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            return free_port()
    return wanted


def _introduce(rig: Rig, panel: Panel) -> None:
    lines = (
        ("kiosk page", f"open this file in a browser: {rig.state_dir / 'launch.html'}"),
        ("put notes in", panel.url),
        ("central office", f"{rig.central.url}/  (admin / {rig.admin_password})"),
        ("kiosk's API", f"{rig.agent.url}/api/v1  (UI token in {rig.directory / 'ui-token'})"),
        ("command line", f"KIOSK_CONFIG={rig.agent_config} kiosk devices"),
        ("Postgres", rig.servers.postgres.dsn()),
        ("logs", f"{rig.agent.log_path} and {rig.central.log_path}"),
    )
    for name, value in lines:
        typer.echo(f"  {name:15} {value}")
    typer.echo(PROMPT_LINES)


async def _until_interrupted(rig: Rig) -> None:
    """Carry lines from the terminal to the validator, until Ctrl-C or SIGTERM; the end of input is no end."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    typed: asyncio.Queue[str] = asyncio.Queue()
    threading.Thread(target=_read_lines, args=(loop, typed), name="terminal", daemon=True).start()
    typing = asyncio.create_task(_commands(rig, typed))
    await ended.wait()
    typing.cancel()
    await asyncio.wait([typing])


def _read_lines(loop: asyncio.AbstractEventLoop, typed: asyncio.Queue[str]) -> None:
    """In a thread of its own: standard input may be a file or /dev/null, which an event loop cannot watch."""
    for line in sys.stdin:
        with contextlib.suppress(RuntimeError):  # the demo has ended
            loop.call_soon_threadsafe(typed.put_nowait, line.strip())


async def _commands(rig: Rig, typed: asyncio.Queue[str]) -> None:
    while True:
        if command := await typed.get():
            typer.echo(json.dumps(await rig.simulator.command(command), ensure_ascii=False))
