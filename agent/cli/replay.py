"""`kiosk replay`: a recorded conversation through the driver's own machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def replay(
    protocol: Annotated[str, typer.Argument(help="Protocol, as in agent.toml: ccnet, …")],
    trace: Annotated[Path, typer.Argument(help='JSON lines {"direction", "hex", "at_ms"}; - for stdin.')],
    table: Annotated[Path | None, typer.Option(help="Values by code, when the trace holds no table exchange.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON is the only form; accepted for uniformity.")] = False,
) -> None:
    """Print the domain events of a recording and, last, what was credited per currency.

    Recorded host frames are taken as sent. The value file is JSON ({"2": ["RUS", "10"]} or {"2": "10 RUB"}) or the hex
    of a bill table frame; without any values `credited_minor` is null.

    Example: kiosk replay ccnet trace.jsonl --table notes.json
    """
    from agent.domain.errors import NotFound
    from drivers.registry import protocol_of

    entry = protocol_of(protocol)
    for path in (trace, table):
        if path is not None and str(path) != "-" and not path.is_file():
            raise NotFound(f"there is no file {path}")
    lines = sys.stdin.readlines() if str(trace) == "-" else trace.read_text("utf-8").splitlines()
    for each in entry.replay(lines, table.read_text("utf-8") if table else None):
        typer.echo(json.dumps(each, ensure_ascii=False))
