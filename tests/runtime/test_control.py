"""The control socket: only this account may connect, and the kernel says who did."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import httpx

from agent.runtime.control import NAME, PEER, ControlSocket


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the peer it was told of; `/slow` never answers by itself."""
    if scope["path"] == "/slow":
        await asyncio.sleep(60)
    peer = scope["extensions"][PEER]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{peer['uid']} {peer['pid']} {PEER in scope['state']}".encode()})


async def ask(path: Path, url: str = "/", **headers: str) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
        return await client.get(url, headers=headers)


async def test_the_caller_is_who_the_kernel_says(tmp_path: Path) -> None:
    control = ControlSocket(echo, tmp_path)
    await control.start()
    try:
        answer = await ask(control.path, **{"kiosk.peer": "0", "x-forwarded-for": "1.2.3.4"})
        assert answer.text == f"{os.getuid()} {os.getpid()} False"
        info = control.path.stat()
        assert stat.S_ISSOCK(info.st_mode)
        assert stat.S_IMODE(info.st_mode) == 0o600
    finally:
        await control.stop()
    assert not control.path.exists()


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(tmp_path / NAME))
    dead.close()
    control = ControlSocket(echo, tmp_path)
    await control.start()
    assert (await ask(control.path)).status_code == 200
    await control.stop()
    await control.stop()


async def test_a_request_that_never_ends_does_not_hold_up_the_stop(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("agent.runtime.control.CLOSE_TIMEOUT_S", 0.1)
    control = ControlSocket(echo, tmp_path)
    await control.start()
    slow = asyncio.create_task(ask(control.path, "/slow"))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(2):
        await control.stop()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
