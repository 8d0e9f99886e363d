"""`kiosk central`: run the office, set it up, look after it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from agent.domain.errors import ConfigError, KioskError

if TYPE_CHECKING:
    from sync.central.parked import Parked
    from sync.central.settings import CentralSettings

app = typer.Typer(add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")]
WORDS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


@app.callback(invoke_without_command=True)
def central(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port to listen on.")] = 8006,
    workers: Annotated[int, typer.Option(help="Processes; any number, here or on other machines.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Settings file; else CENTRAL_CONFIG or /etc/kiosk.")] = None,
) -> None:
    """Run the central office until it is told to stop.

    Example: kiosk central --host 0.0.0.0 --port 8006 --workers 2
    """
    if config is not None:
        os.environ["CENTRAL_CONFIG"] = str(config)
    if context.invoked_subcommand is not None:
        return
    import uvicorn

    _settings().check_secrets()  # what is impossible or missing is said once and plainly, before any worker starts
    uvicorn.run(
        "sync.central.main:app", host=host, port=port, workers=workers, access_log=False, timeout_graceful_shutdown=10
    )


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The first admin's name.")] = "admin",
    password_stdin: Annotated[bool, typer.Option(help="Read the password from stdin; else one is made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make what is missing: secret, age keys, schema, bucket, and the first admin. Safe to repeat.

    Example: kiosk central init --name ada
    """
    from sync.central.setup import initialise

    password = sys.stdin.readline().rstrip("\n") if password_stdin else secrets.token_urlsafe(15)
    made = asyncio.run(initialise(_settings(), name, password))
    answer: dict[str, Any] = {
        "revision": made.revision,
        "secret_file": str(made.secret) if made.secret else None,
        "recipients": made.recipients,
        "bucket_made": made.bucket,
        "admin": name if made.admin else None,
        "password": password if made.admin and not password_stdin else None,
    }
    if as_json:
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"database: schema {made.revision}")
    typer.echo(f"secret: {made.secret or 'there already'}")
    typer.echo(f"age recipients: {', '.join(made.recipients) if made.recipients else 'there already'}")
    typer.echo(f"bucket: {'made' if made.bucket else 'there already'}")
    if not made.admin:
        typer.echo("admin: there is one already; nothing changed")
    else:
        typer.echo(f"admin: {name}" + ("" if password_stdin else f", password (shown once): {password}"))


@app.command("enroll-code")
def enroll_code(
    name: Annotated[str, typer.Option(help="What the office calls the kiosk.")] = "",
    kiosk: Annotated[str, typer.Option(help="Id of an enrolled kiosk that gets a new disk or key.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a one-time code with which one kiosk enrols.

    Example: kiosk central enroll-code --name "Lobby, left"
    """
    from sync.central.setup import make_code

    code, kiosk_id, expires_at = asyncio.run(make_code(_settings(), name, _uuid(kiosk) if kiosk else None))
    if as_json:
        typer.echo(json.dumps({"code": code, "kiosk_id": str(kiosk_id), "expires_at": expires_at.isoformat()}))
        return
    typer.echo(f"{code}  (once, until {expires_at:%Y-%m-%d %H:%M} UTC; kiosk {kiosk_id})")


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to this version's schema.

    Example: kiosk central migrate
    """
    from sync.central.migrate import migrate as run

    before, after = run(_settings().database.url())
    if as_json:
        typer.echo(json.dumps({"before": before, "after": after}))
    else:
        typer.echo(f"schema {after}" if before == after else f"schema {before or 'empty'} → {after}")


@app.command()
def parked(
    retry: Annotated[bool, typer.Option("--retry", help="Try them anew, after an update of the office.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rows of kiosks that are stored but were not understood. Exit status 1 while there are some.

    Example: kiosk central parked --retry
    """
    freed, left = asyncio.run(_parked(_settings(), retry))
    if as_json:
        rows = [{**asdict(each), "kiosk_id": str(each.kiosk_id), "journal_id": str(each.journal_id)} for each in left]
        typer.echo(json.dumps({"freed": freed, "parked": rows}))
    else:
        for each in left:
            typer.echo(f"kiosk {each.kiosk_id} journal {each.journal_id} row {each.seq} {each.type}: {each.reason}")
        typer.echo(f"{freed} understood now" if retry else f"{len(left)} parked")
    if left:
        raise typer.Exit(1)


async def _parked(settings: CentralSettings, retry: bool) -> tuple[int, list[Parked]]:
    from sync.central import parked as rows
    from sync.central.setup import connected

    async with connected(settings) as connection:
        freed = (await rows.retry(connection))[0] if retry else 0
        return freed, await rows.listed(connection)


@app.command()
def keys(as_json: AsJson = False) -> None:
    """Make the office's age keys: its own, and one for recovery that belongs into a safe, off this machine.

    Example: kiosk central keys
    """
    from sync.central.setup import make_keys

    settings = _settings()
    made = make_keys(settings)
    if as_json:
        typer.echo(json.dumps({"recipients": made or settings.keys.public(), "made": made is not None}))
        return
    if made is None:
        typer.echo(f"there already: {', '.join(settings.keys.public())}")
        return
    typer.echo(f"office:   {made[0]}  private key in {settings.keys.office_identity_file}")
    typer.echo(f"recovery: {made[1]}  private key in {settings.keys.recovery_identity_file}: take it off this machine")


@app.command()
def restore(
    kiosk: Annotated[str, typer.Argument(help="The kiosk's id.")],
    out: Annotated[Path, typer.Option(help="File to write; must not exist.")],
    identity: Annotated[
        Path | None, typer.Option(help="age identity: the office's (default) or the recovery one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a kiosk's newest stored snapshot, open it, verify its chain: proof that it opens.

    Example: kiosk central restore 0199c1d2-… --identity /media/safe/recovery.key --out journal.sqlite
    """
    from sync.central.restore import restore as run

    settings = _settings()
    done = asyncio.run(run(settings, _uuid(kiosk), identity or settings.keys.office_identity_file, out))
    damages = [asdict(each) for each in done.verdict.damages]
    if as_json:
        answer = {
            "blob_id": done.snapshot.blob_id,
            "captured_us": done.snapshot.captured_us,
            "out": str(done.path),
            "journal_id": str(done.journal_id),
            "seq": done.seq,
            "hash": done.hash.hex(),
            "damages": damages,
        }
        typer.echo(json.dumps(answer))
    else:
        when = datetime.fromtimestamp(done.snapshot.captured_us / 1e6, UTC)
        typer.echo(f"{done.path}: snapshot {done.snapshot.blob_id} of {when:%Y-%m-%d %H:%M:%S} UTC")
        typer.echo(f"journal {done.journal_id}, head {done.seq} {done.hash.hex()}")
        typer.echo("chain and ledger verified" if not damages else f"DAMAGED: {json.dumps(damages)}")
    if damages:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check what the office needs, a line each, with the cure. Exit status 1 when something fails.

    Example: kiosk central doctor
    """
    from sync.central.setup import doctor as run

    checks = asyncio.run(run(_settings()))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            cure = f"  → {check.cure}" if check.cure else ""
            typer.echo(f"{typer.style(f'{check.state:4}', fg=WORDS[check.state])} {check.what}: {check.found}{cure}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


def _settings() -> CentralSettings:
    try:
        from sync.central.main import load_settings
    except ModuleNotFoundError as error:
        raise ConfigError(f"the office needs {error.name}; install the extra `central`") from error
    return load_settings()


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise KioskError(f"{text!r} is not a kiosk's id (a UUID, see the office's list)") from error
