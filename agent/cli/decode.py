"""`kiosk decode`: frames of a protocol as JSON, one object a frame."""

from __future__ import annotations

import json
import sys
from enum import Enum, unique
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@unique
class Side(Enum):
    """Who sent the frame."""

    HOST = "host"
    DEVICE = "device"


@app.command()
def decode(
    protocol: Annotated[str, typer.Argument(help="Protocol, as in agent.toml: ccnet, …")],
    hexes: Annotated[
        list[str] | None, typer.Argument(metavar="[HEX]...", help="One frame; none: lines of stdin.")
    ] = None,
    direction: Annotated[Side | None, typer.Option(help="Who sent it; else guessed: host wins.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON is the only form; accepted for uniformity.")] = False,
) -> None:
    """Say what frames mean: one JSON object a frame, `also` names the other reading of a guess.

    From stdin: a frame a line, optionally behind `host` or `device`; a reply is read as the answer to the host frame
    before it, a lone one as a poll reply. Exit status: 0 all valid, 1 any frame is invalid.

    Example: kiosk decode ccnet 02 03 06 33 DA 81
    """
    from drivers.registry import protocol_of

    entry = protocol_of(protocol)
    lines = [" ".join(hexes)] if hexes else sys.stdin
    valid = True
    for each in entry.decode(lines, direction.value if direction else None):
        valid = valid and bool(each["valid"])
        typer.echo(json.dumps(each, ensure_ascii=False))
    raise typer.Exit(0 if valid else 1)
