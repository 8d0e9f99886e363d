"""When to RESET, and what silence means (sheet 3, 7, 8, 12)."""

from __future__ import annotations

from drivers.ccnet.health import ResetBudget
from drivers.ccnet.messages import Status
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.states import CLEARED_BY_RESET, STATES, UNKNOWN, WAITS_FOR_RESET

FAILURES_UNTIL_OFFLINE = 4
RESET_AGAIN_S = 2.0
RESET_AGAIN_MAX_S = 10.0


class Recovery:
    """A RESET gives an escrowed note back and its effect on a note being stacked is unspecified: never while a note is
    inside, and to a silent device only when no note is on record."""

    def __init__(self, settings: CcnetSettings) -> None:
        self._settings = settings
        self._budget = ResetBudget(settings.fault_resets_max, settings.fault_reset_polls)
        self._start_reset_due = settings.reset_at_start
        self._reset_at = float("-inf")
        self._tries = 0
        self._resetting = False
        self._failures = 0

    def seen(self, status: Status | None) -> None:
        """An answer to POLL."""
        self._failures = 0
        if status is None or status is Status.DEVICE_BUSY:
            return
        self._budget.poll_seen(status)
        if not STATES.get(status, UNKNOWN).fresh:
            self._resetting, self._tries = False, 0

    def heard(self) -> None:
        self._failures = 0

    def silent(self, now: float) -> bool:
        """Nothing was heard; True once that means the device is absent. Right after RESET it may be silent for long."""
        self._failures += 1
        if self._resetting and now - self._reset_at < self._settings.reset_timeout_s:
            return False
        return self._failures >= FAILURES_UNTIL_OFFLINE

    def wants_reset(self, status: Status | None, now: float, *, notes_open: bool) -> bool:
        """`status` None: the device is silent."""
        since = now - self._reset_at
        if status is None:
            absent = self._failures >= FAILURES_UNTIL_OFFLINE
            return absent and not notes_open and since >= self._settings.absent_reset_s
        if status in WAITS_FOR_RESET:
            return self._tries == 0 or since >= min(RESET_AGAIN_S * self._tries, RESET_AGAIN_MAX_S)
        if status in CLEARED_BY_RESET:
            return self._budget.allows(now) and not (status is Status.PAUSE and notes_open)
        return self._start_reset_due and status is Status.UNIT_DISABLED and not notes_open

    def reset_sent(self, status: Status | None, now: float) -> None:
        if status in CLEARED_BY_RESET:
            self._budget.spend(now)
        self._start_reset_due = False
        self._resetting = True
        self._reset_at = now
        self._tries += 1
