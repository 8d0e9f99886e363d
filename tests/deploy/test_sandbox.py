"""The unit's hardening does not break the agent, and does bite: tried on this kernel, under the very same filters.

Without systemd as process 1 the filters are made from the unit by `tests/deploy/sandbox.py`. A filter that is too tight
shows on the kiosk as an EPERM from some library, at the first login or the first snapshot: here instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.deploy.sandbox import allowed

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "systemd/kiosk-agent.service"
CONFINED = [sys.executable, "-m", "tests.deploy.sandbox", str(SERVICE)]


def test_what_the_agent_needs_works_and_what_it_does_not_is_refused() -> None:
    script = [sys.executable, "-m", "tests.deploy.confined"]
    done = subprocess.run([*CONFINED, *script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout)
    families = {"raw packets", "bluetooth"}
    for what, outcome in outcomes.items():
        assert outcome == os.strerror(97 if what in families else 1), what


def test_unconfined_the_same_things_would_not_all_be_refused() -> None:
    """Else the test above would prove nothing."""
    script = [sys.executable, "-m", "tests.deploy.confined"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    outcomes = json.loads(done.stdout)
    assert {"give a file away", "priority", "written code"} <= {
        what for what, how in outcomes.items() if how == "allowed"
    }


def test_the_filter_is_a_small_list() -> None:
    calls = allowed(SERVICE.read_text("utf-8"))
    assert {"read", "openat", "fdatasync", "socket", "clone", "execve", "epoll_wait", "getrandom"} <= calls
    assert not calls & {
        "chown",
        "mount",
        "ptrace",
        "bpf",
        "setuid",
        "init_module",
        "kexec_load",
        "settimeofday",
        "nice",
    }


async def test_the_daemon_starts_serves_logs_in_and_stops_confined(tmp_path: Path, port: int) -> None:
    """READY comes, the watchdog is fed, argon2 answers a wrong login, and SIGTERM ends it with status 0."""
    config, address = tmp_path / "agent.toml", tmp_path / "notify"
    config.write_text(f'[store]\ndirectory = "{tmp_path}/state"\n[api]\nport = {port}\n')
    (tmp_path / "state").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (tmp_path / "log").open("w+") as log:
        notify.bind(str(address))
        notify.setblocking(False)
        environ = {"KIOSK_CONFIG": str(config), "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "3000000"}
        agent = await asyncio.create_subprocess_exec(
            *CONFINED, sys.executable, "-m", "agent.cli.main", "agent",
            cwd=ROOT, env={**os.environ, **environ}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            await _until(notify, "READY=1", agent)
            await _until(notify, "WATCHDOG=1", agent)
            host = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=f"{host}/api/v1", headers={"Origin": host}, timeout=20) as client:
                assert (await client.get("/system/health")).json()["ok"] is True
                wrong = {"name": "ada", "secret": "271828"}
                assert (await client.post("/auth/login", json=wrong)).status_code == 401
            agent.terminate()
            await _until(notify, "STOPPING=1", agent)
            assert await asyncio.wait_for(agent.wait(), 20) == 0
        finally:
            if agent.returncode is None:
                agent.kill()
            said = (tmp_path / "log").read_text()
            sys.stderr.write(said)  # shown by pytest when something above failed
    assert "Operation not permitted" not in said


async def _until(notify: socket.socket, word: str, agent: asyncio.subprocess.Process) -> None:
    """Raises `TimeoutError` when the word does not come while the agent lives."""
    deadline = time.monotonic() + 30
    while agent.returncode is None and time.monotonic() < deadline:
        with suppress(TimeoutError):
            if word in (await asyncio.wait_for(asyncio.get_running_loop().sock_recv(notify, 4096), 0.5)).decode():
                return
    raise TimeoutError(f"{word} did not come; status {agent.returncode}")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
        return free
