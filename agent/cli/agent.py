"""`kiosk agent`: the daemon, as systemd starts it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn

from agent.cli.client import settings as load_settings
from agent.domain.errors import ConfigError, KioskError
from agent.main import check as check_settings
from agent.main import make_app
from agent.settings import AgentSettings
from agent.store.lock import DirectoryLock

if TYPE_CHECKING:
    from agent.runtime.agent import Agent

app = typer.Typer(add_completion=False)
BACKLOG = 128
GRACE_S = 5  # what a slow client may delay the end, once streams are told to stop


class PortTaken(KioskError):
    code = "port_taken"


@app.command(help="Run the kiosk's daemon until SIGTERM. Example: kiosk --config /etc/kiosk/agent.toml agent")
def agent(
    check: Annotated[bool, typer.Option("--check", help="Read and check the settings, then leave.")] = False,
) -> None:
    config = load_settings()
    _check_host(config.api.host)
    if check:
        check_settings(config)
        typer.echo("the settings are sound")
        return
    serve(config)


def serve(config: AgentSettings) -> None:
    """Blocks until the end. Raises what stopped the start: `StoreLocked` names the pid of a daemon that runs."""
    causes: list[BaseException] = []
    listener = _bind(config)
    server = _Server(config, causes)
    try:
        asyncio.run(server.serve([listener]))
    except SystemExit:  # uvicorn's way of saying that the lifespan failed
        if causes:
            raise causes[0] from None
        raise
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Tells the agent when its port listens, and ends with status 0 on SIGTERM, as systemd and people expect."""

    def __init__(self, config: AgentSettings, causes: list[BaseException]) -> None:
        application = make_app(config, started=self._started_agent, failed=causes.append)
        super().__init__(
            uvicorn.Config(
                application,
                lifespan="on",
                http="h11",
                ws="websockets-sansio",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._agent: Agent | None = None

    def _started_agent(self, agent: Agent) -> None:
        self._agent = agent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._agent is not None and self.started:
            await self._agent.ready()

    def handle_exit(self, sig: int, frame: object) -> None:
        super().handle_exit(sig, None)
        self._captured_signals.clear()  # else uvicorn raises the signal again after the end


def _bind(config: AgentSettings) -> socket.socket:
    """The port, before anything else is touched. When it is taken by an agent of this directory, its pid is named."""
    family = socket.AF_INET6 if ":" in config.api.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.api.host, config.api.port))
    except OSError as error:
        listener.close()
        if config.store.directory.is_dir():
            DirectoryLock(config.store.directory).release()
        raise PortTaken(
            f"{config.api.host}:{config.api.port} cannot be used: {os.strerror(error.errno or 0)}"
        ) from error
    return listener


def _check_host(host: str) -> None:
    """The API is for this machine alone; from elsewhere it is reached through ssh."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(f"api.host: {host!r} is not possible: only 127.0.0.1, ::1 and localhost are")
