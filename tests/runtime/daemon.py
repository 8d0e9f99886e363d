"""`kiosk agent` as a real process beside a simulated validator on a pty, for tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sysconfig
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from agent.domain.events import Event
from agent.domain.wire import event_of
from agent.store.connection import FILE_NAME, connect_reader
from agent.store.reader import reading
from drivers.simulation import RunningSimulator, running_simulator

KIOSK = Path(sysconfig.get_path("scripts")) / "kiosk"
TOKEN = "ui-token-of-the-tests-0123456789"
FAST = {"speed": "20"}
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Kiosk:
    """One configured kiosk: its folder, its simulator, and the agent when it runs."""

    def __init__(self, folder: Path, simulator: RunningSimulator, more: str = "") -> None:
        self.folder = folder
        self.simulator = simulator
        self.port = free_port()
        self.state = folder / "state"
        self.log = folder / "agent.log"
        self.config = folder / "agent.toml"
        self.config.write_text(
            f"""
            [store]
            directory = "{self.state}"
            wal_size_mib = 1
            reserve_mib = 0
            disk_low_mib = 2
            disk_resume_mib = 3
            disk_critical_mib = 1
            [api]
            port = {self.port}
            ui_token = "{TOKEN}"
            [runtime]
            check_interval_ms = 200
            reopen_max_ms = 400
            [devices.validator]
            protocol = "ccnet"
            port = "{folder}/validator"
            [devices.validator.settings]
            poll_idle_ms = 50
            poll_interval_ms = 50
            {more}
            """
        )
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, "KIOSK_CONFIG": str(self.config), **(extra or {})}

    async def start(self, extra: Mapping[str, str] | None = None, command: tuple[str, ...] = ()) -> None:
        """The agent, until its API answers; `command` instead of `kiosk agent`."""
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(command or (str(KIOSK), "agent")), env=self.environment(extra), stderr=log, stdout=log
            )
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(base_url=self.url) as client:
            while True:
                assert self.process.returncode is None, self.log.read_text()
                try:
                    await client.get("/api/v1/system/health")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    return

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the agent and wait for its end; its exit status."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(STOP_TIMEOUT_S):
            return await self.process.wait()

    async def run(self, *arguments: str, extra: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """`kiosk ARGUMENTS`: exit status, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            str(KIOSK),
            *arguments,
            env=self.environment(extra),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    @asynccontextmanager
    async def page(self) -> AsyncIterator[httpx.AsyncClient]:
        """The kiosk's screen, logged in."""
        async with httpx.AsyncClient(base_url=self.url, headers={"Origin": self.url}) as client:
            answer = await client.post("/api/v1/auth/ui", json={"token": TOKEN})
            assert answer.status_code == 200, answer.text
            yield client

    async def ready(self, page: httpx.AsyncClient, state: str = "ready") -> None:
        """Wait until the validator is in this state."""
        await self.until(lambda: _state(page), state)

    async def pay(self, page: httpx.AsyncClient, minor: int, key: str) -> str:
        """A payment in roubles; its id."""
        await self.ready(page)
        body = {"amount_minor": minor, "currency": "RUB", "reference": key}
        answer = await page.post("/api/v1/cash/payments", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def until(self, what: Callable[[], Any], wanted: object, timeout_s: float = 60.0) -> None:
        """Wait until the coroutine function `what` gives `wanted`."""
        async with asyncio.timeout(timeout_s):
            while await what() != wanted:  # noqa: ASYNC110 - another process decides when
                await asyncio.sleep(0.03)

    async def payment_state(self, page: httpx.AsyncClient, payment: str) -> str:
        return str((await page.get(f"/api/v1/cash/payments/{payment}")).json()["state"])

    def events(self) -> list[Event]:
        """The journal as it lies on the disk, also beside a running agent."""
        connection = connect_reader(self.state / FILE_NAME)
        try:
            with reading(connection) as reader:
                return [event_of(row) for row in reader.rows(0, 100_000)]
        finally:
            connection.close()

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


async def _state(page: httpx.AsyncClient) -> str:
    [device] = (await page.get("/api/v1/devices")).json()["devices"]
    return str(device["state"])


@asynccontextmanager
async def kiosk(folder: Path, more: str = "") -> AsyncIterator[Kiosk]:
    """A kiosk with its simulator; whatever of it runs at the end is ended."""
    async with running_simulator("ccnet", link=f"pty:{folder}/validator", settings=FAST) as simulator:
        made = Kiosk(folder, simulator, more)
        try:
            yield made
        finally:
            if made.process is not None and made.process.returncode is None:
                made.process.kill()
                await made.process.wait()
