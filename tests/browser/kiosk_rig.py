"""A real `kiosk agent` process with a CCNET validator simulated on a pty, and Chromium in front of it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from drivers.simulation import RunningSimulator, running_simulator

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ROOT / "var" / "screens"
TALL = {"width": 1080, "height": 1920}
LAPTOP = {"width": 1366, "height": 768}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class KioskProcess:
    """The agent as its service would run it. `kill` is a power cut; `start` again goes on from the same files."""

    def __init__(self, folder: Path, simulator: RunningSimulator, **cash: Any) -> None:
        self.state = folder / "state"
        self.simulator = simulator
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._config = folder / "agent.toml"
        self._log = folder / "agent.log"
        self._process: asyncio.subprocess.Process | None = None
        self._config.write_text(
            f"""
            [store]
            directory = "{self.state}"
            reserve_mib = 0
            disk_critical_mib = 0
            disk_low_mib = 1
            disk_resume_mib = 2
            [api]
            port = {self.port}
            [runtime]
            reopen_max_ms = 300
            [modules.cash_system]
            {chr(10).join(f"{key} = {value}" for key, value in cash.items())}
            [devices.cashcode]
            protocol = "ccnet"
            port = "{simulator.port}"
            [devices.cashcode.settings]
            poll_interval_ms = 20
            poll_idle_ms = 30
            bus_free_ms = 0
            """
        )

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "agent.cli.main", "--config", str(self._config), "agent"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(READY_S):
            while not await self._ready():
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        await self._end("terminate")

    async def kill(self) -> None:
        await self._end("kill")

    async def _end(self, verb: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, verb)()
            await process.wait()

    async def _ready(self) -> bool:
        async with httpx.AsyncClient() as http:
            try:
                answer = await http.get(f"{self.origin}/api/v1/system/ready")
            except httpx.TransportError:
                return False
        return answer.status_code == 200

    async def clear(self) -> None:
        """Cancel what a test left open, over the control socket, so that it does not become the next one's."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.state / "agent.sock"))
        async with httpx.AsyncClient(transport=transport, base_url=f"{self.origin}/api/v1/cash") as http:
            while (payment := (await http.get("/snapshot")).json()["payment"]) is not None:
                headers = {"Idempotency-Key": str(uuid4())}
                await http.post(f"/payments/{payment['id']}/cancel", json={}, headers=headers)
                await asyncio.sleep(0.1)

    # --- what the customer's hands do

    async def insert(self, value: str) -> None:
        await self.simulator.insist(f"insert {value}", timeout_s=15)

    def stacked(self) -> int:
        """What lies in the box, in minor units."""
        return int(sum(self.simulator.truth()["stacked_minor"].values()))

    async def until(self, state: str) -> None:
        """Wait until the validator is in this state, in the manual's word."""
        async with asyncio.timeout(15):
            while self.simulator.truth()["state"] != state:  # noqa: ASYNC110 - a device tells nobody
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running_kiosk(folder: Path, **cash: Any) -> AsyncIterator[KioskProcess]:
    async with running_simulator("ccnet", settings={"table": "EUR", "speed": 8}) as simulator:
        kiosk = KioskProcess(folder, simulator, **cash)
        await kiosk.start()
        try:
            yield kiosk
        finally:
            await kiosk.stop()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    found = shutil.which("chromium")
    assert found is not None, "chromium is missing; install it with: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class Screen:
    """One browser with its own session and tabs. It notes every request that leaves the origin, every error of the
    console and every uncaught exception."""

    def __init__(self, kiosk: KioskProcess, context: BrowserContext) -> None:
        self.kiosk = kiosk
        self.context = context
        self.foreign: list[str] = []
        self.errors: list[str] = []
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))

    async def open(self) -> Page:
        """A tab, opened as the kiosk's browser opens it: with the launch file."""
        page = await self.context.new_page()
        await page.goto((self.kiosk.state / "launch.html").as_uri())
        await page.wait_for_url(f"{self.kiosk.origin}/")
        return page

    async def tab(self) -> Page:
        """A further tab of the same session."""
        page = await self.context.new_page()
        await page.goto(self.kiosk.origin)
        return page

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.kiosk.origin + "/", "file://", "data:")):
            self.foreign.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url')})")


@asynccontextmanager
async def screen(
    kiosk: KioskProcess, browser: Browser, size: dict[str, int] | None = None, **more: Any
) -> AsyncIterator[Screen]:
    context = await browser.new_context(viewport=size or TALL, locale="en-GB", **more)  # type: ignore[arg-type]
    context.set_default_timeout(15_000)
    try:
        yield Screen(kiosk, context)
    finally:
        await context.close()


async def sound(page: Page) -> list[str]:
    """What WCAG AA and a finger would complain of, as far as a script can see it: touch targets below 64 px, controls
    without a name, contrast below 4.5, scrolling, words cut off. Empty when all is well."""
    await page.evaluate(
        "Promise.all(document.getAnimations().map((each) => each.effect.getComputedTiming().iterations"
        " === Infinity ? null : each.finished))"
    )
    found: list[str] = await page.evaluate(Path(__file__).with_name("kiosk_sound.js").read_text())
    return found
