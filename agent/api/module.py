"""The contract between the agent and its modules: what a module gets (`Context`) and what it gives (`Parts`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from agent.domain.chain import JournalRow
from agent.domain.clock import Clock
from agent.domain.events import Event
from agent.domain.ids import Randomness
from agent.store.ports import Projection, Reader, Store, Transaction
from drivers.ports import DeviceInfo, NoteAcceptor

Handler = Callable[[JournalRow, Any], Awaitable[None]]
"""Runs after the commit with the row and its event, in seq order, at least once: it must be idempotent. An exception
is logged and the row is tried again with back-off; the row itself stays recorded."""


Snapshot = Callable[[Reader], Mapping[str, Any]]
"""What a client that has just connected needs to know of a module, JSON-able, read at one moment of the file. It goes
to every role, so it holds only what each of them may see."""

Answer = tuple[int, Mapping[str, Any]]
"""HTTP status and JSON body."""


class Once(Protocol):
    """Does a POST that moves money at most once per `Idempotency-Key` (DESIGN 7): `return await once(request, work)`.

    `work` runs in one transaction together with the key, as the caller (`actor`) and under the request's trace id; the
    same key and body later gets the stored answer. The dependency of `require` must stand on the route."""

    async def __call__(self, request: Request, work: Callable[[Transaction], Answer]) -> Response: ...


class Devices(Protocol):
    """The devices of this kiosk by their configured names, whether or not they are there at the moment."""

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]: ...

    def info(self, name: str) -> DeviceInfo: ...

    def accepting_allowed(self) -> bool:
        """False while the kiosk must not take money (disk, clock, store): enabling an acceptor has no effect then."""
        ...

    def inhibit_reasons(self) -> Sequence[str]:
        """Stable codes of what forbids taking money (`disk_low`, `clock_absurd`, …); empty when it is allowed."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What every module is built from. `require` makes a FastAPI dependency that lets only these roles through and
    gives the caller's name (`ui`, `user:<uuid>`) for `actor`. `trace_id` tells the id of the request being answered,
    for `transact(trace_id=...)`; empty outside of one."""

    store: Store
    clock: Clock
    randomness: Randomness
    devices: Devices
    require: Callable[..., Callable[..., str]]
    once: Once
    trace_id: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class Parts:
    """`start` runs once after the devices are up (settle what a restart left open), `stop` before they go down."""

    router: APIRouter
    handlers: Mapping[type[Event], Handler] = field(default_factory=dict)
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """`name` is the folder, `prefix` the path below `/api/v1/`. `projections` are the module's tables, known before
    the store opens; `build` runs once per process."""

    name: str
    prefix: str
    settings: type[BaseModel]
    build: Callable[[Context, Any], Parts]
    projections: Sequence[Projection] = ()
