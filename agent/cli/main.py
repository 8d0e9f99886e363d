"""`kiosk`: finds the command's file, imports only that one, and turns every `KioskError` into one line.

A group lives in `agent/cli/<file>.py` as `app = typer.Typer(...)`; a single command in it becomes the command itself.
Exit status: 0 done, 1 the answer is no (a frame is invalid, a check failed), 2 could not be done (wrong usage, or
`error: <message> (<code>)` on stderr), 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from agent.domain.errors import KioskError

EXIT_ERROR = 2


class NotInstalled(KioskError):
    """The command belongs to an extra of the package that this machine does without."""

    code = "not_installed"


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command is and what `kiosk --help` says of it."""

    module: str
    help: str


COMMANDS = {
    "agent": _Entry("agent.cli.agent", "Run the kiosk's daemon."),
    "central": _Entry("agent.cli.central", "Run and look after the central office."),
    "demo": _Entry("agent.cli.demo", "Everything on this machine, simulated on the wire."),
    "enroll": _Entry("agent.cli.enroll", "Pair this kiosk with its central office."),
    "auth": _Entry("agent.cli.auth", "Users of this kiosk; make the first admin."),
    "devices": _Entry("agent.cli.devices", "State, firmware and counters of the devices."),
    "decode": _Entry("agent.cli.decode", "Frames of a protocol as JSON."),
    "replay": _Entry("agent.cli.replay", "A recorded conversation through a driver's machine."),
    "simulate": _Entry("agent.cli.simulate", "A device simulator alone, on a pty or TCP port."),
    "journal": _Entry("agent.cli.journal", "Verify, follow, export the journal; rebuild projections."),
    "cash": _Entry("agent.cli.cash", "What lies where, claims, doubts."),
    "sync": _Entry("agent.cli.sync", "How far the central office is, and why."),
    "doctor": _Entry("agent.cli.doctor", "Check this machine, line by line, with the cure."),
}


class _Lazy(TyperGroup):
    """Help is written from the table above; only the command that runs is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name in COMMANDS:
            return name, _load(name), args[1:]
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    try:
        module = importlib.import_module(COMMANDS[name].module)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"kiosk {name} needs {error.name}, which is not installed") from error
    command = typer.main.get_command(module.app)
    command.name = name
    return command


def _root(
    config: Annotated[str | None, typer.Option(help="Configuration file, else KIOSK_CONFIG, else as usual.")] = None,
) -> None:
    """The kiosk's agent, its devices and its central office. Example: kiosk doctor"""
    if config is not None:
        os.environ["KIOSK_CONFIG"] = os.environ["CENTRAL_CONFIG"] = config


def build() -> Any:
    """The whole command line as one click command."""
    app = typer.Typer(cls=_Lazy, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script. Leaves by `SystemExit`."""
    try:
        build().main(args=arguments, prog_name="kiosk")
    except KioskError as error:
        for line in error.message.splitlines():
            print(f"error: {line} ({error.code})", file=sys.stderr)  # noqa: T201 - the command line speaks on stderr
        raise SystemExit(EXIT_ERROR) from None


if __name__ == "__main__":
    main()
