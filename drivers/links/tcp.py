"""TCP: a serial device server (RFC 2217 boxes in raw mode, ser2net) or a simulator on another machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from agent.domain.errors import TransportError
from drivers.links.inbox import Inbox

CONNECT_TIMEOUT_S = 3.0
WRITE_TIMEOUT_S = 2.0


class TcpLink(asyncio.Protocol):
    """A `Link` over one connection."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inbox = Inbox()
        self._transport: asyncio.Transport | None = None
        self._ready = asyncio.Event()
        self._ready.set()

    async def read(self, timeout_s: float) -> bytes:
        return await self._inbox.read(timeout_s)

    async def write(self, data: bytes) -> None:
        self._inbox.check()
        if self._transport is None or self._transport.is_closing():
            raise TransportError(f"{self._name} is closed")
        self._transport.write(data)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError as error:
            raise TransportError(f"{self._name} takes no bytes for {WRITE_TIMEOUT_S:g} s") from error

    async def discard_input(self) -> None:
        self._inbox.clear()
        self._inbox.check()

    async def close(self) -> None:
        self._inbox.fail(TransportError(f"{self._name} was closed"))
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio promises for a stream
        self._transport = transport
        plug = transport.get_extra_info("socket")
        if plug is not None:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self._inbox.put(data)

    def pause_writing(self) -> None:
        self._ready.clear()

    def resume_writing(self) -> None:
        self._ready.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ready.set()
        self._inbox.fail(TransportError(f"{self._name} is gone: {exc or 'closed by the other end'}"))


async def open_tcp(host: str, port: int) -> TcpLink:
    """Connect. Raises `TransportError` when nobody answers within `CONNECT_TIMEOUT_S`."""
    name = f"tcp:{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, link = await loop.create_connection(lambda: TcpLink(name), host, port)
    except (OSError, TimeoutError) as error:
        raise TransportError(f"cannot connect to {name}: {str(error) or 'no answer'}", port=name) from error
    return link


async def serve_tcp(host: str, port: int, serve: Callable[[TcpLink], Awaitable[None]]) -> asyncio.Server:
    """Listen (port 0: any free one) and call `serve` for each connection, as a simulator does."""
    tasks: set[asyncio.Task[None]] = set()

    def accept() -> TcpLink:
        link = TcpLink(f"tcp:{host}:{port}")
        task = asyncio.ensure_future(_serve_one(link, serve))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return link

    try:
        return await asyncio.get_running_loop().create_server(accept, host, port)
    except OSError as error:
        raise TransportError(f"cannot listen on tcp:{host}:{port}: {error.strerror or error}") from error


async def _serve_one(link: TcpLink, serve: Callable[[TcpLink], Awaitable[None]]) -> None:
    try:
        await serve(link)
    except TransportError:
        return  # the host hung up; the device goes on without it
    finally:
        await link.close()
