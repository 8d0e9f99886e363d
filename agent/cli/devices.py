"""`kiosk devices`: what hangs on this kiosk. From the daemon while it runs, else as the journal last saw it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from agent.cli.client import Daemon, daemon, is_running, offline_store, settings
from agent.runtime import record as records
from agent.settings import AgentSettings

app = typer.Typer(add_completion=False, invoke_without_command=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
FOLLOW_EVERY_S = 0.3
SAME_FRAME_S = 0.002  # ages are told at the daemon's clock and a request apart


@app.callback(help="State, firmware and counters of the devices. Example: kiosk devices --json")
def devices(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    config = settings()
    running = is_running(config)
    found = _from_daemon(config) if running else _from_journal(config)
    if as_json:
        typer.echo(json.dumps({"running": running, "devices": found}))
    else:
        _table(found, running)


@app.command(help="The last frames on a device's wire, decoded. Example: kiosk devices trace validator --follow")
def trace(
    name: Annotated[str, typer.Argument(help="Name of the configuration.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a frame.")] = False,
) -> None:
    with daemon(settings()) as kiosk:
        newest = _frames(kiosk, name, float("-inf"), as_json)
        while follow:
            time.sleep(FOLLOW_EVERY_S)
            newest = _frames(kiosk, name, newest, as_json)


def _frames(kiosk: Daemon, name: str, after: float, as_json: bool) -> float:
    """Print the frames that passed after `after` (our monotonic clock); returns when the newest of them passed."""
    now, newest = time.monotonic(), after
    for frame in kiosk.get(f"/devices/{name}/trace")["frames"]:
        newest = now - frame["age_s"]
        if newest <= after + SAME_FRAME_S:
            continue
        if as_json:
            typer.echo(json.dumps(frame))
        else:
            mark = " " if frame["valid"] else "!"
            typer.echo(f"{-frame['age_s']:9.3f} {frame['direction']:>6} {mark} {frame['meaning']:40} {frame['hex']}")
    return max(after, newest)


def _from_daemon(config: AgentSettings) -> list[dict[str, Any]]:
    with daemon(config) as kiosk:
        names = [each["name"] for each in kiosk.get("/devices")["devices"]]
        return [kiosk.get(f"/devices/{name}") for name in names]


def _from_journal(config: AgentSettings) -> list[dict[str, Any]]:
    """Configured devices as the journal last saw them; a kiosk that never ran has no journal to look into."""
    configured = {name: device for name, device in config.devices.items() if device.enabled}
    if not (config.store.directory / "journal.db").is_file():
        return [
            _line(name, device.protocol, device.port, records.DeviceRecord(name)) for name, device in configured.items()
        ]
    with offline_store(config) as store, store.read() as reader:
        return [
            _line(name, device.protocol, device.port, records.load(reader, name)) for name, device in configured.items()
        ]


def _line(name: str, protocol: str, port: str, record: records.DeviceRecord) -> dict[str, Any]:
    known = record.online
    last_seen = "never seen" if record.since_us is None else ("online" if record.reason is None else "offline")
    return {
        "name": name,
        "protocol": protocol,
        "port": port,
        "state": "stopped",
        "last_seen": last_seen,
        "since_us": record.since_us,
        "fault": ", ".join(record.faults),
        "model": known.model if known else "",
        "serial": known.serial if known else "",
        "firmware": known.firmware if known else "",
        "detail": record.reason or "",
        "counters": {},
    }


def _table(found: Iterable[dict[str, Any]], running: bool) -> None:
    """A line a device, what it is below it: readable on a narrow terminal and in a log."""
    found = list(found)
    if not found:
        typer.echo("no devices are configured: add [devices.<name>] to the configuration")
    for each in found:
        state = each["state"] if running else f"stopped (last {each['last_seen']})"
        fault = f"  {each['fault']}" if each["fault"] else ""
        typer.secho(f"{each['name']:16} {state}{fault}", bold=True)
        what = [
            f"{key} {each[key]}" for key in ("protocol", "port", "model", "serial", "firmware", "detail") if each[key]
        ]
        typer.echo(f"{'':16} {', '.join(what)}")
        if counters := "  ".join(f"{key} {value}" for key, value in each["counters"].items() if value):
            typer.echo(f"{'':16} {counters}")
