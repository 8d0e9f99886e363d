"""The contract between the agent and its modules: what a module gets (`Context`) and what it gives (`Parts`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel

from agent.domain.chain import JournalRow
from agent.domain.clock import Clock
from agent.domain.events import Event
from agent.domain.ids import Randomness
from agent.store.ports import Projection, Store
from drivers.ports import DeviceInfo, NoteAcceptor

Handler = Callable[[JournalRow, Any], Awaitable[None]]
"""Runs after the commit with the row and its event, in seq order, at least once: it must be idempotent. An exception
is logged and the row is tried again with back-off; the row itself stays recorded."""


class Devices(Protocol):
    """The devices of this kiosk by their configured names, whether or not they are there at the moment."""

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]: ...

    def info(self, name: str) -> DeviceInfo: ...

    def accepting_allowed(self) -> bool:
        """False while the kiosk must not take money (disk, clock, store): enabling an acceptor has no effect then."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What every module is built from. `require` makes a FastAPI dependency that lets only these roles through and
    gives the caller's name (`ui`, `user:<uuid>`) for `actor`."""

    store: Store
    clock: Clock
    randomness: Randomness
    devices: Devices
    require: Callable[..., Callable[..., str]]


@dataclass(frozen=True, slots=True)
class Parts:
    """`start` runs once after the devices are up (settle what a restart left open), `stop` before they go down."""

    router: APIRouter
    handlers: Mapping[type[Event], Handler] = field(default_factory=dict)
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """`name` is the folder, `prefix` the path below `/api/v1/`. `projections` are the module's tables, known before
    the store opens; `build` runs once per process."""

    name: str
    prefix: str
    settings: type[BaseModel]
    build: Callable[[Context, Any], Parts]
    projections: Sequence[Projection] = ()
