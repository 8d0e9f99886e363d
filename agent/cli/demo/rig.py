"""The whole road on loopback: embedded servers, the office, one enrolled kiosk, its devices simulated on ptys.

The demo, the end-to-end tests and the benchmarks all stand on it. Each part is a real process (the devices live in
ours, so that they outlive an agent that is killed) and can be stopped, killed and started again by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from agent.domain.errors import KioskError
from drivers.links.pty import open_pty
from drivers.ports import Link
from drivers.simulation import RunningSimulator, running_simulator
from sync.central.embedded import HOST, Credentials, EmbeddedServers, Server, free_port

KIOSK = str(Path(sysconfig.get_path("scripts")) / "kiosk")
UI_TOKEN_BYTES = 24
FAST_SPEED = 20
FAST_POLLING = {"poll_interval_ms": 20, "poll_idle_ms": 50, "bus_free_ms": 2}
"""For scripts and tests: the devices' motors run this much faster, and are asked as often as the driver allows."""


class RigFailed(KioskError):
    """A part of the rig did not do what it was asked; the message holds what it said."""

    code = "rig_failed"


@dataclass(frozen=True, slots=True)
class SimulatedDevice:
    """One device of the kiosk: `settings` configure its simulator, `driver` its driver."""

    name: str
    protocol: str
    settings: Mapping[str, object] = field(default_factory=dict)
    driver: Mapping[str, object] = field(default_factory=dict)


REFERENCE_RIG = (SimulatedDevice("validator", "ccnet"),)
"""What `make demo` shows: CashCode on CCNET with roubles. It grows with the drivers."""


def _get(url: str) -> int:
    """The status that a GET answers with; 0 when nobody answers."""
    try:
        return httpx.get(url, timeout=2.0).status_code
    except httpx.TransportError:
        return 0


class Daemon(Server):
    """A process of ours, on a loopback port chosen beforehand. `ready_path` answers 200 when it is up."""

    ready_path = ""

    def __init__(self, directory: Path, environment: Mapping[str, str], port: int = 0) -> None:
        super().__init__(directory, Credentials())
        self.port = port or free_port()
        self.environment = dict(environment)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def log_path(self) -> Path:
        return self._log_path

    def exit_code(self, timeout_s: float) -> int:
        """Wait until the process has ended by itself; its exit status (negative: the signal that killed it)."""
        if self._process is None:
            raise RigFailed(f"{self.name} was not started")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RigFailed(f"{self.name} is still running after {timeout_s:.0f} s\n{self._log_tail()}") from error

    def _environment(self) -> Mapping[str, str]:
        return self.environment

    def _ready(self) -> bool:
        return _get(self.url + self.ready_path) == 200


class CentralDaemon(Daemon):
    name = "central"
    ready_path = "/health"

    def _command(self) -> list[str]:
        return [KIOSK, "central", "--host", HOST, "--port", str(self.port)]


class AgentDaemon(Daemon):
    """`settle_start` False returns as soon as the process runs: for an agent that is meant to die at once."""

    name = "agent"
    ready_path = "/api/v1/system/health"
    settle_start = True

    def _command(self) -> list[str]:
        return [KIOSK, "agent"]

    def _ready(self) -> bool:
        return not self.settle_start or super()._ready()


