"""What the rest of the agent may ask of time. Implementations: `agent/runtime/clock.py`, and test clocks."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Monotonic time for deadlines, wall time only for records that people and the office read."""

    def monotonic(self) -> float:
        """Seconds since an unspecified start; never goes back; counts while the process is paused."""
        ...

    def now_us(self) -> int:
        """Wall-clock time in microseconds since 1970-01-01 UTC. May jump: never used for deadlines of devices."""
        ...

    async def sleep_until(self, deadline: float) -> None:
        """Return when `monotonic() >= deadline`; at once when it already is."""
        ...
