"""The command table: quick help, one line for every error, and no command that breaks another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import main as command_line
from agent.domain.errors import ConfigError, KioskError
from tests.cli.conftest import Run
from tests.runtime.daemon import free_port


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    code = (
        "import sys\nfrom agent.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as left:\n    assert not left.code\n"
        "heavy = {'fastapi', 'uvicorn', 'apsw', 'httpx', 'sqlmodel', 'serial'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in command_line.COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", list(command_line.COMMANDS))
def test_every_command_of_the_table_is_there_and_shows_an_example(run: Run, name: str) -> None:
    """A group may leave the examples to its commands, but then each of them has one."""
    said = run(name, "--help")
    assert said.status == 0
    if "xample" not in said.out:
        inner = list(command_line._load(name).commands)
        without = [command for command in inner if "xample" not in run(name, command, "--help").out]
        assert inner
        assert without == []


def test_a_command_that_is_not_there_breaks_no_other(run: Run, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """An installation without the office has no `kiosk central`, and says so in one line."""
    missing = command_line._Entry("agent.cli.nowhere", "Nothing.")
    monkeypatch.setitem(command_line.COMMANDS, "central", missing)
    said = run("central")
    assert (said.status, said.err) == (
        2,
        "error: kiosk central needs agent.cli.nowhere, which is not installed (not_installed)\n",
    )
    assert run("devices").status == 0


def test_an_error_is_its_message_and_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> object:
        raise ConfigError("a.toml: x: 1 is not possible\na.toml: y: 2 is not possible")

    monkeypatch.setattr(command_line, "build", lambda: _Command(fails))
    said = run()
    assert said.status == command_line.EXIT_ERROR
    assert said.err.splitlines() == [
        "error: a.toml: x: 1 is not possible (config_invalid)",
        "error: a.toml: y: 2 is not possible (config_invalid)",
    ]


class _Command:
    def __init__(self, fails: object) -> None:
        self._fails = fails

    def main(self, **_arguments: object) -> None:
        assert callable(self._fails)
        self._fails()


def test_wrong_usage_is_status_2(run: Run) -> None:
    assert run("telepathy").status == 2
    assert run("devices", "--nonsense").status == 2


def test_the_configuration_can_be_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIOSK_CONFIG", "unused")
    monkeypatch.setenv("CENTRAL_CONFIG", "unused")
    said = run("--config", str(tmp_path / "gone.toml"), "devices")
    assert said.status == 2
    assert said.err == f"error: {tmp_path}/gone.toml: cannot be read: No such file or directory (config_invalid)\n"


@pytest.mark.parametrize(
    "case",
    [
        ("KIOSK_API__PROT", "1", "unknown key"),
        ("KIOSK_API__HOST", "0.0.0.0", "only 127.0.0.1"),
        ("KIOSK_API__HOST", "kiosk.example", "only 127.0.0.1"),
        ("KIOSK_DEVICES__VALIDATOR__PROTOCOL", "telepathy", "telepathy"),
        ("KIOSK_DEVICES__VALIDATOR__SETTINGS__ADDRESS", "99", "devices.validator"),
        ("KIOSK_DEVICES__SECOND", '{"protocol": "ccnet", "port": "PLACE/validator"}', "validator has"),
        ("KIOSK_MODULES__ENABLED", '["bakery"]', "bakery"),
        ("KIOSK_FAULT_POINT", "nowhere", "KIOSK_FAULT_POINT"),
        ("KIOSK_STORE__DIRECTORY", "/proc/nowhere", "/proc/nowhere"),
    ],
    ids=lambda case: case[0],
)
def test_an_agent_that_cannot_start_says_why_in_one_line(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]
) -> None:
    key, value, text = case
    monkeypatch.setenv("KIOSK_API__PORT", str(free_port()))
    monkeypatch.setenv(key, value.replace("PLACE", str(config.parent)))
    said = run("agent")
    assert said.status == 2
    assert said.err.splitlines()[-1].startswith("error: ")
    assert text in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_settings_can_be_checked_without_starting(run: Run, config: Path) -> None:
    assert run("agent", "--check").status == 0
    assert not (config.parent / "state").exists()


def test_codes_are_stable_and_no_class_goes_without() -> None:
    assert issubclass(command_line.NotInstalled, KioskError)
    assert command_line.NotInstalled.code == "not_installed"
