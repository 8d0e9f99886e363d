"""`kiosk doctor`: one line a check, ok, warn or fail, each with its cure. Changes nothing."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.client import daemon, is_running, settings
from agent.domain.errors import KioskError
from agent.runtime.build import BUILT_AT_US, VERSION
from agent.settings import AgentSettings

app = typer.Typer(add_completion=False)
MIB = 1 << 20
CENTRE_TIMEOUT_S = 5.0
SQLITE_MIN = (3, 51, 3)  # older ones can lose rows when the log is reset, see DESIGN 4
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


@unique
class Verdict(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Line:
    """`cure` is what to do about it; empty when nothing is to be done."""

    verdict: Verdict
    name: str
    text: str
    cure: str = ""


@app.command(help="Check permissions, ports, clock, disk, centre and versions. Example: kiosk doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
    accept_clock: Annotated[
        bool, typer.Option("--accept-clock", help="This machine's clock is right: take money.")
    ] = False,
) -> None:
    """Exit status 1 when a check failed."""
    if accept_clock:
        with daemon(settings()) as kiosk:
            kiosk.post("/system/clock/accept")
    lines = list(examine())
    if as_json:
        typer.echo(json.dumps({"lines": [asdict(line) | {"verdict": line.verdict.value} for line in lines]}))
    else:
        for line in lines:
            typer.echo(
                f"{line.verdict.value:4}  {line.name:18} {line.text}" + (f"\n      → {line.cure}" if line.cure else "")
            )
    if any(line.verdict is Verdict.FAIL for line in lines):
        raise typer.Exit(1)


def examine() -> Iterator[Line]:
    """Every check, whatever the others say."""
    yield from _versions()
    try:
        config = settings()
    except KioskError as error:
        for text in error.message.splitlines():
            yield Line(
                Verdict.FAIL, "settings", text, "correct the configuration; config/agent.toml explains every key"
            )
        return
    yield Line(Verdict.OK, "settings", "every key is known and possible")
    checks: tuple[Callable[[AgentSettings], Iterator[Line]], ...] = (
        _state_directory,
        _disk,
        _clock,
        _daemon,
        _ports,
        _centre,
    )
    for check in checks:
        try:
            yield from check(config)
        except (KioskError, OSError) as error:
            yield Line(Verdict.FAIL, check.__name__.strip("_"), str(error), "see the message")


def _versions() -> Iterator[Line]:
    import apsw

    yield Line(Verdict.OK, "version", f"agent {VERSION}, Python {sys.version.split()[0]}")
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    text = f"SQLite {apsw.sqlite_lib_version()}"
    if found < SQLITE_MIN:
        yield Line(Verdict.FAIL, "sqlite", text, "install the apsw of requirements/agent.txt")
    else:
        yield Line(Verdict.OK, "sqlite", text)


def _state_directory(config: AgentSettings) -> Iterator[Line]:
    folder = config.store.directory
    if not folder.is_dir():
        cure = "it is made at the first start; its parent must be writable for the agent's account"
        yield Line(Verdict.WARN, "state directory", f"{folder} does not exist", cure)
        return
    info = folder.stat()
    mode = stat.S_IMODE(info.st_mode)
    if info.st_uid not in {0, os.geteuid()} and os.geteuid() != 0:
        yield Line(
            Verdict.FAIL, "state directory", f"{folder} belongs to another account", f"sudo chown -R $USER {folder}"
        )
    elif mode & 0o077:
        yield Line(Verdict.WARN, "state directory", f"{folder} is open to others ({mode:o})", f"chmod 700 {folder}")
    elif not os.access(folder, os.W_OK):
        yield Line(Verdict.FAIL, "state directory", f"{folder} cannot be written", "mount it writable")
    else:
        yield Line(Verdict.OK, "state directory", str(folder))


def _disk(config: AgentSettings) -> Iterator[Line]:
    folder = next(path for path in (config.store.directory, *config.store.directory.parents) if path.exists())
    info = os.statvfs(folder)
    free = info.f_bavail * info.f_frsize // MIB
    low, resume = config.store.disk_low_mib, config.store.disk_resume_mib
    text = f"{free} MiB free where {folder} is"
    if free < low:
        yield Line(
            Verdict.FAIL, "disk", f"{text}; below {low:.0f} MiB no money is taken", "free space, or use a larger disk"
        )
    elif free < 2 * resume:
        yield Line(Verdict.WARN, "disk", text, f"money stops at {low:.0f} MiB: free space soon")
    else:
        yield Line(Verdict.OK, "disk", text)


def _clock(config: AgentSettings) -> Iterator[Line]:
    import time

    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.time_ns() // 1_000 < BUILT_AT_US:
        yield Line(
            Verdict.FAIL, "clock", f"it says {now}, before this software was built", "sudo timedatectl set-time …"
        )
    elif not SYNCHRONISED.exists():
        cure = "timedatectl set-ntp true; without a network it is enough that the time is right"
        yield Line(Verdict.WARN, "clock", f"{now}; not known to be synchronised", cure)
    else:
        yield Line(Verdict.OK, "clock", f"{now}, synchronised")


def _daemon(config: AgentSettings) -> Iterator[Line]:
    if not is_running(config):
        yield Line(Verdict.WARN, "daemon", "it is not running", "sudo systemctl start kiosk-agent, or: kiosk agent")
        return
    with daemon(config) as kiosk:
        health = kiosk.get("/system/health")
    yield Line(Verdict.OK, "daemon", "it runs and answers")
    for part in health["parts"]:
        if not part["ok"]:
            text = " ".join(filter(None, (part["code"], part["detail"])))
            yield Line(
                Verdict.FAIL if part["name"] in _MONEY else Verdict.WARN,
                part["name"],
                text,
                _CURES.get(part["code"], ""),
            )


_MONEY = ("store", "disk", "clock", "commits", "journal")
_CURES = {
    "disk_low": "free space on the disk; money is taken again by itself",
    "store_failed": "look at the disk (dmesg, smartctl); it is tried again by itself",
    "clock_absurd": "set the clock (timedatectl); when it is right already: kiosk doctor --accept-clock",
    "commits_slow": "look at the disk (iostat, smartctl), or use a better one",
    "journal_damaged": "kiosk journal verify, then call the office: rows that were acknowledged are missing",
    "offline": "look at cable, power and port; kiosk devices trace NAME shows what was heard",
}


def _ports(config: AgentSettings) -> Iterator[Line]:
    from drivers.links import resolve

    for name, device in config.devices.items():
        title = f"port of {name}"
        if not device.enabled:
            yield Line(Verdict.OK, title, "switched off in the configuration")
        elif device.port.startswith(("tcp:", "pty:")):
            yield Line(Verdict.OK, title, device.port)
        else:
            yield _port_line(title, device.port, resolve)


def _port_line(title: str, port: str, resolve: Callable[[str], str]) -> Line:
    try:
        path = resolve(port)
    except KioskError as error:
        return Line(
            Verdict.FAIL, title, error.message, "look at cable and power; ls -l /dev/serial/by-id /dev/serial/by-path"
        )
    if not Path(path).exists():
        return Line(Verdict.FAIL, title, f"{path} is not there", "look at cable and power; ls -l /dev/serial/by-id")
    if not os.access(path, os.R_OK | os.W_OK):
        return Line(Verdict.FAIL, title, f"{path} may not be used by this account", "sudo usermod -aG dialout ACCOUNT")
    return Line(Verdict.OK, title, path if path == port else f"{port} is {path}")


def _centre(config: AgentSettings) -> Iterator[Line]:
    from sync.edge import identity

    if not config.sync.enabled:
        yield Line(Verdict.WARN, "centre", "sync is switched off", "sync.enabled = true")
        return
    known = identity.load(config.store.directory)
    if known is None:
        cure = "kiosk enroll --central URL --code CODE; until then everything works offline"
        yield Line(Verdict.WARN, "centre", "this kiosk is not enrolled", cure)
        return
    import httpx

    from sync.edge.client import tls_context

    url = known.central_url.rstrip("/") + "/health"
    try:
        verify = tls_context(config.sync)
        answer = httpx.get(url, timeout=CENTRE_TIMEOUT_S, verify=verify, proxy=config.sync.proxy, trust_env=False)
    except httpx.HTTPError as error:
        yield Line(
            Verdict.WARN, "centre", f"{url}: {error}", "rows wait on this kiosk and follow later; look at the network"
        )
        return
    verdict = Verdict.OK if answer.is_success else Verdict.WARN
    yield Line(
        verdict,
        "centre",
        f"{known.central_url} answers {answer.status_code}",
        "" if answer.is_success else "tell the office",
    )
