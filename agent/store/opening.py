"""Opening, checking, reopening and closing the kiosk's file: everything around the engine that is not a commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import apsw

from agent.domain.clock import Clock
from agent.domain.ids import Randomness, uuid7
from agent.store.connection import FILE_NAME, FRAME_HEADER_BYTES, LOG_HEADER_BYTES, PAGE_SIZE_BYTES, connect_writer
from agent.store.damage import Damage
from agent.store.disk import Disk
from agent.store.engine import Engine
from agent.store.errors import DISK_ERRORS, JournalDamaged, StorageFailed
from agent.store.lock import DirectoryLock
from agent.store.migrate import migrate, migrations
from agent.store.ports import Projection
from agent.store.rebuild import Progress, attend, ignore_progress
from agent.store.settings import StoreSettings
from agent.store.verify import against_witness, check_tail
from agent.store.witness import Seen, Witness, read_witness

MIB = 1 << 20


class OpenFile:
    """The state directory under its lock, with the engine on its file. `open` once, then `reopen` after failures.

    `schema`: migrations by number, if not all that this release knows.
    """

    engine: Engine

    def __init__(
        self,
        settings: StoreSettings,
        *,
        clock: Clock,
        randomness: Randomness,
        projections: Sequence[Projection],
        disk: Disk,
        vfs: str | None,
        synchronous: str,
        schema: Mapping[int, str] | None = None,
    ) -> None:
        self.folder = settings.directory
        self.path: Path = settings.directory / FILE_NAME
        self.vfs = vfs
        self.clock = clock
        self.disk = disk
        self.boot_id = uuid7(clock.now_us() // 1000, randomness(10))
        self.damages: tuple[Damage, ...] = ()
        self._settings = settings
        self._randomness = randomness
        self._projections = projections
        self._synchronous = synchronous
        self._schema = migrations() if schema is None else schema
        self._lock: DirectoryLock | None = None
        self._witness: Witness | None = None
        self._connection: apsw.Connection | None = None
        self._noted: tuple[UUID, int] | None = None

    def open(self, progress: Progress = ignore_progress) -> None:
        """Raises `StoreLocked`, `SchemaTooNew`, `StorageFailed`, `JournalDamaged` (the tail does not continue)."""
        try:
            self.disk.make_folder(self.folder)
            self._lock = DirectoryLock(self.folder)
            self.disk.make_file(self.path)
            seen = read_witness(self.folder)
            self._witness = Witness(self.folder)
            self._start()
            # SQLite does not sync the folder when it deletes the rollback journal that turned the log on: without
            # this, a power loss may bring the journal back, and with it the empty file (found by tests/crash).
            self.disk.sync_folder(self.folder)
            attend(self.engine, progress)
            self._compare(seen)
            self._make_log()
        except DISK_ERRORS as error:
            raise StorageFailed(f"{self.path} cannot be opened: {error}") from error
        except OSError as error:
            raise StorageFailed(f"{self.folder} cannot be used: {error}") from error

    def reopen(self) -> None:
        """After a failure: the last synced commit is the truth again. Raises what `open` raises; then try again later.

        After a failed sync the kernel may call pages clean that never reached the disk: what was written behind the
        last good commit can be read now and be gone after a power loss, so nothing may be built on it. Its first frame
        is blanked, which ends the log there for every reader; nobody was told of what stood in it. Then only a
        truncating checkpoint proves that the main file holds everything before.
        """
        try:
            self._disconnect()
            frame = FRAME_HEADER_BYTES + PAGE_SIZE_BYTES
            self.disk.blank(self._log_path, LOG_HEADER_BYTES + self.engine.wal_pages * frame, FRAME_HEADER_BYTES)
            self._start()
            if not self.engine.truncate_log():
                raise StorageFailed("a reader still holds the log")
            self._make_log()
        except DISK_ERRORS as error:
            raise StorageFailed(f"{self.path} cannot be reopened: {error}") from error
        except OSError as error:
            raise StorageFailed(f"{self.folder} cannot be used: {error}") from error

    def note_head(self) -> None:
        """Write the witness when the head has moved since. Raises `OSError`."""
        here = self.engine.position
        if self._witness is not None and (here.journal_id, here.seq) != self._noted:
            self._witness.write(Seen(here.journal_id, here.seq, here.hash))
            self._noted = (here.journal_id, here.seq)

    def close(self) -> None:
        """Let go of everything; writes nothing."""
        self._disconnect()
        if self._witness is not None:
            self._witness.close()
            self._witness = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def _log_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _start(self) -> None:
        self._connection = connect_writer(self.path, vfs=self.vfs, synchronous=self._synchronous)
        migrate(self._connection, self._schema)
        self.engine = Engine(
            self._connection,
            projections=self._projections,
            clock=self.clock,
            randomness=self._randomness,
            boot_id=self.boot_id,
        )
        self.engine.count_log()
        damage = check_tail(self._connection, self.engine.position.journal_id)
        if damage is not None:
            raise JournalDamaged(
                f"row {damage.seq} of the journal is damaged ({damage.reason}); run `kiosk journal verify`",
                seq=damage.seq,
                reason=damage.reason,
            )
        self._noted = None

    def _compare(self, seen: Seen | None) -> None:
        """Acknowledged rows that are gone or changed are noted in the file itself: the witness moves on."""
        for damage in against_witness(self.engine.connection, seen):
            with self.engine.transaction():
                self.engine.writer.execute(
                    "INSERT OR IGNORE INTO damages VALUES (?, ?, ?, ?, ?)",
                    self.engine.now_us(),
                    damage.epoch,
                    damage.seq,
                    damage.reason,
                    damage.detail,
                )
        self.damages = tuple(
            Damage(row["epoch"], row["seq"], row["reason"], row["detail"])
            for row in self.engine.writer.all("SELECT epoch, seq, reason, detail FROM damages ORDER BY found_at")
        )

    def _make_log(self) -> None:
        self.disk.extend(self._log_path, int(self._settings.wal_size_mib * MIB))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
