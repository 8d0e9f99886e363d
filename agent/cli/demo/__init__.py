"""Everything on one machine: real servers, the office, one enrolled kiosk whose devices are simulated on the wire."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    script: Annotated[
        bool, typer.Option("--script", help="Do what a customer does, show where it went, exit.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything here instead of in a temporary directory.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the kiosk's API and page; another if taken.")] = 8005,
) -> None:
    """Start Postgres, Redis, S3, the central office and one simulated kiosk, all on loopback, with fresh passwords.

    Example: kiosk demo --script
    """
    from agent.cli.demo.session import run

    if directory is not None:
        asyncio.run(run(directory, scripted=script, port=port))
        return
    with tempfile.TemporaryDirectory(prefix="kiosk-demo-", ignore_cleanup_errors=True) as temporary:
        asyncio.run(run(Path(temporary), scripted=script, port=port))
