"""`kiosk cash`: the same answers from the daemon and, when it is stopped, from its file."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from tests.browser.kiosk_rig import running_kiosk
from tests.modules.rig import OWNER, Rig, rig

PIN = "270415"


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kiosk's state directory, named by the configuration that the command line reads."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""
        [store]
        directory = "{tmp_path / "state"}"
        reserve_mib = 0
        disk_critical_mib = 0
        disk_low_mib = 1
        disk_resume_mib = 2
        """
    )
    monkeypatch.setenv("KIOSK_CONFIG", str(config))
    return tmp_path / "state"


class Cli:
    """Runs `kiosk …` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    async def __call__(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """(exit status, stdout, stderr)"""
        self._capsys.readouterr()
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as left:
            await asyncio.to_thread(main, list(arguments))
        out, err = self._capsys.readouterr()
        return int(left.value.code or 0), out, err

    async def json(self, *arguments: str, stdin: str = "") -> Any:
        status, out, err = await self(*arguments, "--json", stdin=stdin)
        assert status == 0, err
        return json.loads(out)


@pytest.fixture
def kiosk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


async def _a_day(r: Rig) -> tuple[str, str]:
    """(a payment with a claim, a doubt of a cancelled payment)"""
    async with r.http(peer_uid=OWNER) as owner:
        body = {"name": "anna", "role": "collector", "secret": PIN}
        assert (await owner.post("/auth/users", json=body)).status_code == 201
    paid = await r.create(1500)
    await r.pay(2000)
    other = await r.create(5000)
    await r.insert(1000)
    doubt = await r.doubt()
    await r.cancel(other)
    return paid, doubt


async def test_offline_it_tells_where_the_money_is(configured: Path, kiosk: Cli) -> None:
    async with rig(configured) as r:
        paid, doubt = await _a_day(r)
    status = await kiosk.json("cash", "status")
    assert (status["units"][0]["total_minor"], status["ledger"]["balanced"]) == (2000, True)
    assert [each["id"] for each in status["in_doubt"]] == [doubt]
    assert status["payment"]["state"] == "cancelled"
    newest, oldest = await kiosk.json("cash", "payments")
    assert (oldest["id"], oldest["claimed_minor"], newest["in_doubt_minor"]) == (paid, 500, 1000)
    (claim,) = await kiosk.json("cash", "claims")
    assert (claim["amount_minor"], claim["reason"]) == (500, "overpaid")
    assert [each["id"] for each in await kiosk.json("cash", "in-doubt")] == [doubt]
    code, words, _ = await kiosk("cash", "status")
    assert code == 0
    assert "stacker:cashcode: 1 notes, 20.00 EUR" in words
    assert "owed to customers: 5.00 EUR" in words
    assert "1 in doubt" in words
    for command in (("payments",), ("claims",), ("in-doubt", "list", "--all")):
        code, words, _ = await kiosk("cash", *command)
        assert (code, bool(words.strip())) == (0, True)


async def test_offline_a_person_decides_with_a_pin(configured: Path, kiosk: Cli) -> None:
    async with rig(configured) as r:
        _, doubt = await _a_day(r)
    resolve = ("cash", "in-doubt", "resolve", doubt, "--outcome", "stacked", "--reason", "counted", "--user", "anna")
    status, _, err = await kiosk(*resolve, "--pin-stdin", stdin="000000\n")
    assert (status, "login_failed" in err) == (2, True)
    (row,) = await kiosk.json(*resolve, "--pin-stdin", stdin=f"{PIN}\n")
    assert (row["outcome"], row["resolved_by"][:5]) == ("stacked", "user:")
    assert {claim["reason"] for claim in await kiosk.json("cash", "claims")} == {"overpaid", "doubt_resolved"}
    status, _, err = await kiosk(*resolve, "--pin-stdin", stdin=f"{PIN}\n")
    assert (status, "doubt_already_resolved" in err) == (2, True)
    assert (await kiosk("cash", "in-doubt"))[1] == "nothing is in doubt\n"
    status, _, err = await kiosk("cash", "in-doubt", "resolve", doubt, "--outcome", "x", "--reason", "y", "--user", "z")
    assert status == 2


async def test_an_empty_kiosk_says_so(configured: Path, kiosk: Cli) -> None:
    async with rig(configured):
        pass
    assert (await kiosk("cash", "payments"))[1] == "no payments\n"
    assert (await kiosk("cash", "claims"))[1] == "no claims\n"
    assert (await kiosk("cash", "status"))[1] == "takes no money: daemon_stopped\n"


async def test_the_running_daemon_answers_the_same(tmp_path: Path, kiosk: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_kiosk(tmp_path) as running:
        monkeypatch.setenv("KIOSK_CONFIG", str(tmp_path / "agent.toml"))
        status = await kiosk.json("cash", "status")
        assert (status["acceptance"]["accepting"], status["units"], status["payment"]) == (True, [], None)
        assert await kiosk.json("cash", "payments") == await kiosk.json("cash", "claims") == []
        resolve = ("cash", "in-doubt", "resolve", "x", "--outcome", "returned", "--reason", "y", "--user", "nobody")
        code, _, err = await kiosk(*resolve, "--pin-stdin", stdin=f"{PIN}\n")
        assert (code, "login_failed" in err) == (2, True)
        assert running.stacked() == 0
