"""Bytes through a non-blocking file descriptor on the event loop: what serial ports and ptys have in common."""

from __future__ import annotations

import asyncio
import os
import select

from agent.domain.errors import TransportError
from drivers.links.inbox import Inbox

READ_BYTES = 4096
WRITE_TIMEOUT_S = 2.0
"""A few hundred bytes at 9600 bit/s leave in well under a second; longer means that nobody takes them."""


class FdLink:
    """A `Link` over `fd`, which must be non-blocking; `name` is for messages. `close` closes the descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._inbox = Inbox()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._reading = True
        self._loop.add_reader(fd, self._readable)

    async def read(self, timeout_s: float) -> bytes:
        self._check_open()
        return await self._inbox.read(timeout_s)

    async def write(self, data: bytes) -> None:
        self._check_open()
        self._inbox.check()
        left = memoryview(data)
        deadline = self._loop.time() + WRITE_TIMEOUT_S
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:
                await self._writable(deadline)
            except OSError as error:
                raise self._lost(error) from error

    async def discard_input(self) -> None:
        self._check_open()
        while self._reading and select.select([self._fd], [], [], 0)[0]:
            self._readable()  # also what the kernel still holds; asked first, for a tty without data reads as b""
            self._inbox.clear()
        self._inbox.clear()
        self._inbox.check()

    async def close(self) -> None:
        if self._open:
            self._open = False
            self._stop_reading()
            self._inbox.fail(TransportError(f"{self._name} was closed"))
            os.close(self._fd)

    def _check_open(self) -> None:
        if not self._open:
            raise TransportError(f"{self._name} is closed")

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self._inbox.put(data)
        else:
            self._lost(OSError("end of file: unplugged"))

    def _lost(self, error: OSError) -> TransportError:
        lost = TransportError(f"{self._name} is gone: {error.strerror or error}")
        self._stop_reading()
        self._inbox.fail(lost)
        return lost

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    async def _writable(self, deadline: float) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            async with asyncio.timeout_at(deadline):
                await ready
        except TimeoutError as error:
            raise TransportError(f"{self._name} takes no bytes for {WRITE_TIMEOUT_S:g} s") from error
        finally:
            self._loop.remove_writer(self._fd)
