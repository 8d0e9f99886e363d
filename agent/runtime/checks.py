"""The guard's eyes: commit times and the wall clock. Plain functions and values: the scheduler only rings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.domain.clock import Clock
from agent.runtime.guard import CLOCK_ABSURD, COMMITS_SLOW, Guard

_US = timedelta(microseconds=1)
BEHIND_MAX_US = timedelta(hours=24) // _US
AHEAD_MAX_US = timedelta(days=365) // _US
SLOW_COMMITS_FORGIVEN = 1  # one slow commit is a hiccup (checkpoint, SD card); two in a row are a state


class ClockJudge:
    """Believes the wall clock as long as it stays within the bounds of promise 5 around the one last believed."""

    def __init__(self, clock: Clock, built_at_us: int, reference_us: int | None) -> None:
        self._clock = clock
        self._built_at_us = built_at_us
        self._reference_us = reference_us
        self._believed_at = clock.monotonic()

    def check(self, guard: Guard) -> None:
        objection = self.objection()
        if objection is None:
            guard.lift(CLOCK_ABSURD)
        else:
            guard.set(CLOCK_ABSURD, objection, self._reference_us)

    def objection(self) -> str | None:
        """What is absurd about the clock, for people; None when it is believed (and then is the new reference)."""
        now, reference = self._clock.now_us(), self._reference_us
        if now < self._built_at_us:
            return f"the clock says {_day(now)}, before this software was built ({_day(self._built_at_us)})"
        if reference is not None:
            expected = reference + int((self._clock.monotonic() - self._believed_at) * 1_000_000)
            if now < reference - BEHIND_MAX_US:
                return f"the clock says {_day(now)}, more than 24 h before the last record ({_day(reference)})"
            if now > expected + AHEAD_MAX_US:
                return f"the clock says {_day(now)}, more than a year after the last record ({_day(reference)})"
        self._believe(now if reference is None else max(now, reference))
        return None

    def accept(self) -> None:
        """A technician says that the present clock is right, whatever the last record says."""
        self._believe(self._clock.now_us())

    def _believe(self, reference_us: int) -> None:
        self._reference_us = reference_us
        self._believed_at = self._clock.monotonic()


def _day(us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).strftime("%Y-%m-%d %H:%M")


class CommitWatch:
    """How long commits take as their callers see it: two slow ones in a row inhibit, a quick one lifts."""

    def __init__(self, guard: Guard, clock: Clock, slow_s: float) -> None:
        self._guard = guard
        self._clock = clock
        self._slow_s = slow_s
        self._slow_in_a_row = 0
        self.answered_at = clock.monotonic()

    def answered(self) -> None:
        """The writer thread lives, whatever it said."""
        self.answered_at = self._clock.monotonic()

    def took(self, seconds: float) -> None:
        """A commit is on the disk after `seconds`."""
        self.answered()
        if seconds <= self._slow_s:
            self._slow_in_a_row = 0
            self._guard.lift(COMMITS_SLOW)
            return
        self._slow_in_a_row += 1
        if self._slow_in_a_row > SLOW_COMMITS_FORGIVEN:
            self._guard.set(COMMITS_SLOW, f"commits take {seconds * 1000:.0f} ms, longer than a device may wait")