class Rig:
    """`async with Rig(directory) as rig:` has everything up and the kiosk enrolled and ready for a payment.

    `servers`, `central`, `agent` have `start`, `stop`, `kill`; they block, so call them through `off_loop`. Secrets are
    made fresh and lie below `directory` (0600). `wire` may wrap the devices' end of each line, to watch it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        devices: tuple[SimulatedDevice, ...] = REFERENCE_RIG,
        agent_port: int = 0,
        central_port: int = 0,
        agent_toml: str = "",
        postgres_settings: Mapping[str, str] | None = None,
        fast: bool = True,
        wire: Callable[[Link], Link] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.state_dir = self.directory / "kiosk"
        self.devices = devices
        self.simulators: dict[str, RunningSimulator] = {}
        self.admin_password = secrets.token_urlsafe(12)
        self.ui_token = secrets.token_urlsafe(UI_TOKEN_BYTES)
        self.servers = EmbeddedServers(self.directory / "servers", postgres_settings)
        self._fast = fast
        self._wire = wire
        self._agent_toml = agent_toml
        self._stack = AsyncExitStack()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.agent = AgentDaemon(self.directory, self._clean_environment(), agent_port)
        self.agent.environment |= {"KIOSK_CONFIG": str(self.agent_config)}
        self.central = CentralDaemon(self.directory, {}, central_port)

    @property
    def agent_config(self) -> Path:
        return self.directory / "agent.toml"

    @property
    def simulator(self) -> RunningSimulator:
        """The first device's: the validator of the reference rig."""
        return self.simulators[self.devices[0].name]

    async def __aenter__(self) -> Rig:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        await self._own(self.servers)
        self._configure_central()
        await self._run(
            "central",
            "init",
            "--name",
            "admin",
            "--password-stdin",
            environment=self.central.environment,
            stdin=self.admin_password + "\n",
        )
        await self._own(self.central)
        self.port_of("").mkdir(exist_ok=True)
        for device in self.devices:
            await self._simulate(device)
        self._configure_agent()
        await self.enrol()
        await self._own(self.agent)

    async def _own(self, part: Server | EmbeddedServers) -> None:
        """Start it now and stop it at the end."""
        self._stack.push_async_callback(off_loop, part.stop)
        await off_loop(part.start)

    async def _simulate(self, device: SimulatedDevice) -> None:
        settings = {**({"speed": FAST_SPEED} if self._fast else {}), **device.settings}
        link: str | Link = f"pty:{self.port_of(device.name)}"
        if self._wire is not None:
            link = self._wire(open_pty(str(self.port_of(device.name))))
        running = running_simulator(device.protocol, link=link, settings=settings)
        self.simulators[device.name] = await self._stack.enter_async_context(running)

    def port_of(self, name: str) -> Path:
        """The device file of a simulated device: a link to its pty."""
        return self.directory / "ports" / name

    async def enrol(self) -> str:
        """A fresh one-time code of the office, and `kiosk enroll` with it; the kiosk's id."""
        made = await self._run(
            "central", "enroll-code", "--name", "Lobby", "--json", environment=self.central.environment
        )
        answer = await self._run(
            "enroll",
            "--central",
            self.central.url,
            "--code",
            str(made["code"]),
            "--json",
            environment=self.agent.environment,
        )
        return str(answer["kiosk_id"])

    async def kiosk(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run a `kiosk` command as the technician at this kiosk; its JSON answer. Raises `RigFailed`."""
        return await self._run(*arguments, environment=self.agent.environment, stdin=stdin)

    async def _run(self, *arguments: str, environment: Mapping[str, str], stdin: str = "") -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            KIOSK,
            *arguments,
            env=dict(environment),
            cwd=self.directory,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        if process.returncode != 0:
            raise RigFailed(f"kiosk {' '.join(arguments[:2])} ended with {process.returncode}: {err.decode()}")
        answer = json.loads(out) if "--json" in arguments else {}
        return answer if isinstance(answer, dict) else {"items": answer}

    def _clean_environment(self) -> dict[str, str]:
        """Ours, without settings that the caller's shell may hold for another kiosk or office."""
        return {
            name: value for name, value in os.environ.items() if not name.startswith(("KIOSK_", "CENTRAL_", "NOTIFY_"))
        }

    def _configure_central(self) -> None:
        folder = self.directory / "office"
        folder.mkdir(mode=0o700, exist_ok=True)
        lines = [
            "[auth]",
            f"secret_file = {json.dumps(str(folder / 'secret'))}",
            "[keys]",
            f"recipients_file = {json.dumps(str(folder / 'recipients.txt'))}",
            f"office_identity_file = {json.dumps(str(folder / 'office.key'))}",
            f"recovery_identity_file = {json.dumps(str(folder / 'recovery.key'))}",
            "[office]",
            f"origins = [{json.dumps(self.central.url)}]",
            "cookie_secure = false  # plain http on loopback",
        ]
        config = self.directory / "central.toml"
        config.write_text("\n".join([*lines, ""]), encoding="utf-8")
        self.central.environment |= {
            **self._clean_environment(),
            **self.servers.environment(),
            "CENTRAL_CONFIG": str(config),
        }

    def _configure_agent(self) -> None:
        token = self.directory / "ui-token"
        _write_secret(token, self.ui_token)
        lines = [
            "[store]",
            f"directory = {json.dumps(str(self.state_dir))}",
            "[api]",
            f"port = {self.agent.port}",
            f"ui_token_file = {json.dumps(str(token))}",
        ]
        for device in self.devices:
            driver = {**(FAST_POLLING if self._fast else {}), **device.driver}
            lines += [
                f"[devices.{device.name}]",
                f"protocol = {json.dumps(device.protocol)}",
                f"port = {json.dumps(str(self.port_of(device.name)))}",
                *([f"[devices.{device.name}.settings]"] if driver else []),
                *(f"{key} = {json.dumps(value)}" for key, value in driver.items()),
            ]
        self.agent_config.write_text("\n".join([*lines, self._agent_toml, ""]), encoding="utf-8")


def _write_secret(path: Path, value: str) -> None:
    path.touch(mode=0o600)
    path.write_text(value + "\n", encoding="utf-8")


async def off_loop(blocking: Callable[[], object]) -> None:
    """Run something that blocks while the simulated devices keep answering."""
    await asyncio.to_thread(blocking)
