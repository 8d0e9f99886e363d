"""`kiosk sync`: how far the office is, and why."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from agent.cli import client

app = typer.Typer(add_completion=False, no_args_is_help=True, help="How far the central office is, and why.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")]
SNAPSHOT_TIMEOUT_S = 6 * 3600.0


@app.command()
def status(as_json: Json = False) -> None:
    """Watermark, lag, last error, pending files; also with the agent stopped (then the office is not asked).

    Exit status: 0 all is well or the office is merely away, 1 not enrolled or an alarm for a person.

    Example: kiosk sync status --json
    """
    config = client.settings()
    try:
        with client.daemon(config) as kiosk:
            answer = kiosk.get("/sync/status")
    except client.DaemonStopped:
        answer = _offline_status()
    _show(answer, as_json)
    raise typer.Exit(1 if answer["alarm"] or not answer["enrolled"] else 0)


@app.command()
def now(as_json: Json = False) -> None:
    """Send what waits at once instead of after the back-off. Exit status: 0 the office has every row, 1 it has not.

    Example: kiosk sync now
    """
    with client.daemon(client.settings(), timeout_s=60.0) as kiosk:
        answer = kiosk.post("/sync/now")
    _show(answer, as_json)
    raise typer.Exit(0 if answer["lag_rows"] == 0 else 1)


@app.command()
def snapshot(as_json: Json = False) -> None:
    """Seal a snapshot of the journal to the office's keys; it is uploaded by and by.

    Example: kiosk sync snapshot
    """
    from rich.console import Console

    with (
        client.daemon(client.settings(), timeout_s=SNAPSHOT_TIMEOUT_S) as kiosk,
        Console(stderr=True).status("sealing a snapshot …"),
    ):
        answer = kiosk.post("/sync/snapshot")
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"snapshot {answer['blob_id']}: {answer['size_bytes']} bytes sealed, sha256 {answer['sha256']}")


def _offline_status() -> dict[str, Any]:
    from agent.runtime.build import VERSION
    from agent.runtime.clock import SystemClock
    from sync.edge.edge import Edge

    config = client.settings()
    with client.offline_store(config) as store:
        edge = Edge(
            config.sync,
            store=store,
            store_path=store.path,
            state_dir=config.store.directory,
            clock=SystemClock(),
            randomness=bytes,
            agent_version=VERSION,
            devices_info=dict,
        )
        edge.look_for_identity()
        return edge.status().as_dict()


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for name, text in _lines(answer).items():
        typer.echo(f"{name:<10} {text}")


def _lines(answer: dict[str, Any]) -> dict[str, str]:
    """What a technician reads, line by line; what is not known or not so has no line."""
    office = f"{answer['central_url']} as {answer['kiosk_id']}" if answer["enrolled"] else "not enrolled: kiosk enroll"
    lag = answer["lag_rows"]
    lines = {
        "office": office,
        "contact": "online" if answer["online"] else _ago(answer["last_contact_age_s"]),
        "journal": f"{answer['journal_id']}, {answer['head_seq']} rows",
        "office has": f"{answer['watermark_seq']} rows" if answer["watermark_seq"] is not None else "not asked yet",
        "waiting": "nothing" if lag == 0 else f"{lag} rows, the oldest {_age(answer['oldest_unsent_age_s'])} old",
        "files": f"{answer['blobs_pending']} to upload, {answer['blobs_pending_bytes']} bytes",
        "error": f"{answer['error_text']} ({answer['error_code']})",
        "retry": f"in {_age(answer['retry_in_s'])}",
        "forked": f"continues journal {answer['forked_from']}",
        "ALARM": f"{answer['alarm']}: rows wait for a person; nothing is lost",
    }
    unknown = {"waiting": lag, "error": answer["error_code"], "retry": answer["retry_in_s"]}
    unknown |= {"forked": answer["forked_from"], "ALARM": answer["alarm"]}
    return {name: text for name, text in lines.items() if unknown.get(name, "") is not None}


def _ago(seconds: float | None) -> str:
    return "none since the start" if seconds is None else f"lost, last {_age(seconds)} ago"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
