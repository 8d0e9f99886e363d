"""What a port has received and nobody has read yet: a bounded buffer with one waiting reader."""

from __future__ import annotations

import asyncio

from agent.domain.errors import TransportError

INBOX_MAX_BYTES = 65_536
"""A device speaks when asked, in frames of a few hundred bytes; more than this unread is noise and the oldest goes."""


class Inbox:
    """Filled by the loop's callbacks, emptied by `read`. `fail` makes every later read raise."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._error: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        self._data += data
        del self._data[: max(0, len(self._data) - INBOX_MAX_BYTES)]
        self._wake()

    def fail(self, error: TransportError) -> None:
        """The port is gone. What had arrived before can still be read."""
        if self._error is None:
            self._error = error
        self._wake()

    def check(self) -> None:
        if self._error is not None:
            raise TransportError(self._error.message, **self._error.details) from self._error

    def clear(self) -> None:
        self._data.clear()

    async def read(self, timeout_s: float) -> bytes:
        """All that is there, else the first bytes within `timeout_s`, else b""."""
        if not self._data:
            self.check()
            await self._wait(timeout_s)
        data = bytes(self._data)
        self._data.clear()
        if not data:
            self.check()
        return data

    async def _wait(self, timeout_s: float) -> None:
        if timeout_s <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
