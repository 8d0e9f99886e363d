"""Stops taking money before the disk is full, and keeps a reserve so that late facts can still be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from agent.store.disk import Disk

RESERVE_NAME = "reserve"


@unique
class Space(Enum):
    """What the disk allows."""

    AMPLE = "ample"  # take money
    LOW = "low"  # take no money; everything that happens is still recorded
    CRITICAL = "critical"  # the same, and the reserve file has been given up for it


@dataclass(frozen=True, slots=True)
class SpaceMarks:
    """Free bytes. `critical` < `low` < `resume`: what lies between `low` and `resume` keeps the present answer."""

    low: int
    resume: int
    critical: int
    reserve: int


class SpaceGuard:
    """Looks at the free space when asked to, at most every `look`; for one thread.

    The reserve is a file of written zeros. It is deleted once at the critical mark and made again when there is room
    for it above the resume mark; `changed` is called with the new state and the free bytes at every change.
    """

    def __init__(self, disk: Disk, folder: Path, marks: SpaceMarks, changed: Callable[[Space, int], None]) -> None:
        self._disk = disk
        self._folder = folder
        self._marks = marks
        self._changed = changed
        self._reserve = folder / RESERVE_NAME
        self.state = Space.AMPLE
        self.free_bytes = 0

    def look(self) -> Space:
        """Compare the free space with the marks; raises nothing: a file system that gives no answer counts as full."""
        try:
            self.free_bytes = self._disk.free_bytes(self._folder)
        except OSError:
            self.free_bytes = 0
        before, self.state = self.state, self._next()
        if self.state is Space.CRITICAL:
            self._give_up()
        elif self.state is Space.AMPLE:
            self._make()
        if self.state is not before:
            self._changed(self.state, self.free_bytes)
        return self.state

    def _next(self) -> Space:
        free, marks = self.free_bytes, self._marks
        if free < marks.critical:
            return Space.CRITICAL
        if free < marks.low:
            return Space.CRITICAL if self.state is Space.CRITICAL else Space.LOW
        room_wanted = marks.resume + (0 if self._reserve.exists() else marks.reserve)
        return Space.AMPLE if self.state is Space.AMPLE or free >= room_wanted else self.state

    def _give_up(self) -> None:
        try:
            self._disk.remove(self._reserve)
        except OSError:
            return  # tried again at the next look

    def _make(self) -> None:
        if not self._marks.reserve or self._reserve.exists():
            return
        if self.free_bytes < self._marks.low + self._marks.reserve:
            return  # it would push the free space under the mark by itself
        try:
            self._disk.extend(self._reserve, self._marks.reserve)
        except OSError:
            self._give_up()
