"""How far each subscriber has come. Kept in memory and written with commits, at the latest after a second."""

from __future__ import annotations

import threading

from agent.store.engine import Engine


class Cursors:
    """Thread-safe. A crash loses at most what was advanced since the last write: rows repeat, none is skipped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self._dirty: dict[str, int] = {}
        self._live: set[str] = set()

    def reload(self, engine: Engine) -> None:
        """Read what the file holds: at start, after a recovery, after a fork."""
        with self._lock:
            self._known = {str(row["name"]): row["seq"] for row in engine.writer.all("SELECT name, seq FROM cursors")}
            self._dirty.clear()

    def get(self, name: str) -> int:
        with self._lock:
            self._live.add(name)
            return self._known.get(name, 0)

    def set(self, name: str, seq: int) -> None:
        with self._lock:
            self._live.add(name)
            self._known[name] = self._dirty[name] = seq

    def take(self) -> dict[str, int]:
        """What is to be written; given back by `put_back` when the commit fails."""
        with self._lock:
            dirty, self._dirty = self._dirty, {}
            return dirty

    def put_back(self, taken: dict[str, int]) -> None:
        with self._lock:
            self._dirty = taken | self._dirty

    def dirty(self) -> bool:
        return bool(self._dirty)

    def settle(self, engine: Engine) -> dict[str, int]:
        """Write everything, and say where this process's subscribers stand."""
        taken = self.take()
        if taken:
            with engine.transaction():
                engine.set_cursors(taken)
        with self._lock:
            return {name: self._known.get(name, 0) for name in self._live}
