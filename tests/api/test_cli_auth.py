"""`kiosk auth` as a command: over the control socket of a running agent, and on the file of a stopped one."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agent.runtime.control import ControlSocket
from tests.api.conftest import PIN, Kiosk, KioskMaker

pytestmark = pytest.mark.timeout(120)


async def kiosk_auth(folder: Path, *arguments: str, pin: str = "") -> tuple[int, str, str]:
    config = folder / "agent.toml"
    config.write_text(f'[store]\ndirectory = "{folder}"\nreserve_mib = 0\n')
    environ = {**os.environ, "KIOSK_CONFIG": str(config)}
    command = [sys.executable, "-m", "agent.cli.main", "auth", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(f"{pin}\n".encode())
    return process.returncode or 0, out.decode(), err.decode()


async def story(folder: Path) -> None:
    """The same whether or not an agent runs."""
    assert await kiosk_auth(folder, "init", "Anna", "--pin-stdin", pin=PIN) == (0, "Anna is the first admin\n", "")
    status, _, err = await kiosk_auth(folder, "init", "Bob", "--pin-stdin", pin=PIN)
    assert (status, "(admin_exists)" in err) == (2, True), err
    status, out, err = await kiosk_auth(folder, "add", "Kim", "--role", "technician", "--pin-stdin", "--json", pin=PIN)
    assert (status, json.loads(out)["role"]) == (0, "technician"), err
    status, out, _ = await kiosk_auth(folder, "unlock", "KIM")
    assert (status, out) == (0, "Kim may log in again\n")
    status, out, _ = await kiosk_auth(folder, "list", "--json")
    assert [(each["name"], each["role"]) for each in json.loads(out)] == [("Anna", "admin"), ("Kim", "technician")]


async def test_with_a_running_agent(kiosk: Kiosk) -> None:
    control = ControlSocket(kiosk.app, kiosk.folder)
    await control.start()
    try:
        await story(kiosk.folder)
    finally:
        await control.stop()
    with kiosk.store.read() as reader:
        actors = {row.actor for row in reader.rows(0, 100) if row.type.startswith("auth.")}
    assert actors == {f"cli:{os.getuid()}"}


async def test_with_a_stopped_agent_and_the_users_are_there_when_it_starts(
    kiosk_at: KioskMaker, tmp_path: Path
) -> None:
    await story(tmp_path)
    async with kiosk_at() as kiosk, kiosk.client() as client:
        kiosk.clock.wall_us = 1_795_400_000_000_000
        # argon2 costs of production were used by the command; verifying reads them from the hash
        answer = await client.post("/api/v1/auth/login", json={"name": "anna", "secret": PIN})
        assert answer.json()["role"] == "admin"


@pytest.mark.parametrize(
    ("arguments", "typed", "code"),
    [
        (("init", "Anna"), f"{PIN}\n913377", "pins_differ"),
        (("init", "Anna", "--pin-stdin"), "123456", "weak_secret"),
        (("unlock", "nobody"), "", "not_found"),
    ],
)
async def test_what_cannot_be_done_says_why_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], typed: str, code: str
) -> None:
    status, _, err = await kiosk_auth(tmp_path, *arguments, pin=typed)
    assert (status, f"({code})" in err) == (2, True), err
    assert (await kiosk_auth(tmp_path, "list"))[1] == "nobody yet: kiosk auth init\n"
