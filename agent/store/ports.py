"""What the rest of the agent may ask of the store. One writer thread; callers' works are merged into group commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar
from uuid import UUID

from agent.domain.chain import JournalRow
from agent.domain.events import Event

T = TypeVar("T")
Row = Mapping[str, Any]
"""A table row by column name."""


class Reader(Protocol):
    """One consistent view of the file: everything read through it is of the same moment."""

    def all(self, sql: str, *parameters: object) -> list[Row]: ...

    def one(self, sql: str, *parameters: object) -> Row | None: ...

    def head(self) -> tuple[int, bytes]:
        """(seq, hash) of the last journal row; (0, genesis hash) for an empty journal."""
        ...

    def rows(self, after: int, limit: int) -> list[JournalRow]:
        """Journal rows with `seq > after`, in order, at most `limit`."""
        ...

    def open_events(self, device: str) -> list[Event]:
        """All events of this device's open records (see `Event.record`), in seq order: what its machine is built
        from."""
        ...


class Transaction(Reader, Protocol):
    """The open write transaction, in a savepoint of its own: it sees its own writes; an exception undoes only it."""

    def append(self, event: Event) -> JournalRow:
        """Journal row, ledger entries and projections of `event`, at once and together."""
        ...

    def execute(self, sql: str, *parameters: object) -> None:
        """Write a table that is not a projection (idempotency keys, users, cursors)."""
        ...


class Projection(Protocol):
    """Tables kept in step with the journal, in the same transaction, and rebuilt from it at any time.

    `schema` is the SQL that creates them (idempotent); `tables` their names, dropped before a rebuild. Raising
    `version` makes the next start rebuild this projection. `apply` must be deterministic: it may read the row, the
    event and its own tables, nothing else. It raises only for a defect of ours: facts are never refused.
    """

    name: str
    version: int
    tables: Sequence[str]
    handles: frozenset[type[Event]]

    @property
    def schema(self) -> str: ...

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None: ...


class ProjectionWriter(Protocol):
    def all(self, sql: str, *parameters: object) -> list[Row]: ...

    def one(self, sql: str, *parameters: object) -> Row | None: ...

    def execute(self, sql: str, *parameters: object) -> None: ...


class Store(Protocol):
    """All verbs raise `StoreError` (`StorageFailed`, `StoreClosed`, …) when the file cannot be written or trusted."""

    boot_id: UUID

    @property
    def journal_id(self) -> UUID:
        """The present journal's; another one after a fork."""
        ...

    async def transact(self, work: Callable[[Transaction], T], *, actor: str, trace_id: str = "") -> T:
        """Run `work` in the writer thread and return its result once the commit is on the disk (fsynced).

        `work` decides on what it reads and appends events; it must be quick and free of other effects. Works that
        wait together share one commit. An exception from `work` undoes only its own writes and is raised here.
        """
        ...

    async def record(self, events: Iterable[Event], *, actor: str, trace_id: str = "") -> list[JournalRow]:
        """Append `events` in one transaction; returns their rows once they are on the disk."""
        ...

    def read(self) -> AbstractContextManager[Reader]:
        """A short read transaction on a connection of its own, never blocking the writer; usable from any thread."""
        ...

    def subscribe(self, wake: Callable[[int], None]) -> Callable[[], None]:
        """Call `wake(last_seq)` after every commit (from the writer thread); returns the way to unsubscribe."""
        ...

    async def cursor(self, name: str) -> int:
        """The seq that `name` has worked through; 0 at first."""
        ...

    async def advance(self, name: str, seq: int) -> None:
        """Remember the cursor. Written with the next commit, or alone after at most a second: a crash repeats rows,
        never skips them."""
        ...

    async def fork(self, common_seq: int) -> UUID:
        """Go on in a new journal that continues the present one after `common_seq`; later rows follow again in it
        (same ids, new seq and chain). Projections stay. Returns the new journal's id."""
        ...
