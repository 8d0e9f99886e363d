"""What devices can do, as Protocols of a few verbs, and what a driver needs from its surroundings.

A verb only states what is wanted; the driver's loop tells the device when the protocol allows. Money commands
(`stack`) are called only after their intent (`StackRequested`) is committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Protocol, runtime_checkable

from agent.domain.events import Denomination, Event
from agent.domain.money import Money

Emit = Callable[[Sequence[Event]], Awaitable[None]]
"""Commits all events of one reply in one fsynced transaction and returns; raises `StoreError` when it could not, and
then the driver must not acknowledge anything to its device."""


@unique
class DeviceState(Enum):
    """What people and metrics see of any device."""

    STARTING = "starting"  # port open, device not initialised yet
    READY = "ready"  # would take money if it were enabled
    ACTIVE = "active"  # enabled: taking money, reading, moving
    FAULTED = "faulted"  # answers, but cannot work: see `fault`
    OFFLINE = "offline"  # no port, or nothing answers


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A snapshot for diagnostics. `counters` are of this run of the driver, by stable snake_case names."""

    state: DeviceState
    protocol: str
    model: str = ""
    serial: str = ""
    firmware: str = ""
    fault: str = ""
    detail: str = ""
    table: tuple[Denomination, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceItem:
    """One frame, or noise, as it passed. `direction`: `host` (we sent it) or `device`; `meaning` is for people."""

    at: float  # Clock.monotonic() seconds
    direction: str
    raw: bytes
    meaning: str
    valid: bool


class Driver(Protocol):
    """One device on one link. `run` returns never; it raises `TransportError` when the link is gone and
    `ProtocolError` when what answers is not this protocol; the supervisor reopens with a new driver."""

    async def run(self) -> None: ...

    def info(self) -> DeviceInfo: ...

    def trace(self) -> Sequence[TraceItem]:
        """The last frames, oldest first: a bounded ring."""
        ...


@runtime_checkable
class NoteAcceptor(Protocol):
    """Takes banknotes. Starts inhibited; every note stops in escrow and waits for a verb."""

    def enable(self, notes: frozenset[Money] | None = None) -> None:
        """Take notes of these values, or of every value of the device's table when None."""
        ...

    def inhibit(self) -> None:
        """Take nothing more. A note already inside may still reach escrow (answer it) or even the stacker."""
        ...

    def stack(self, note_id: str, payment_id: str | None) -> None:
        """Keep the note in escrow; its `StackRequested` is committed. Unknown or settled notes are ignored."""
        ...

    def return_note(self, note_id: str) -> None:
        """Give the note in escrow back."""
        ...

    def hold(self, note_id: str) -> None:
        """Keep the note in escrow beyond the device's own time-out, until `stack` or `return_note`."""
        ...


class Link(Protocol):
    """Bytes to and from one device. Everything raises `TransportError` when the port is gone."""

    async def read(self, timeout_s: float) -> bytes:
        """What has arrived, at once; else wait up to `timeout_s`; b"" when nothing came."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def discard_input(self) -> None:
        """Forget what has arrived unasked."""
        ...

    async def close(self) -> None: ...
