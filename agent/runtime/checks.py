"""The guard's eyes: disk, store, commit times, the wall clock. Plain functions and values: the scheduler only rings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from agent.domain.clock import Clock
from agent.domain.errors import StoreError
from agent.runtime.guard import CLOCK_ABSURD, COMMITS_SLOW, DISK_LOW, STORE_FAILED, Guard

_US = timedelta(microseconds=1)
BEHIND_MAX_US = timedelta(hours=24) // _US
AHEAD_MAX_US = timedelta(days=365) // _US
SLOW_COMMITS_FORGIVEN = 1  # one slow commit is a hiccup (checkpoint, SD card); two in a row are a state
MIB = 1 << 20


class ClockJudge:
    """Believes the wall clock as long as it stays within the bounds of promise 5 around the one last believed."""

    def __init__(self, clock: Clock, built_at_us: int, reference_us: int | None) -> None:
        self._clock = clock
        self._built_at_us = built_at_us
        self._reference_us = reference_us
        self._believed_at = clock.monotonic()

    @property
    def reference_us(self) -> int | None:
        return self._reference_us

    def objection(self) -> str | None:
        """What is absurd about the clock, for people; None when it is believed (and then is the new reference)."""
        now = self._clock.now_us()
        if now < self._built_at_us:
            return f"the clock says {_day(now)}, before this software was built ({_day(self._built_at_us)})"
        if self._reference_us is not None:
            expected = self._reference_us + int((self._clock.monotonic() - self._believed_at) * 1_000_000)
            if now < self._reference_us - BEHIND_MAX_US:
                return f"the clock says {_day(now)}, more than 24 h before the last record ({_day(self._reference_us)})"
            if now > expected + AHEAD_MAX_US:
                return f"the clock says {_day(now)}, over a year after the last record ({_day(self._reference_us)})"
        self._believe(now if self._reference_us is None else max(now, self._reference_us))
        return None

    def accept(self) -> None:
        """A technician says that the present clock is right, whatever the last record says."""
        self._believe(self._clock.now_us())

    def _believe(self, reference_us: int) -> None:
        self._reference_us = reference_us
        self._believed_at = self._clock.monotonic()


def _day(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True, slots=True)
class DiskMarks:
    """Bytes of free space: below `low` no money is taken, from `resume` on it is taken again."""

    low_bytes: int
    resume_bytes: int


def check_disk(guard: Guard, marks: DiskMarks, free_bytes: int) -> None:
    if free_bytes < marks.low_bytes:
        guard.set(DISK_LOW, f"{free_bytes // MIB} MiB free on the disk, {marks.low_bytes // MIB} MiB are needed")
    elif free_bytes >= marks.resume_bytes:
        guard.lift(DISK_LOW)


def check_clock(guard: Guard, judge: ClockJudge) -> None:
    objection = judge.objection()
    if objection is None:
        guard.lift(CLOCK_ABSURD)
    else:
        guard.set(CLOCK_ABSURD, objection, judge.reference_us)


class CommitWatch:
    """How long commits take, and whether the store answers at all."""

    def __init__(self, guard: Guard, clock: Clock, slow_s: float) -> None:
        self._guard = guard
        self._clock = clock
        self._slow_s = slow_s
        self._slow_in_a_row = 0
        self.answered_at = clock.monotonic()
        self.last_s = 0.0
        self.total = 0

    def took(self, seconds: float) -> None:
        """A commit is on the disk after `seconds`."""
        self.total += 1
        self.last_s = seconds
        self.answered_at = self._clock.monotonic()
        self._slow_in_a_row = self._slow_in_a_row + 1 if seconds > self._slow_s else 0
        if self._slow_in_a_row > SLOW_COMMITS_FORGIVEN:
            self._guard.set(COMMITS_SLOW, f"commits take {seconds * 1000:.0f} ms, longer than a device may wait")
        elif self._slow_in_a_row == 0:
            self._guard.lift(COMMITS_SLOW)

    def failed(self, error: StoreError) -> None:
        self.answered_at = self._clock.monotonic()
        self._guard.set(STORE_FAILED, f"the journal cannot be written: {error.message}")

    async def probe(self, commit: Callable[[], Awaitable[object]], rebuild: Callable[[], Awaitable[None]]) -> None:
        """One real commit. After a failure `rebuild` brings the device machines in step with the journal first."""
        started = self._clock.monotonic()
        try:
            await commit()
        except StoreError as error:
            self.failed(error)
            return
        self.took(self._clock.monotonic() - started)
        if self._guard.has(STORE_FAILED):
            await rebuild()
            self._guard.lift(STORE_FAILED)
