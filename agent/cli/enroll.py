"""`kiosk enroll`: trade a one-time code of the office for this kiosk's identity."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from agent.cli import client

app = typer.Typer(add_completion=False)


@app.command()
def enroll(
    central: Annotated[str, typer.Option(help="The office's address, https://…")],
    code: Annotated[str, typer.Option(help="The one-time code that the office shows.")],
    replace: Annotated[bool, typer.Option("--replace", help="Enrol anew though this kiosk has an identity.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")] = False,
) -> None:
    """Pair this kiosk with its central office. Works while the agent runs: it takes the identity up by itself.

    The key is made here and never leaves; the office's age keys are pinned. When the office does not answer, run the
    same command again: the code is not lost.

    Example: kiosk enroll --central https://office.example --code 7Q4M-K2XD
    """
    from agent.runtime.build import VERSION
    from agent.runtime.clock import SystemClock
    from sync.edge.enrolment import enrol

    config = client.settings()
    identity = asyncio.run(
        enrol(
            central,
            code.strip(),
            state_dir=config.store.directory,
            settings=config.sync,
            clock=SystemClock(),
            agent_version=VERSION,
            replace=replace,
        )
    )
    running = _tell_daemon()
    if as_json:
        answer = {
            "kiosk_id": identity.kiosk_id,
            "name": identity.name,
            "central_url": identity.central_url,
            "recipients": list(identity.recipients),
            "agent_running": running,
        }
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"enrolled with {identity.central_url} as {identity.name} ({identity.kiosk_id})")
    typer.echo("the agent runs and takes it up now" if running else "start the agent to sync: kiosk agent")


def _tell_daemon() -> bool:
    """Have a running agent look for its identity at once; it would find it within seconds anyway."""
    config = client.settings()
    try:
        with client.daemon(config) as kiosk:
            kiosk.post("/sync/now")
    except client.DaemonStopped:
        return False
    except client.Refused:
        return True
    return True
