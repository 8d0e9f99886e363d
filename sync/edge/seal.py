"""Child process of `snapshot.py`: copy a SQLite file consistently, squeeze it (zstd), seal it (age).

A script of its own (`python -I seal.py`) without the agent's modules: it starts fast, its memory goes back when it is
done, and age, which holds the GIL, holds only ours. It reads one JSON line (`Job`) from stdin and answers with one on
stdout; when stdin closes, the agent is gone and so are we. The agent's writer is not delayed: one read transaction for
the whole copy (WAL: readers block nobody), at a bounded pace, on the lowest CPU priority.

The plain copy is a 0600 file beside the sealed one, unlinked before sealing begins; whoever starts next removes what a
power cut left of it. Sessions are not in it: they are logins, and worthless in a restore.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

PAGES_AT_ONCE = 64
SYNC_EVERY_BYTES = 4 << 20  # so that no later fsync of the journal has to wait for a heap of our dirty pages
ZSTD_LEVEL = 6
NICE = 19
GONE = 3


@dataclass(frozen=True, slots=True)
class Job:
    """`plain` and `sealed` are the paths to use; `omit` names tables whose rows stay out; 0 bytes/s: no pacing."""

    source: str
    plain: str
    sealed: str
    recipients: list[str]
    omit: list[str]
    bytes_per_s: int


class ParentGone(Exception):
    """Nobody waits for the answer any more."""


class Sealer:
    """One snapshot. `alive` raises `ParentGone`; it is asked at every step."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self) -> dict[str, Any]:
        try:
            self._copy()
            self._omit_and_check()
            return self._seal()
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                Path(self._job.plain + suffix).unlink(missing_ok=True)

    def _copy(self) -> None:
        import apsw

        source = apsw.Connection(self._job.source, flags=apsw.SQLITE_OPEN_READONLY)
        source.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        source.set_busy_timeout(5_000)
        source.execute("BEGIN")
        page_bytes = int(str(source.pragma("page_size")))
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # from here on one moment of the file
        target = apsw.Connection(self._job.plain)
        target.execute("PRAGMA journal_mode = OFF").fetchall()
        target.execute("PRAGMA synchronous = OFF").fetchall()
        started, copied = time.monotonic(), 0
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                alive()
                backup.step(PAGES_AT_ONCE)
                copied += PAGES_AT_ONCE * page_bytes
                if self._job.bytes_per_s:
                    time.sleep(max(0.0, started + copied / self._job.bytes_per_s - time.monotonic()))
        target.close()
        source.close()

    def _omit_and_check(self) -> None:
        import apsw

        copy = apsw.Connection(self._job.plain)
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = OFF", "synchronous = OFF", "secure_delete = ON"):
            copy.execute(f"PRAGMA {pragma}").fetchall()
        for table in self._job.omit:
            if copy.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchall():
                copy.execute('DELETE FROM "{}"'.format(table.replace('"', '""'))).fetchall()  # noqa: S608 - our constant
        ((verdict,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
        copy.close()
        if verdict != "ok":
            raise ValueError(f"the copy is not sound: {verdict}")

    def _seal(self) -> dict[str, Any]:
        import pyrage
        import zstandard

        recipients = [pyrage.x25519.Recipient.from_str(each) for each in self._job.recipients]
        handle = os.open(self._job.sealed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with Path(self._job.plain).open("rb") as plain, os.fdopen(handle, "wb") as sealed:
            Path(self._job.plain).unlink()
            writer = Hashing(sealed)
            with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_reader(plain) as squeezed:
                pyrage.encrypt_io(squeezed, writer, recipients)
            writer.flush()
            os.fsync(sealed.fileno())
            return {"sha256": writer.digest.hexdigest(), "size_bytes": writer.size_bytes}


class Hashing:
    """A file that knows the SHA-256 and size of what was written, and spreads its syncs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._unsynced = file, 0
        self.digest, self.size_bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        alive()
        self._file.write(data)
        self.digest.update(data)
        self.size_bytes += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EVERY_BYTES:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._unsynced = 0
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def alive() -> None:
    """Raise `ParentGone` when stdin is closed: nothing else ever comes after the first line."""
    if select.select([sys.stdin], [], [], 0)[0]:
        raise ParentGone


def main() -> int:
    os.umask(0o077)
    os.nice(NICE)
    job = Job(**json.loads(sys.stdin.readline()))
    try:
        answer = Sealer(job).run()
    except ParentGone:
        Path(job.sealed).unlink(missing_ok=True)
        return GONE
    except Exception as error:  # noqa: BLE001 - the edge of this process: every failure becomes one line
        Path(job.sealed).unlink(missing_ok=True)
        answer = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
