"""One agent per directory, private files, migrations one by one, and no file of a newer release."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from agent.domain.errors import StoreError
from agent.store.connection import FILE_NAME, connect_writer, query
from agent.store.disk import RealDisk
from agent.store.errors import SchemaTooNew, StorageFailed, StoreLocked
from agent.store.inspect import NoJournal, inspecting
from agent.store.lock import DirectoryLock
from agent.store.migrate import migrate, migrations, schema_version
from agent.store.settings import StoreSettings
from tests.store.helpers import open_now


def test_a_second_start_names_the_first_ones_pid(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    try:
        code = (
            "import sys; from pathlib import Path; from tests.store.helpers import open_now\n"
            "try:\n    open_now(Path(sys.argv[1]))\n"
            "except Exception as error:\n    print(type(error).__name__, error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
        )
        assert "StoreLocked" in done.stdout
        assert f"pid {os.getpid()}" in done.stdout
    finally:
        store.close_now()
    open_now(tmp_path).close_now()


def test_a_lock_file_without_a_readable_pid_still_locks(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    (tmp_path / "agent.lock").write_text("")
    with pytest.raises(StoreLocked, match="unknown") as caught:
        DirectoryLock(tmp_path)
    assert caught.value.details == {"pid": None}
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


def test_state_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    before = os.umask(0)
    try:
        open_now(folder).close_now()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()} == dict.fromkeys(
        ("agent.lock", "journal.db", "journal.db-shm", "journal.db-wal", "journal.head"), "0o600"
    )


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot be used"):
        open_now(tmp_path / "file" / "state")


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StorageFailed, match="cannot be opened"):
        open_now(tmp_path)


def test_a_newer_file_is_refused_and_both_versions_are_named(tmp_path: Path) -> None:
    open_now(tmp_path).close_now()
    known = max(migrations())
    connection = connect_writer(tmp_path / FILE_NAME)
    query(connection, f"PRAGMA user_version={known + 1}")
    connection.close()
    with pytest.raises(SchemaTooNew, match=f"schema {known + 1}, this release knows schemas up to {known}"):
        open_now(tmp_path)
    with pytest.raises(SchemaTooNew), inspecting(tmp_path):
        pass


def test_migrations_run_one_by_one_and_a_failing_one_leaves_the_one_before(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / FILE_NAME)
    broken = {1: "CREATE TABLE a (x)", 2: "CREATE TABLE b (x); CREATE TABLE a (x)"}
    with pytest.raises(apsw.SQLError, match="already exists"):
        migrate(connection, broken)
    assert schema_version(connection) == 1
    assert [name for (name,) in query(connection, "SELECT name FROM sqlite_schema")] == ["a"]
    assert migrate(connection, {1: broken[1], 2: "CREATE TABLE b (x)"}) == 1
    assert migrate(connection, {1: broken[1], 2: "CREATE TABLE b (x)"}) == 0
    connection.close()


def test_migration_files_are_numbered_without_gaps(tmp_path: Path) -> None:
    assert list(migrations()) == list(range(1, len(migrations()) + 1))
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0003_b.sql").write_text("SELECT 1")
    with pytest.raises(StoreError, match=r"0003_b\.sql is not number 0002"):
        migrations(tmp_path)


def test_looking_into_a_folder_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(NoJournal), inspecting(tmp_path):
        pass
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(NoJournal), inspecting(tmp_path):
        pass
    (tmp_path / FILE_NAME).write_bytes(b"garbage of some length " * 400)
    with pytest.raises(StorageFailed), inspecting(tmp_path):
        pass


def test_a_reader_looks_beside_a_running_writer(tmp_path: Path) -> None:
    store = open_now(tmp_path)
    try:
        with inspecting(tmp_path) as connection:
            assert query(connection, "SELECT count(*) FROM journal") == [(1,)]
    finally:
        store.close_now()


def test_marks_of_the_disk_guard_must_make_sense() -> None:
    with pytest.raises(ValueError, match="what makes sense"):
        StoreSettings(disk_low_mib=10, disk_resume_mib=5)


def test_extending_and_blanking_files(tmp_path: Path) -> None:
    disk, path = RealDisk(), tmp_path / "file"
    disk.blank(path, 0, 5)
    assert not path.exists()
    disk.extend(path, 3 << 20)
    assert path.read_bytes() == bytes(3 << 20)
    path.write_bytes(b"abcdef")
    disk.extend(path, 2)
    assert path.read_bytes() == b"abcdef"
    disk.blank(path, 1, 2)
    disk.blank(path, 5, 9)
    disk.blank(path, 7, 9)
    assert path.read_bytes() == b"a\0\0de\0"
    path.write_bytes(b"abc")
    disk.make_file(path)
    assert path.read_bytes() == b"abc"
    disk.remove(path)
    disk.remove(path)
    assert disk.free_bytes(tmp_path) > 0
