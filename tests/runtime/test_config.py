"""Settings: the file explains every key, the environment wins, and what cannot be is named in one line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import agent.settings
from agent.domain.errors import ConfigError
from agent.runtime.settings import DeviceSettings
from agent.settings import AgentSettings
from config import loader
from drivers.ccnet.settings import CcnetSettings
from modules.cash_system.settings import CashSettings

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "config" / "agent.toml"
_HEADER = re.compile(r"\[([a-z_.]+)\]")
_KEY = re.compile(r"(# )?([a-z][a-z0-9_]*) = \S.*")


def load(path: Path, **environ: str) -> AgentSettings:
    return agent.settings.load(environ, path)


def problems(path: Path, text: str, **environ: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, **environ)
    return caught.value.message.splitlines()


def keys_of(model: type[BaseModel], section: str) -> Iterator[tuple[str, str]]:
    """(section, key) of every setting; tables of tables are sections of their own."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys_of(inner, f"{section}.{name}")
        elif inner != dict[str, Any]:
            yield section, name


def wanted_keys() -> set[tuple[str, str]]:
    wanted = {
        key
        for name, field in AgentSettings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in keys_of(field.annotation, name)
    }
    wanted |= set(keys_of(CashSettings, "modules.cash_system"))
    wanted |= set(keys_of(DeviceSettings, "devices.validator"))
    return wanted | set(keys_of(CcnetSettings, "devices.validator.settings"))


def explained(text: str) -> Iterator[tuple[tuple[str, str], bool]]:
    """Every key in the file, also those that are switched off by `# `, and whether a comment stands above it."""
    section, above = "", ""
    for line in text.splitlines():
        if match := _HEADER.fullmatch(line):
            section = match[1]
        elif (match := _KEY.fullmatch(line)) is not None:
            yield (section, match[2]), above.startswith("# ") and _KEY.fullmatch(above) is None
        above = line


def test_the_shipped_file_holds_every_key_with_its_comment_and_no_other() -> None:
    found = dict(explained(SHIPPED.read_text()))
    assert set(found) == wanted_keys()
    assert [key for key, commented in found.items() if not commented] == []


def test_the_shipped_values_are_the_defaults() -> None:
    shipped = load(SHIPPED)
    plain = tomllib.loads(SHIPPED.read_text())
    assert shipped.model_copy(update={"devices": {}, "modules": AgentSettings().modules}) == AgentSettings()
    assert shipped.modules.enabled == AgentSettings().modules.enabled
    assert CashSettings.model_validate(shipped.modules.tables()["cash_system"]) == CashSettings()
    assert CcnetSettings.model_validate(shipped.devices["validator"].settings) == CcnetSettings()
    assert set(plain) == set(AgentSettings.model_fields)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        '[api]\nport = 1\n[devices.a]\nprotocol = "ccnet"\nport = "/dev/a"\n[devices.a.settings]\naddress = 3\n'
    )
    found = load(
        path,
        KIOSK_API__PORT="8006",
        KIOSK_API__UI_ORIGINS='["http://127.0.0.1:3000"]',
        KIOSK_DEVICES__A__PORT="/dev/b",
        KIOSK_DEVICES__B='{"protocol": "ccnet", "port": "tcp:10.0.0.1:4001"}',
        KIOSK_MODULES__CASH_SYSTEM__TIMEOUT_S="60",
        KIOSK_CONFIG="elsewhere",
        KIOSK_FAULT_POINT="acked",
        OTHER__THING="1",
    )
    assert found.api.port == 8006
    assert found.api.ui_origins == ("http://127.0.0.1:3000",)
    assert found.devices["a"] == DeviceSettings(protocol="ccnet", port="/dev/b", settings={"address": 3})
    assert found.devices["b"].port == "tcp:10.0.0.1:4001"
    assert found.modules.tables() == {"cash_system": {"timeout_s": "60"}}


def test_every_problem_is_one_line_with_file_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    text = """
        [api]
        prot = 8005
        port = 99999
        [runtime]
        reopen_first_ms = 2000
        reopen_max_ms = 1000
        [devices.Validator]
        protocol = "ccnet"
        port = "somewhere"
        [devices.b]
        protocol = "ccnet"
    """
    lines = problems(path, text)
    assert [line.removeprefix(f"{path}: ").split(":")[0] for line in lines] == [
        "api.port",
        "api.prot",
        "runtime",
        "devices.Validator",
        "devices.Validator.port",
        "devices.b.port",
    ]
    assert lines[0] == f"{path}: api.port: 99999 is not possible: input should be less than or equal to 65535"
    assert "unknown key (given 8005); did you mean port?" in lines[1]
    assert "must not be below reopen_first_ms" in lines[2]
    assert "usb:VID:PID[:SERIAL]" in lines[4]
    assert "missing" in lines[5]


def test_a_problem_of_the_environment_names_its_variable(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    [line] = problems(path, "", KIOSK_API__PORT="x")
    assert line.startswith("environment: KIOSK_API__PORT: 'x' is not possible")
    [line] = problems(path, "", KIOSK_APPI__PORT="1")
    assert line.startswith("environment: KIOSK_APPI__PORT: unknown section; allowed are KIOSK_STORE__")
    [line] = problems(path, "", KIOSK_API__UI_ORIGINS="no json")
    assert "written as JSON" in line


def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    [line] = problems(tmp_path / "agent.toml", "[api]\nui_token = 12345\n")
    assert "12345" not in line
    assert "***" in line


@pytest.mark.parametrize(
    ("text", "what"), [("[api\n", "is not TOML"), ('[modules]\ncash = "x"\n', "neither the key enabled nor a table")]
)
def test_files_that_are_none(tmp_path: Path, text: str, what: str) -> None:
    [line] = problems(tmp_path / "agent.toml", text)
    assert what in line


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loader.find({"KIOSK_CONFIG": "/x"}, "KIOSK_CONFIG", "nothing.toml") == Path("/x")
    with pytest.raises(ConfigError, match=r"/etc/kiosk/nothing.toml and config/nothing.toml .* KIOSK_CONFIG"):
        loader.find({}, "KIOSK_CONFIG", "nothing.toml")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "nothing.toml").write_text("")
    assert loader.find({}, "KIOSK_CONFIG", "nothing.toml") == Path("config/nothing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        agent.settings.load({"KIOSK_CONFIG": str(tmp_path / "gone")})
