"""`kiosk doctor` and `kiosk devices` on a kiosk that is stopped, new, or in trouble."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import doctor
from agent.cli.client import offline_store, settings
from agent.cli.doctor import Line, Verdict, examine
from agent.domain import events as ev
from tests.cli.conftest import Run


def lines() -> dict[str, Line]:
    return {line.name: line for line in examine()}


def test_a_new_kiosk_gets_warnings_with_their_cure(run: Run, config: Path) -> None:
    found = lines()
    assert found["settings"].verdict is found["sqlite"].verdict is found["disk"].verdict is Verdict.OK
    assert found["state directory"].verdict is found["daemon"].verdict is found["centre"].verdict is Verdict.WARN
    assert found["port of validator"].verdict is Verdict.FAIL
    assert all(line.cure for line in found.values() if line.verdict is not Verdict.OK)
    said = run("doctor")
    assert said.status == 1
    assert said.out.count("→") == sum(line.verdict is not Verdict.OK for line in found.values())
    told = json.loads(run("doctor", "--json").out)["lines"]
    assert [line["name"] for line in told] == list(found)
    assert {line["verdict"] for line in told} <= {"ok", "warn", "fail"}


def test_settings_that_cannot_be_are_the_finding(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIOSK_API__PROT", "1")
    assert lines()["settings"].verdict is Verdict.FAIL
    assert run("doctor").status == 1


def test_a_sound_kiosk_leaves_with_0(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent / "state"
    folder.mkdir(mode=0o700)
    (config.parent / "validator").touch()
    monkeypatch.setattr(doctor, "SYNCHRONISED", config)
    found = lines()
    assert (
        found["state directory"].verdict is found["clock"].verdict is found["port of validator"].verdict is Verdict.OK
    )
    assert run("doctor").status == 0
    folder.chmod(0o755)
    assert "chmod 700" in lines()["state directory"].cure


def test_what_is_switched_off_or_elsewhere_is_no_fault(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIOSK_DEVICES__VALIDATOR__ENABLED", "false")
    monkeypatch.setenv("KIOSK_DEVICES__REMOTE", '{"protocol": "ccnet", "port": "tcp:10.0.0.1:4001"}')
    monkeypatch.setenv("KIOSK_DEVICES__GLOB", f'{{"protocol": "ccnet", "port": "{config.parent}/agent*"}}')
    monkeypatch.setenv("KIOSK_DEVICES__NONE", f'{{"protocol": "ccnet", "port": "{config.parent}/nothing*"}}')
    monkeypatch.setenv("KIOSK_SYNC__ENABLED", "false")
    found = lines()
    assert found["port of validator"].verdict is found["port of remote"].verdict is Verdict.OK
    assert found["port of glob"].text.endswith("agent.toml")
    assert found["port of none"].verdict is Verdict.FAIL
    assert "switched off" in found["centre"].text


def test_a_full_disk_and_a_dead_clock_are_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for low, verdict in [("999999999", Verdict.FAIL), ("2", Verdict.OK)]:
        monkeypatch.setenv("KIOSK_STORE__DISK_LOW_MIB", low)
        monkeypatch.setenv("KIOSK_STORE__DISK_RESUME_MIB", "9999999999" if verdict is Verdict.FAIL else "3")
        assert lines()["disk"].verdict is verdict
    info = os.statvfs(config.parent)
    free = info.f_bavail * info.f_frsize // doctor.MIB
    monkeypatch.setenv("KIOSK_STORE__DISK_RESUME_MIB", str(free))
    assert lines()["disk"].verdict is Verdict.WARN
    monkeypatch.setattr(doctor, "BUILT_AT_US", 2**62)
    assert lines()["clock"].verdict is Verdict.FAIL


def test_a_check_that_breaks_is_a_finding_and_not_the_end(config: Path) -> None:
    """A pairing file that cannot be read must not hide the checks behind it."""
    folder = config.parent / "state"
    folder.mkdir()
    (folder / "identity.json").write_text("{")
    (folder / "identity.json").chmod(0o600)
    assert lines()["centre"].verdict is Verdict.FAIL


@pytest.fixture
def seen(config: Path) -> Iterator[None]:
    """A journal that has seen the validator come, fail and go."""
    events: list[ev.Event] = [
        ev.DeviceOnline(device="validator", protocol="ccnet", model="FL", serial="77", firmware="crc32:1"),
        ev.DeviceFaulted(device="validator", code="jam"),
        ev.DeviceOffline(device="validator", reason="port_lost"),
    ]
    with offline_store(settings()) as store:
        asyncio.run(store.record(events, actor="device:validator"))
    yield


def test_a_stopped_kiosk_tells_what_the_journal_knows(run: Run, seen: None) -> None:
    [device] = json.loads(run("devices", "--json").out)["devices"]
    wanted = {"name": "validator", "state": "stopped", "last_seen": "offline", "fault": "jam", "serial": "77"}
    assert {key: device[key] for key in wanted} == wanted
    text = run("devices").out
    assert "validator        stopped (last offline)  jam" in text
    assert "serial 77" in text


def test_a_kiosk_that_never_ran_has_no_journal_and_gets_none(run: Run, config: Path) -> None:
    told: dict[str, Any] = json.loads(run("devices", "--json").out)
    assert (told["running"], told["devices"][0]["last_seen"]) == (False, "never seen")
    assert not (config.parent / "state").exists()
    config.write_text("")
    assert "no devices are configured" in run("devices").out
