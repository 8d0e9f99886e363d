"""Growing delays after failed logins, by name, whether or not such a user exists; they survive a restart.

An attempt counts as failed before its secret is looked at and is forgiven when it was right: guesses at the same time
and a power cut in the middle gain nothing.
"""

from __future__ import annotations

import math
import unicodedata
from hashlib import sha256
from typing import ClassVar

from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.store.ports import Reader, Row, Transaction

FREE_ATTEMPTS = 5
FIRST_DELAY_S = 30
LONGEST_DELAY_S = 3600
NAMES_MAX = 1000


class LockedOut(KioskError):
    code: ClassVar[str] = "locked_out"
    http_status: ClassVar[int] = 429
    retryable: ClassVar[bool] = True


def name_key(name: str) -> str:
    """Names are the same when people would read them so."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def attempt_key(name: str) -> bytes:
    return sha256(name_key(name).encode()).digest()


def delay_s(failures: int) -> int:
    """Seconds until the next attempt after so many failures in a row: 0 for the first four, then 30, 60, … 3600."""
    over = failures - FREE_ATTEMPTS
    return 0 if over < 0 else min(FIRST_DELAY_S * 2 ** min(over, 20), LONGEST_DELAY_S)


class Lockout:
    """The table says who waits after a restart; while we run the monotonic clock decides, so that a wall clock that
    jumps neither frees nor locks anybody. A wait is never longer than the delay that its failures earned."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def wait_s(self, reader: Reader, key: bytes) -> int:
        """Whole seconds until this name may try again; 0 when it may."""
        row = _row(reader, key)
        return 0 if row is None else math.ceil(max(0, self._free_at(row, key) - self._clock.monotonic()))

    def begin(self, tx: Transaction, key: bytes) -> int:
        """Count an attempt; returns the failures so far, this one included. Raises `LockedOut`, counting nothing."""
        row = _row(tx, key)
        if row is not None:
            self._until[key] = self._free_at(row, key)
        if wait_s := self.wait_s(tx, key):
            raise LockedOut(f"Too many failed attempts; try again in {wait_s} seconds.", retry_after_s=wait_s)
        failures = 1 + (row["failures"] if row else 0)
        now_us = self._clock.now_us()
        self._until[key] = self._clock.monotonic() + delay_s(failures)
        tx.execute(
            "INSERT INTO login_attempts(attempt_key, failures, locked_until_us, last_us) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT(attempt_key) DO UPDATE SET failures = ?2, locked_until_us = ?3, last_us = ?4",
            *(key, failures, now_us + delay_s(failures) * 1_000_000, now_us),
        )
        if row is None:
            self._prune(tx)
        return failures

    def forgive(self, tx: Transaction, key: bytes) -> None:
        self._until.pop(key, None)
        tx.execute("DELETE FROM login_attempts WHERE attempt_key = ?", key)

    def _free_at(self, row: Row, key: bytes) -> float:
        left_s = min(float(row["locked_until_us"] - self._clock.now_us()) / 1e6, delay_s(row["failures"]))
        return self._until.get(key, self._clock.monotonic() + left_s)

    def _prune(self, tx: Transaction) -> None:
        """Names that are nobody's must not fill the disk, nor push out the lock of a real user."""
        count = tx.one("SELECT count(*) AS n FROM login_attempts")
        if count is None or count["n"] <= NAMES_MAX:
            return
        users = {attempt_key(row["name"]) for row in tx.all("SELECT name FROM users")}
        rows = tx.all("SELECT attempt_key FROM login_attempts ORDER BY last_us DESC, attempt_key")
        strangers = [bytes(row["attempt_key"]) for row in rows if bytes(row["attempt_key"]) not in users]
        for key in strangers[NAMES_MAX:]:
            self.forgive(tx, key)


def _row(reader: Reader, key: bytes) -> Row | None:
    return reader.one("SELECT failures, locked_until_us FROM login_attempts WHERE attempt_key = ?", key)
