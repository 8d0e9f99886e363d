"""`kiosk enroll` and `kiosk sync` as a technician types them, beside a running agent and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agent.cli import client
from agent.cli import enroll as enroll_group
from agent.cli import sync as sync_group
from agent.settings import AgentSettings
from sync.edge import identity as files
from sync.edge.edge import BLOBS
from tests.runtime.daemon import kiosk as daemon
from tests.servers import Centre
from tests.store.helpers import small_settings

MORE = """
[sync]
snapshot_at = ""
"""


async def test_enrolled_synced_and_sealed_while_the_agent_runs(tmp_path: Path, centre: Centre) -> None:
    """The agent is up before it is enrolled and needs no restart; every command has words and JSON."""
    async with daemon(tmp_path, MORE) as kiosk:
        await kiosk.start()
        status, out, _ = await kiosk.run("sync", "status")
        assert (status, "not enrolled" in out) == (1, True)
        code = await centre.code()
        status, out, err = await kiosk.run("enroll", "--central", centre.url, "--code", code, "--json")
        assert status == 0, err
        told = json.loads(out)
        assert told["agent_running"] is True
        assert told["kiosk_id"] == str(await centre.one("SELECT kiosk_id FROM kiosks"))
        status, out, err = await kiosk.run("sync", "now", "--json")
        assert status == 0, err
        assert json.loads(out)["lag_rows"] == 0
        assert await centre.one("SELECT count(*) FROM events") >= len(kiosk.events()) - 1
        status, out, err = await kiosk.run("sync", "snapshot")
        assert (status, "sealed" in out) == (0, True), err
        await kiosk.until(lambda: centre.one("SELECT state FROM blobs"), "stored")
        status, out, _ = await kiosk.run("sync", "status")
        assert status == 0
        assert {"office", "contact", "journal", "waiting"} <= {line.split()[0] for line in out.splitlines()}
        status, _, err = await kiosk.run("enroll", "--central", centre.url, "--code", await centre.code())
        assert (status, "--replace" in err) == (2, True)
        await kiosk.end()
        status, out, _ = await kiosk.run("sync", "status", "--json")
        offline = json.loads(out)
        assert (status, offline["enrolled"], offline["online"]) == (0, True, False)
        assert offline["head_seq"] == len(kiosk.events())
        status, _, err = await kiosk.run("sync", "now")
        assert (status, "not running" in err) == (2, True)
        assert list((kiosk.state / BLOBS).iterdir()) == []


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AgentSettings:
    settings = AgentSettings(store=small_settings(tmp_path / "state"))
    monkeypatch.setattr(client, "settings", lambda: settings)
    return settings


def test_before_the_agent_ran_for_the_first_time(config: AgentSettings) -> None:
    runner = CliRunner()
    answer = runner.invoke(sync_group.app, ["status", "--json"])
    told = json.loads(answer.stdout)
    assert (answer.exit_code, told["enrolled"], told["lag_rows"]) == (1, False, None)
    answer = runner.invoke(sync_group.app, ["status"])
    assert "not asked yet" in answer.stdout


def test_an_address_in_the_clear_is_refused_before_anything_is_written(config: AgentSettings) -> None:
    with pytest.raises(files.InsecureAddress):
        CliRunner().invoke(
            enroll_group.app, ["--central", "http://office.example", "--code", "X"], catch_exceptions=False
        )
    assert not config.store.directory.exists() or list(config.store.directory.iterdir()) == []


STATUS: dict[str, Any] = {
    "enrolled": True,
    "online": False,
    "kiosk_id": "k-1",
    "central_url": "https://office.example",
    "journal_id": "j-1",
    "head_seq": 10,
    "watermark_seq": 4,
    "lag_rows": 6,
    "oldest_unsent_age_s": 7_300.0,
    "error_code": "malformed_batch",
    "error_text": "rows 5 to 5: because",
    "alarm": "malformed_batch",
    "forked_from": "j-0",
    "last_contact_age_s": 61.0,
    "retry_in_s": 200_000.0,
    "blobs_pending": 2,
    "blobs_pending_bytes": 1234,
}


@pytest.mark.parametrize(
    "change, expected, missing",
    [
        ({}, ["6 rows, the oldest 2 h old", "lost, last 61 s ago", "in 2 d", "continues journal j-0", "ALARM"], []),
        ({"lag_rows": 0, "alarm": None, "online": True}, ["waiting    nothing", "online"], ["ALARM"]),
        ({"watermark_seq": None, "lag_rows": None}, ["not asked yet"], ["waiting"]),
        ({"error_code": None, "retry_in_s": None, "forked_from": None}, ["2 to upload"], ["error", "retry", "forked"]),
        ({"oldest_unsent_age_s": None, "last_contact_age_s": None}, ["the oldest ? old", "none since the start"], []),
        ({"oldest_unsent_age_s": 300.0}, ["5 min"], []),
    ],
)
def test_what_a_technician_reads(
    capsys: pytest.CaptureFixture[str], change: dict[str, Any], expected: list[str], missing: list[str]
) -> None:
    sync_group._show({**STATUS, **change}, as_json=False)
    out = capsys.readouterr().out
    assert [text for text in expected if text not in out] == []
    assert [text for text in missing if text in out] == []


@pytest.mark.parametrize(
    "change, status",
    [({}, 1), ({"alarm": None}, 0), ({"alarm": None, "enrolled": False}, 1)],
)
def test_the_exit_status_means_something(
    config: AgentSettings, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], status: int
) -> None:
    monkeypatch.setattr(sync_group, "_offline_status", lambda: {**STATUS, **change})
    assert CliRunner().invoke(sync_group.app, ["status"]).exit_code == status


@pytest.mark.parametrize("app", [enroll_group.app, sync_group.app])
def test_help_has_an_example(app: typer.Typer) -> None:
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    for command in commands:
        arguments = [command, "--help"] if len(commands) > 1 else ["--help"]
        assert "Example: kiosk " in CliRunner().invoke(app, arguments).stdout
