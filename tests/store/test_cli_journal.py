"""`kiosk journal` as people and scripts use it, beside a running store and without one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent.cli.journal import app
from agent.domain import events as ev
from agent.domain.errors import KioskError
from agent.domain.money import Money
from agent.store.connection import FILE_NAME, connect_writer, query
from agent.store.journal import SqliteStore
from tests.store.helpers import open_now, small_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = open_now(tmp_path / "state")
    fill(store, 5)
    store.close_now()
    return tmp_path / "state"


def fill(store: SqliteStore, count: int) -> None:
    for number in range(count):
        note = ev.NoteEscrowed(device="v", note_id=f"n{number}", value=Money(500, "EUR"), note_code=3)
        store.transact_now(lambda tx, note=note: tx.append(note), actor="device:v", trace_id=note.note_id)  # type: ignore[misc]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_verify_says_sound_in_words_and_json(folder: Path) -> None:
    done = run("verify", "--directory", folder)
    assert (done.exit_code, done.stdout.startswith("sound: 6 rows")) == (0, True)
    verdict = json.loads(run("verify", "--directory", folder, "--json").stdout)
    assert (verdict["sound"], verdict["rows"], verdict["seq"], verdict["damages"]) == (True, 6, 6, [])


def test_verify_names_the_first_break_and_exits_1(folder: Path) -> None:
    connection = connect_writer(folder / FILE_NAME)
    query(connection, "DROP TRIGGER journal_is_never_updated")
    query(connection, "UPDATE journal SET actor = 'x' WHERE seq = 3")
    connection.close()
    done = run("verify", "--directory", folder)
    assert done.exit_code == 1
    assert "row 3: wrong_hash" in done.stdout
    assert json.loads(run("verify", "--directory", folder, "--json").stdout)["damages"] == [
        {"epoch": 0, "seq": 3, "reason": "wrong_hash", "detail": ""}
    ]


def test_everything_but_rebuild_works_beside_a_running_store(folder: Path) -> None:
    store = open_now(folder)
    try:
        assert run("verify", "--directory", folder).exit_code == 0
        assert len(run("tail", "--directory", folder).stdout.splitlines()) == 6
        assert len(run("export", "--directory", folder).stdout.splitlines()) == 6
    finally:
        store.close_now()


def test_tail_shows_the_last_rows(folder: Path) -> None:
    lines = run("tail", "-n", 2, "--directory", folder).stdout.splitlines()
    assert len(lines) == 2
    assert "cash.note.escrowed device/v" in lines[0]
    row = json.loads(run("tail", "-n", 1, "--json", "--directory", folder).stdout)
    assert (row["seq"], row["actor"], row["trace_id"]) == (6, "device:v", "n4")
    assert row["body"]["value"] == {"amount_minor": 500, "currency": "EUR"}
    assert row["occurred_at"].endswith("+00:00")
    assert len(row["hash"]) == 64


def test_tail_follows_into_the_next_journal(folder: Path) -> None:
    store = open_now(folder)
    follower = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "agent.cli.main",
            "journal",
            "tail",
            "-f",
            "-n",
            "1",
            "--json",
            "--directory",
            str(folder),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["seq"] == 6
        fill(store, 1)
        assert json.loads(follower.stdout.readline())["seq"] == 7
        store.fork_now(7)
        assert json.loads(follower.stdout.readline())["type"] == "journal.opened"
    finally:
        follower.terminate()  # SIGINT would be ignored where the tests run in the background
        follower.communicate(timeout=20)
        store.close_now()


def test_export_to_csv_and_json_lines_with_a_range(folder: Path) -> None:
    done = run("export", "--from", 2, "--to", 4, "--directory", folder)
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["seq"] for row in rows] == [2, 3, 4]
    target = folder.parent / "rows.csv"
    done = run("export", "--format", "csv", "--output", target, "--directory", folder)
    assert done.stdout == f"6 rows in {target}\n"
    with target.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["seq"] for row in found] == ["1", "2", "3", "4", "5", "6"]
    assert json.loads(found[1]["body"])["note_id"] == "n0"
    summary = run("export", "--output", folder.parent / "rows.jsonl", "--json", "--directory", folder).stdout
    assert json.loads(summary)["rows"] == 6
    with pytest.raises(FileExistsError):
        run("export", "--output", target, "--directory", folder)


def test_rows_of_a_mad_clock_or_of_another_release_are_shown_as_they_are(folder: Path) -> None:
    connection = connect_writer(folder / FILE_NAME)
    query(connection, "DROP TRIGGER journal_is_never_updated")
    query(
        connection, "UPDATE journal SET occurred_at = 9223372036854775807, body = CAST('no json' AS BLOB) WHERE seq = 6"
    )
    connection.close()
    row = json.loads(run("tail", "-n", 1, "--json", "--directory", folder).stdout)
    assert (row["body"], row["occurred_at"]) == ("no json", "9223372036854775807 µs")


def test_no_journal_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KioskError, match="no journal in"):
        run("verify", "--directory", tmp_path)


def configured(folder: Path, tmp_path: Path) -> dict[str, str]:
    sizes = small_settings(folder).model_dump(mode="json")
    lines = [f"{key} = {json.dumps(value)}" for key, value in sizes.items()]
    config = tmp_path / "agent.toml"
    config.write_text("[store]\n" + "\n".join(lines) + "\n")
    return os.environ | {"KIOSK_CONFIG": str(config)}


def test_rebuild_takes_the_lock_and_says_how_many_rows(folder: Path, tmp_path: Path) -> None:
    environ = configured(folder, tmp_path)
    command = [sys.executable, "-m", "agent.cli.main", "journal", "rebuild", "--json"]
    store = open_now(folder)
    refused = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    store.close_now()
    assert refused.returncode == 2
    assert "store_locked" in refused.stderr
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["rows"] >= 6
    verify = [sys.executable, "-m", "agent.cli.main", "journal", "verify"]
    started = time.monotonic()
    assert subprocess.run(verify, env=environ, capture_output=True, timeout=120, check=False).returncode == 0
    assert time.monotonic() - started < 60
