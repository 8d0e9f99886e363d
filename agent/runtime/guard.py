"""A kiosk that cannot record money does not take it (DESIGN 2, promise 5): reasons, and their rows in the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import StoreError
from agent.domain.events import AcceptanceInhibited, AcceptanceResumed, Event
from agent.store.ports import Reader, Store

DISK_LOW, STORE_FAILED, CLOCK_ABSURD, COMMITS_SLOW = "disk_low", "store_failed", "clock_absurd", "commits_slow"
JOURNAL_DAMAGED = "journal_damaged"
REASONS = (DISK_LOW, STORE_FAILED, CLOCK_ABSURD, COMMITS_SLOW, JOURNAL_DAMAGED)
STOPPING = "stopping"  # not journalled: `agent.stopped` says it

ROWS_WAITING_MAX = 64  # rows kept for a store that is away; the oldest give way


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no money is taken. `since_us`: wall clock; `reference_us`: see `AcceptanceInhibited`."""

    detail: str
    since_us: int
    reference_us: int | None = None


class Guard:
    """Any reason inhibits every acceptor at once; when the last is gone they get back what their module wants.

    Telling the devices comes first and needs no store. The rows for the journal wait in a bounded queue until
    `record_changes` could write them.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}
        self._recorded: set[str] = set()  # reasons that the journal holds as inhibited once all waiting rows are in it
        self._waiting: deque[Event] = deque(maxlen=ROWS_WAITING_MAX)
        self._writing = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """`on_change` runs on the loop at every change."""
        self._listeners.append(on_change)

    def is_clear(self) -> bool:
        return not self._troubles

    def troubles(self) -> Mapping[str, Trouble]:
        return dict(self._troubles)

    def has(self, reason: str) -> bool:
        return reason in self._troubles

    def set(self, reason: str, detail: str, reference_us: int | None = None) -> None:
        if reason in self._troubles:
            return
        self._troubles[reason] = Trouble(detail, self._clock.now_us(), reference_us)
        if reason != STOPPING:
            logger.bind(reason=reason).error("no money is taken: {detail}", detail=detail)
            if reason not in self._recorded:
                self._waiting.append(AcceptanceInhibited(reason=reason, detail=detail, reference_us=reference_us))
                self._recorded.add(reason)
        self._tell()

    def lift(self, reason: str) -> None:
        known = self._troubles.pop(reason, None) is not None
        if reason in self._recorded:
            self._recorded.discard(reason)
            self._waiting.append(AcceptanceResumed(reason=reason))
        if known:
            logger.bind(reason=reason).info("cause gone: {reason}", reason=reason)
            self._tell()

    def restore(self, reasons: Iterable[str]) -> None:
        """What the journal holds as inhibited from an earlier run: `set` again or `lift`ed by the first checks."""
        self._recorded |= set(reasons)

    async def record_changes(self, store: Store) -> None:
        """Write the waiting rows; on `StoreError` they wait for the next time."""
        async with self._writing:
            while self._waiting:
                batch = list(self._waiting)
                try:
                    await store.record(batch, actor="agent")
                except StoreError as error:
                    logger.debug("rows of the guard wait for the store: {error}", error=error.message)
                    return
                for event in batch:
                    if self._waiting and self._waiting[0] is event:  # else it gave way to newer ones meanwhile
                        self._waiting.popleft()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def recorded_troubles(reader: Reader) -> dict[str, int | None]:
    """Reason → reference clock (µs) of what the journal says is inhibited."""
    rows = reader.all("SELECT reason, reference_us FROM acceptance_inhibits")
    return {str(row["reason"]): row["reference_us"] for row in rows}
