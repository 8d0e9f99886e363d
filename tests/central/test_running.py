"""The office as it is started in production, in a process of its own; and what is done on it from the command line."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agent.cli.central import app as cli
from agent.domain import events as ev
from agent.domain import wire as body
from agent.domain.errors import ConfigError
from agent.domain.money import Money
from sync.central import digest, main
from sync.central.database import attempt, make_pool
from sync.central.embedded import EmbeddedServers, free_port
from tests.central.kiosks import Journal, Kiosk
from tests.central.test_ingest import TOTALS
from tests.central.test_setup import CONFIG
from tests.servers import Centre, central_environment


async def test_uvicorn_runs_it_and_every_log_line_has_the_trace(
    servers: EmbeddedServers, database: str, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "log"
    environ = {**os.environ, **central_environment(servers, database), "CENTRAL_DATABASE__MIGRATE_AT_START": "true"}
    command = [sys.executable, "-m", "uvicorn", "sync.central.main:app", "--port", str(port), "--log-level", "warning"]
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=file, cwd=CONFIG.parents[1])
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False, trust_env=False) as client:
            for _ in range(600):
                try:
                    assert (await client.get("/health")).json()["status"] == "ok"
                    break
                except httpx.ConnectError:
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.05)
            answer = await client.post("/api/v1/enroll", content=b"{}", headers={"Kiosk-Trace-Id": "abc"})
            assert answer.headers["kiosk-trace-id"] == "abc"
            odd = await client.get("/health", headers={"Kiosk-Trace-Id": "x" * 101})
            assert len(odd.headers["kiosk-trace-id"]) == 32
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) in (0, -15)
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    (refused,) = [line for line in lines if line.get("trace_id") == "abc"]
    assert refused["event"] == "/api/v1/enroll refused: malformed_batch"
    assert {"ts", "level", "event", "logger"} <= refused.keys()


async def test_an_impossible_setting_stops_the_start_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CENTRAL_CONFIG", str(CONFIG))
    monkeypatch.setenv("CENTRAL_DATABASE__POOL_MIN", "0")
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    with pytest.raises(ConfigError, match="CENTRAL_DATABASE__POOL_MIN"):
        await main.__getattr__("app")({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert said[0]["type"] == "lifespan.startup.failed"


async def test_parked_rows_are_understood_later(
    servers: EmbeddedServers, centre: Centre, kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An office that was older than the kiosk, then updated."""
    journal = Journal.opened()
    journal.pay("p1", 500, complete=False)
    journal.append_raw("cash.note.stacked", b"{}")
    with monkeypatch.context() as older:
        older.delitem(body.EVENT_TYPES, ev.NoteStacked.TYPE)
        await kiosk.send(journal)
    assert await centre.all(TOTALS) == [("p1", "collecting", 1000, 0, 0, 0)]
    for name, value in central_environment(servers, centre.settings.database.url()).items():
        monkeypatch.setenv(name, value)
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["parked", "--json"])
    assert [row["seq"] for row in json.loads(shown.stdout)["parked"]] == [3, 4]
    tried = await asyncio.to_thread(CliRunner().invoke, cli, ["parked", "--retry"])
    assert "1 understood now" in tried.stdout
    assert tried.exit_code == 1
    assert await centre.all(TOTALS) == [("p1", "collecting", 1000, 500, 0, 0)]
    ((seq, reason),) = await centre.all("SELECT seq, reason FROM parked_events")
    assert (seq, "missing" in reason) == (4, True)
    async with centre.pool.connection() as connection:
        await connection.execute("DELETE FROM parked_events")
    assert (await asyncio.to_thread(CliRunner().invoke, cli, ["parked"])).stdout == "0 parked\n"


async def test_parked_rows_that_postgres_still_refuses_stay(
    servers: EmbeddedServers, centre: Centre, kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with centre.pool.connection() as connection:
        await connection.execute("ALTER TABLE transaction_notes ADD CONSTRAINT odd CHECK (value_minor <> 666)")
    journal = Journal.opened()
    journal.stack("n1", 666)
    await kiosk.send(journal)
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE parked_events SET reason = ''")
        await connection.execute(
            "INSERT INTO parked_events (kiosk_id, journal_id, seq) SELECT kiosk_id, journal_id, 99 FROM events LIMIT 1"
        )
    for name, value in central_environment(servers, centre.settings.database.url()).items():
        monkeypatch.setenv(name, value)
    await asyncio.to_thread(CliRunner().invoke, cli, ["parked", "--retry"])
    assert str(await centre.one("SELECT reason FROM parked_events ORDER BY seq")).startswith("new row")


async def test_work_is_repeated_only_when_postgres_went_away(centre: Centre) -> None:
    pool = make_pool(centre.settings.database)
    await pool.open()
    tries: list[int] = []

    async def work(connection: Any) -> int:
        tries.append(1)
        if len(tries) < 3:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(tries)

    assert await attempt(pool, work) == 3
    await pool.close()


def test_every_kind_of_device_news_has_a_state() -> None:
    """Later news of a batch win, and leave alone what they do not speak of."""
    journal = Journal.opened()
    device: dict[str, Any] = {"device": "acceptor"}
    journal.append(ev.DeviceOnline(**device, protocol="ccnet", model="SM", serial="1", firmware="2"))
    seen = []
    for event in (
        ev.DeviceFaulted(**device, code="motor", detail="x"),
        ev.DeviceRecovered(**device, code="motor"),
        ev.Jammed(**device, where="stacker"),
        ev.StackerRemoved(**device),
        ev.StackerInserted(**device),
        ev.DeviceOffline(**device, reason="unplugged"),
        ev.AcceptanceInhibited(reason="disk_low"),
        ev.AcceptanceResumed(reason="disk_low"),
        ev.CheatSuspected(**device),
    ):
        journal.append(event)
        changes, parked = digest.digest(journal.journal_id, journal.journal_id, journal.rows)
        assert parked == []
        seen.append((changes.devices["acceptor"][:2], len(changes.devices), len(changes.alarms)))
        assert changes.devices["acceptor"][3:7] == ("ccnet", "SM", "1", "2")
    assert [state for (state, _), _, _ in seen] == [
        "faulted",
        "online",
        "faulted",
        "faulted",
        "online",
        *["offline"] * 4,
    ]
    assert seen[-1][1:] == (2, 1)


def test_what_concerns_no_payment_touches_none() -> None:
    journal = Journal.opened()
    doubt: dict[str, Any] = {"device": "acceptor", "payment_id": None, "reason": "r"}
    journal.append(ev.DoubtOpened(doubt_id="d", amount=None, evidence=(), **doubt))
    journal.append(ev.DoubtResolved(doubt_id="d", outcome="stacked", doubted=None, amount=Money(5, "EUR"), **doubt))
    journal.claim("c", 5, None)
    journal.append(ev.PaymentCancelRequested(payment_id="p", reason="x"))
    journal.append(ev.PaymentCancelled(payment_id="p"))
    journal.append(ev.PaymentCompletionStarted(payment_id="p"))
    changes, _ = digest.digest(journal.journal_id, journal.journal_id, journal.rows)
    assert list(changes.payments) == ["p"]
    assert (changes.payments["p"].state, changes.payments["p"].reason) == ("cancelled", "x")
