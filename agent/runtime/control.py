"""The control socket `<state dir>/agent.sock`: the same API for this machine's CLI, with the caller's uid and pid.

The kernel names the peer (SO_PEERCRED, unix(7)); it reaches the API as `scope["extensions"]["kiosk.peer"]`, which no
client can write.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

NAME = "agent.sock"
PEER = "kiosk.peer"
CLOSE_TIMEOUT_S = 2.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class _PeerProtocol(H11Protocol):
    """Notes the peer in the state of its connection, from which uvicorn makes every scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        self.app_state = {**self.app_state, PEER: {"uid": uid, "pid": pid}}
        super().connection_made(transport)


class ControlSocket:
    """Serves `app` on a socket that only this account and root may connect to. The state directory's lock is held, so
    a socket file that lies there is a dead agent's."""

    def __init__(self, app: App, folder: Path) -> None:
        self._app = app
        self.path = folder / NAME
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        config = Config(
            self._with_peer, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False
        )
        config.load()
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(listener.fileno(), 0o600)  # before bind: the file is never wider than this, unix(7)
        listener.bind(str(self.path))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _PeerProtocol(config=config, server_state=self._state, app_state={}), sock=listener
        )

    async def stop(self) -> None:
        """No new connections; those that answer may finish within `CLOSE_TIMEOUT_S`."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(set(self._state.tasks), timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
        self.path.unlink(missing_ok=True)

    async def _with_peer(self, scope: Any, receive: Receive, send: Send) -> None:
        peer = scope.get("state", {}).pop(PEER, None)
        extensions = {**(scope.get("extensions") or {}), PEER: peer}
        await self._app({**scope, "extensions": extensions}, receive, send)
