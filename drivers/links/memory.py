"""Two ends of a wire in memory, with faults to order on what each end sends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.domain.errors import TransportError
from drivers.links.inbox import Inbox


@dataclass(slots=True)
class Faults:
    """What the wire does to bytes sent from one end. All off by default; may be changed at any time."""

    chunk_bytes: int = 0  # deliver in pieces of this size, each in a turn of its own; 0: whole
    delay_s: float = 0.0  # deliver this much later
    echo: bool = False  # the sender hears itself first, as on a one-wire bus
    lose_next: int = 0  # swallow that many writes
    cut_after_bytes: int | None = None  # the wire breaks for good after that many more bytes
    mangle: Callable[[bytes], bytes] | None = None  # replace the bytes of a write (noise, flipped bits)


class MemoryLink:
    """One end. `faults` is about what this end sends. A break or a `close` is a `TransportError` at both ends."""

    def __init__(self, name: str) -> None:
        self.faults = Faults()
        self._name = name
        self._inbox = Inbox()
        self._peer: MemoryLink | None = None
        self._under_way: deque[tuple[float, bytes]] = deque()  # (due at, piece) on their way to the peer

    async def read(self, timeout_s: float) -> bytes:
        return await self._inbox.read(timeout_s)

    async def write(self, data: bytes) -> None:
        self._inbox.check()
        faults = self.faults
        if faults.lose_next > 0:
            faults.lose_next -= 1
            return
        if faults.echo:
            self._inbox.put(data)
        if faults.mangle is not None:
            data = faults.mangle(data)
        if faults.cut_after_bytes is not None:
            await self._cut(data, faults.cut_after_bytes)
            return
        self._deliver(data)

    async def discard_input(self) -> None:
        self._inbox.clear()
        self._inbox.check()

    async def close(self) -> None:
        self._break("was closed")

    async def _cut(self, data: bytes, left: int) -> None:
        self._deliver(data[:left])
        self.faults.cut_after_bytes = left - len(data[:left])
        if len(data) >= left:
            self._break("broke")
            raise TransportError(f"{self._name} broke")

    def _deliver(self, data: bytes) -> None:
        peer = self._peer
        if peer is None or not data:
            return
        step = self.faults.chunk_bytes or len(data)
        due = asyncio.get_running_loop().time() + self.faults.delay_s
        idle = not self._under_way
        self._under_way += [(due, data[at : at + step]) for at in range(0, len(data), step)]
        if idle:
            self._pump()

    def _pump(self) -> None:
        """Deliver what is due, a piece a turn of the loop; nothing overtakes what was sent before it."""
        loop = asyncio.get_running_loop()
        if self._under_way and self._under_way[0][0] <= loop.time() and self._peer is not None:
            self._peer._inbox.put(self._under_way.popleft()[1])
        if self._under_way:
            loop.call_at(self._under_way[0][0], self._pump)

    def _break(self, how: str) -> None:
        for end in (self, self._peer):
            if end is not None:
                end._inbox.fail(TransportError(f"{end._name} {how}"))


def memory_pair(name: str = "memory") -> tuple[MemoryLink, MemoryLink]:
    """(host's end, device's end)."""
    host, device = MemoryLink(f"{name} (host)"), MemoryLink(f"{name} (device)")
    host._peer, device._peer = device, host
    return host, device
