"""`kiosk journal`: verify, follow and export what was recorded; make the tables that follow from it anew."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum, unique
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    import apsw

    from agent.domain.chain import JournalRow
    from agent.store.rebuild import Progress
    from agent.store.verify import Verdict

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Verify, follow, export; rebuild projections.")

Json = Annotated[bool, typer.Option("--json", help="JSON instead of words.")]
Folder = Annotated[Path | None, typer.Option("--directory", help="State directory, else the one of agent.toml.")]
COLUMNS = ("seq", "id", "type", "schema", "occurred_at", "boot_id", "monotonic_us", "trace_id", "actor", "subject")
FOLLOW_PAUSE_S = 0.2
BATCH_ROWS = 1_000


@unique
class Format(Enum):
    """How rows are exported."""

    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def verify(directory: Folder = None, as_json: Json = False) -> None:
    """Check every row's hash and link, past journals too, the ledger's sums and what is derived from the rows.

    Works beside a running agent. Exit status: 0 sound, 1 damaged (the first break of each kind is named).

    Example: kiosk journal verify --json
    """
    from agent.store.inspect import inspecting
    from agent.store.reader import reading
    from agent.store.verify import verify as check
    from agent.store.witness import read_witness

    folder = _folder(directory)
    seen = read_witness(folder)  # before the read begins, so that the file is never behind it
    with inspecting(folder) as connection, reading(connection) as reader, _progress("rows checked") as progress:
        verdict = check(reader, seen, progress)
    _say(json.dumps(_plain(verdict)) if as_json else _words(verdict))
    raise typer.Exit(0 if verdict.sound else 1)


@app.command()
def tail(
    directory: Folder = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last rows.")] = 20,
    as_json: Json = False,
) -> None:
    """The last rows, and with --follow every new one as soon as it is on the disk.

    Works beside a running agent; goes on in the next journal after a fork.

    Example: kiosk journal tail --follow --json
    """
    from agent.store.inspect import inspecting
    from agent.store.reader import reading

    with inspecting(_folder(directory)) as connection:
        with reading(connection) as reader:
            journal_id, after = reader.journal_id(), max(0, reader.head()[0] - lines)
        while True:
            with reading(connection) as reader:
                if reader.journal_id() != journal_id:
                    journal_id, after = reader.journal_id(), 0
                rows = reader.rows(after, BATCH_ROWS)
            for row in rows:
                _say(json.dumps(_row(row), ensure_ascii=False) if as_json else _line(row))
                after = row.seq
            if not rows and not follow:
                return
            if not rows:
                time.sleep(FOLLOW_PAUSE_S)


@app.command()
def export(
    *,
    directory: Folder = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to make, else standard output.")] = None,
    form: Annotated[Format, typer.Option("--format", help="One JSON object a line, or CSV.")] = Format.JSONL,
    first: Annotated[int, typer.Option("--from", min=1, help="First seq.")] = 1,
    last: Annotated[int | None, typer.Option("--to", min=1, help="Last seq, else up to the end.")] = None,
    as_json: Json = False,
) -> None:
    """Rows of the present journal, all of one moment. --json prints a summary when the rows go to a file.

    Works beside a running agent.

    Example: kiosk journal export --format csv --from 100 --to 200 --output rows.csv
    """
    from agent.store.inspect import inspecting
    from agent.store.rebuild import epoch_rows

    with inspecting(_folder(directory)) as connection, _moment(connection) as epoch, _target(output) as target:
        rows = epoch_rows(connection, epoch, first - 1, last)
        count = _write_csv(rows, target) if form is Format.CSV else _write_jsonl(rows, target)
    if output is not None:
        _say(json.dumps({"rows": count, "file": str(output)}) if as_json else f"{count} rows in {output}")


@app.command()
def rebuild(as_json: Json = False) -> None:
    """Make projections, ledger and open records anew from the journal; users, keys and cursors stay as they are.

    Needs the agent stopped. All or nothing: interrupted, the old tables stay.

    Example: systemctl stop kiosk-agent && kiosk journal rebuild && systemctl start kiosk-agent
    """
    from agent.cli import client

    with client.offline_store(client.settings()) as store, _progress("rows applied") as progress:
        rows = store.rebuild_now(progress)
    _say(json.dumps({"rows": rows}) if as_json else f"rebuilt from {rows} rows")


def _folder(directory: Path | None) -> Path:
    if directory is not None:
        return directory
    from agent.cli import client

    return client.settings().store.directory


@contextmanager
def _moment(connection: apsw.Connection) -> Iterator[int]:
    """A read transaction; gives the present journal's epoch."""
    from agent.store.reader import reading

    with reading(connection) as reader:
        present = reader.one("SELECT max(epoch) AS epoch FROM journals")
        yield 0 if present is None else present["epoch"]


@contextmanager
def _target(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("x", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def _progress(what: str) -> Iterator[Progress]:
    """A bar on a terminal's stderr; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(text: str) -> None:
    typer.echo(text)


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {
        "sound": verdict.sound,
        "journal_id": None if verdict.journal_id is None else str(verdict.journal_id),
        "seq": verdict.seq,
        "rows": verdict.rows,
        "damages": [
            {"epoch": each.epoch, "seq": each.seq, "reason": each.reason, "detail": each.detail}
            for each in verdict.damages
        ],
    }


def _words(verdict: Verdict) -> str:
    if verdict.sound:
        return f"sound: {verdict.rows} rows, journal {verdict.journal_id} up to {verdict.seq}"
    lines = [f"DAMAGED: {verdict.rows} rows could be read, journal {verdict.journal_id} up to {verdict.seq}"]
    lines += [f"  row {each.seq}: {each.reason} {each.detail}".rstrip() for each in verdict.damages]
    return "\n".join(lines)


def _when(occurred_at_us: int) -> str:
    try:
        return datetime.fromtimestamp(occurred_at_us / 1_000_000, UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError, OSError):
        return f"{occurred_at_us} µs"  # a clock so wrong that no calendar holds it


def _head(row: JournalRow) -> dict[str, Any]:
    head = {name: getattr(row, name) for name in COLUMNS}
    return head | {"id": str(row.id), "boot_id": str(row.boot_id), "occurred_at": _when(row.occurred_at)}


def _row(row: JournalRow) -> dict[str, Any]:
    body = row.body.decode("utf-8", "replace")
    try:
        shown = json.loads(body)
    except ValueError:
        shown = body
    return _head(row) | {"body": shown, "prev_hash": row.prev_hash.hex(), "hash": row.hash.hex()}


def _line(row: JournalRow) -> str:
    return f"{row.seq:>7} {_when(row.occurred_at)} {row.type} {row.subject} {row.body.decode('utf-8', 'replace')}"


def _write_jsonl(rows: Iterator[JournalRow], target: TextIO) -> int:
    count = 0
    for row in rows:
        target.write(json.dumps(_row(row), ensure_ascii=False) + "\n")
        count += 1
    return count


def _write_csv(rows: Iterator[JournalRow], target: TextIO) -> int:
    import csv

    writer = csv.DictWriter(target, [*COLUMNS, "body", "prev_hash", "hash"])
    writer.writeheader()
    count = 0
    for row in rows:
        text = {"body": row.body.decode("utf-8", "replace"), "prev_hash": row.prev_hash.hex(), "hash": row.hash.hex()}
        writer.writerow(_head(row) | text)
        count += 1
    return count
