"""A kiosk that cannot record money does not take it (DESIGN 2, promise 5): reasons, and their rows in the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import StoreError
from agent.domain.events import AcceptanceInhibited, AcceptanceResumed, Event
from agent.store.ports import Reader, Store

DISK_LOW, STORE_FAILED, CLOCK_ABSURD, COMMITS_SLOW = "disk_low", "store_failed", "clock_absurd", "commits_slow"
STOPPING = "stopping"  # not journalled: `agent.stopped` says it


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no money is taken. `since_us`: wall clock; `reference_us`: see `AcceptanceInhibited`."""

    detail: str
    since_us: int
    reference_us: int | None = None


class Guard:
    """Any reason inhibits every acceptor at once; when the last is gone they get back what their module wants.

    Telling the devices comes first and needs no store; the journal is brought into step by `record_changes`, which
    keeps what it could not write for the next time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._troubles: dict[str, Trouble] = {}
        self._recorded: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """`on_change` runs on the loop at every change between clear and not clear."""
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
        was_clear = self.is_clear()
        self._troubles[reason] = Trouble(detail, self._clock.now_us(), reference_us)
        logger.bind(reason=reason).error("no money is taken: {detail}", detail=detail)
        if was_clear:
            self._tell()

    def lift(self, reason: str) -> None:
        if self._troubles.pop(reason, None) is None:
            return
        logger.bind(reason=reason).info("cause gone: {reason}", reason=reason)
        if self.is_clear():
            self._tell()

    def restore(self, reasons: Iterable[str]) -> None:
        """What the journal says is inhibited: closed by the first `record_changes` if the cause is gone."""
        self._recorded = set(reasons)

    async def record_changes(self, store: Store) -> None:
        """Bring the journal into step; on `StoreError` it is tried again the next time."""
        present = {name: trouble for name, trouble in self._troubles.items() if name != STOPPING}
        events: list[Event] = [
            AcceptanceInhibited(reason=name, detail=trouble.detail, reference_us=trouble.reference_us)
            for name, trouble in present.items()
            if name not in self._recorded
        ]
        events += [AcceptanceResumed(reason=name) for name in sorted(self._recorded - set(present))]
        if not events:
            return
        try:
            await store.record(events, actor="agent")
        except StoreError as error:
            logger.debug("the guard's change waits for the store: {error}", error=error.message)
        else:
            self._recorded = set(present)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def recorded_troubles(reader: Reader) -> dict[str, int | None]:
    """Reason → reference clock (µs) of what the journal says is inhibited."""
    rows = reader.all("SELECT reason, reference_us FROM acceptance_inhibits")
    return {str(row["reason"]): row["reference_us"] for row in rows}
