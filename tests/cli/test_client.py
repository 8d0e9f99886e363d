"""How commands reach the daemon, and what they say when they do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from agent.cli.client import DaemonStopped, Refused, daemon, is_running, offline_store, settings
from agent.domain.errors import KioskError
from agent.runtime.control import PEER, ControlSocket
from agent.store.errors import StoreLocked
from tests.cli.conftest import Run


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """Tells what it was asked; `/api/v1/no` refuses, `/api/v1/broken` answers nonsense."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    said: dict[str, Any] = {
        "path": scope["path"],
        "method": scope["method"],
        "body": json.loads(body) if body else None,
        "key": headers.get("idempotency-key"),
        "authorization": headers.get("authorization"),
        "uid": scope["extensions"][PEER]["uid"],
    }
    status, content = 200, json.dumps(said).encode()
    if scope["path"].endswith("/no"):
        status, content = 409, json.dumps({"code": "no_acceptor", "detail": "nothing takes notes"}).encode()
    elif scope["path"].endswith("/broken"):
        status, content = 502, b"<html>"
    elif scope["path"].endswith("/empty"):
        status, content = 204, b""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": content})


@pytest.fixture
def listening(config: Path) -> Iterator[None]:
    """A daemon on the control socket, in a loop of its own: the client blocks."""
    folder = config.parent / "state"
    folder.mkdir()
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    control = ControlSocket(answers, folder)
    asyncio.run_coroutine_threadsafe(control.start(), loop).result(5)
    yield
    asyncio.run_coroutine_threadsafe(control.stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_the_daemon_is_asked_through_its_socket(config: Path, listening: None) -> None:
    with daemon(settings()) as kiosk:
        assert kiosk.get("/devices")["path"] == "/api/v1/devices"
        first, second = kiosk.post("/cash/fills", {"amount": 1}), kiosk.post("/cash/fills", key="k")
        assert (first["body"], second["body"], second["key"]) == ({"amount": 1}, {}, "k")
        assert len(first["key"]) == 36
        kiosk.log_in("secret")
        assert kiosk.call("DELETE", "/auth/session")["authorization"] == "Bearer secret"
        assert kiosk.get("/empty") is None


def test_a_refusal_keeps_the_daemons_code(config: Path, listening: None) -> None:
    with daemon(settings()) as kiosk:
        with pytest.raises(Refused, match="nothing takes notes") as refused:
            kiosk.get("/no")
        assert (refused.value.code, refused.value.details["status"]) == ("no_acceptor", 409)
        with pytest.raises(Refused, match="answered 502") as broken:
            kiosk.get("/broken")
        assert broken.value.code == "refused"


def test_a_daemon_that_is_stopped_is_told_so(config: Path) -> None:
    assert not is_running(settings())
    with pytest.raises(DaemonStopped, match="start it with: kiosk agent"), daemon(settings()):
        raise AssertionError("it must not get here")


def test_an_account_that_may_not_is_told_so(config: Path, listening: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_error: object) -> None:
            return None

        def connect(self, address: str) -> None:
            raise PermissionError

    monkeypatch.setattr("socket.socket", lambda *arguments: Refusing())
    with pytest.raises(KioskError, match="sudo"):
        is_running(settings())


def test_the_store_itself_is_opened_under_its_lock(config: Path) -> None:
    with offline_store(settings()) as store:
        with pytest.raises(StoreLocked, match="pid"), offline_store(settings()):
            raise AssertionError("it must not get here")
        with store.read() as reader:
            assert reader.head()[0] == 1
            assert reader.all("SELECT * FROM device_status") == []
    with offline_store(settings()):
        pass


def test_trace_shows_frames_once(run: Run, config: Path, listening: None, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [
        {"age_s": 0.5, "direction": "host", "hex": "02 03", "meaning": "POLL", "valid": True},
        {"age_s": 0.4999, "direction": "device", "hex": "FF", "meaning": "noise", "valid": False},
    ]
    monkeypatch.setattr("agent.cli.client.Daemon.get", lambda self, path: {"frames": frames})
    said = run("devices", "trace", "validator")
    assert said.status == 0
    assert [line.split()[1:] for line in said.out.splitlines()] == [
        ["host", "POLL", "02", "03"],
        ["device", "!", "noise", "FF"],
    ]
    said = run("devices", "trace", "validator", "--json")
    assert [json.loads(line) for line in said.out.splitlines()] == frames
