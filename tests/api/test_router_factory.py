"""Modules are found, checked and built, and whatever is wrong with one stops the start by its name."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modules
from agent.api.module import Context
from agent.api.router_factory import RouterFactory, projections
from agent.domain.errors import ConfigError

GOOD = """
from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict
from agent.api.auth.caller import require
from agent.api.module import Context, Module, Parts

class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    volume: int = 3

def build(context: Context, settings: Settings) -> Parts:
    router = APIRouter()

    @router.get("/volume", dependencies=[Depends(require("ui"))])
    def volume() -> int:
        return settings.volume

    return Parts(router=router)

MODULE = Module(name="{name}", prefix="{prefix}", settings=Settings, build=build, projections=("table of {name}",))
"""


# With the annotations as text, FastAPI takes `actor` for a query parameter: whoever adds ?actor=… is let in.
NOT_READ = "from __future__ import annotations\nfrom typing import Annotated" + GOOD.replace(
    'volume", dependencies=[Depends(require("ui"))])\n    def volume()',
    'volume")\n    def volume(actor: Annotated[str, Depends(require(*roles))])',
).replace("router = APIRouter()", "router, roles = APIRouter(), ['ui']")


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.factory = RouterFactory(path, package=path.name)

    def plant(self, name: str, text: str = GOOD, prefix: str = "") -> None:
        (self.path / name).mkdir()
        (self.path / name / "__init__.py").touch()
        text = text.replace("{name}", name).replace("{prefix}", prefix or name)
        (self.path / name / "module.py").write_text(text)

    def refused(self, *enabled: str, settings: dict[str, Any] | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            found = self.factory.discover(enabled, settings or {})
            self.factory.build(found, None)  # type: ignore[arg-type]
        return caught.value.message


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Folder]:
    path = tmp_path / f"planted_{abs(hash(request.node.name))}"
    path.mkdir()
    (path / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Folder(path)
    for name in [name for name in sys.modules if name.startswith(path.name)]:
        del sys.modules[name]


def test_what_is_enabled_is_found_and_built_with_its_settings(folder: Folder) -> None:
    for name in ("alpha", "beta", "asleep"):
        folder.plant(name)
    (folder.path / "no_module").mkdir()
    assert folder.factory.available() == ["alpha", "asleep", "beta"]
    found = folder.factory.discover(["beta", "alpha"], {"beta": {"volume": 11}, "asleep": {"volume": 1}})
    assert [str(each) for each in projections(found)] == ["table of beta", "table of alpha"]
    assert f"{folder.path.name}.asleep.module" not in sys.modules, "what is not enabled is not even imported"
    context: Context = None  # type: ignore[assignment]
    mounted = folder.factory.build(found, context)
    assert [(each.name, each.prefix) for each in mounted] == [("beta", "beta"), ("alpha", "alpha")]


def test_unknown_modules(folder: Folder) -> None:
    folder.plant("alpha")
    assert folder.refused("gamma") == "module gamma does not exist; there are: alpha"
    assert folder.refused("../alpha") == "module ../alpha does not exist; there are: alpha"
    assert "settings for module gamma" in folder.refused("alpha", settings={"gamma": {}})
    assert folder.refused("alpha", "alpha") == "module alpha is enabled twice"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODULE = 5", "has no MODULE"),
        ("", "has no MODULE"),
        ("raise OSError('gone')", "cannot be imported: OSError: gone"),
        ("import nothing_like_this", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        (GOOD.replace('name="{name}"', 'name="other"'), "its MODULE calls itself other"),
        (GOOD.replace('prefix="{prefix}"', 'prefix="system"'), "prefix 'system' is not allowed"),
        (GOOD.replace('prefix="{prefix}"', 'prefix="../auth"'), "prefix '../auth' is not allowed"),
        (GOOD.replace("router = APIRouter()", "raise KeyError('x')"), "cannot be built: KeyError"),
        (GOOD.replace("return Parts(router=router)", "return None"), "build gives no Parts"),
        (GOOD.replace(', dependencies=[Depends(require("ui"))]', ""), "GET /volume lets everybody in"),
        (GOOD.replace("return Parts", "router.mount('/x', APIRouter()); return Parts"), "Mount /x lets everybody in"),
        (NOT_READ, "GET /volume lets everybody in"),
    ],
)
def test_a_broken_module_stops_the_start_by_name(folder: Folder, text: str, said: str) -> None:
    folder.plant("alpha", text)
    message = folder.refused("alpha")
    assert message.startswith("module alpha")
    assert said in message


def test_bad_settings_name_the_key_the_value_and_the_reason(folder: Folder) -> None:
    folder.plant("alpha")
    message = folder.refused("alpha", settings={"alpha": {"volume": "loud"}})
    assert "modules.alpha.volume = 'loud'" in message
    assert "valid integer" in message
    assert "modules.alpha.colour" in folder.refused("alpha", settings={"alpha": {"colour": 1}})


def test_two_modules_with_one_prefix(folder: Folder) -> None:
    folder.plant("alpha", prefix="cash")
    folder.plant("beta", prefix="cash")
    assert folder.refused("alpha", "beta") == "module beta: prefix 'cash' is already taken by module alpha"


def test_the_modules_of_this_project_are_found() -> None:
    factory = RouterFactory(Path(modules.__file__ or "").parent)
    assert "cash_system" in factory.available()
    assert [each.module.prefix for each in factory.discover(["cash_system"], {})] == ["cash"]
