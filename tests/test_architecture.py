"""The direction of imports, read from every file's syntax tree and compared with the table below.

Imports inside functions and under TYPE_CHECKING count: the table is about who knows whom. Names handed to `importlib`
as strings do not; that is how the registry finds a protocol and RouterFactory a module.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agent", "drivers", "modules", "sync", "config")
NOT_PROTOCOLS = {"links"}  # every other folder under drivers/ is one

# Who may know whom. A file falls under the longest name that fits; a layer knows itself, but no protocol and no module
# knows its sisters. `drivers.*` stands for the plain files beside ports.py and registry.py. A file that falls under no
# layer is a finding too: give it a place here first.
FRAME = ("agent.domain", "drivers.ports", "drivers.links", "drivers.*")
AGENT = ("agent.store", "agent.api", "agent.api.module", "agent.runtime")
SHARED = (*FRAME, *AGENT, "drivers.registry", "config", "sync.envelope", "sync.edge")
ROOTED = (*SHARED, "agent.settings", "agent.logs")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "agent.domain": (),
    "config": ("agent.domain",),  # ConfigError: a problem of the settings is told like every other error
    "drivers.ports": ("agent.domain",),
    "drivers.*": FRAME,
    "drivers.links": FRAME,
    "drivers.registry": FRAME,
    "drivers.<protocol>": FRAME,
    "agent.store": ("agent.domain",),
    "sync.envelope": ("agent.domain",),
    "sync.edge": ("agent.domain", "agent.store", "sync.envelope"),
    "sync.central": ("agent.domain", "sync.envelope"),
    "sync.central.main": ("agent.domain", "sync.envelope", "sync.central", "config"),
    "sync.central.restore": ("agent.domain", "sync.envelope", "sync.central", "agent.store"),
    "agent.api.module": ("agent.domain", "agent.store", "drivers.ports"),
    "modules.<name>": ("agent.domain", "agent.store", "agent.api.module", "drivers.ports"),
    "agent.api": SHARED,
    "agent.runtime": SHARED,
    "agent.logs": (),
    "agent.settings": (*AGENT, "agent.logs", "config", "sync.edge"),  # the sections, which the parts own
    "agent.cli": (*ROOTED, "agent.main", "modules.<name>", "sync.central", "sync.central.main", "sync.central.restore"),
    "agent.main": (*ROOTED, "modules.<name>", "drivers.<protocol>"),
}
BARE = ("agent", "drivers", "modules", "sync")  # their __init__.py imports nothing of ours

NOT_PURE = {
    *("asyncio", "concurrent", "fcntl", "glob", "http", "io", "logging", "mmap", "multiprocessing", "os", "pathlib"),
    *("pty", "queue", "random", "sched", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3"),
    *("ssl", "subprocess", "sys", "tempfile", "termios", "threading", "time", "tty", "urllib"),
}
IMPURE_CALLS = {
    *("date.today", "datetime.now", "datetime.today", "datetime.utcnow", "input", "open", "print"),
    *("uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4"),
}
CENTRAL_ONLY = {"alembic", "minio", "psycopg", "psycopg_pool", "redis", "sqlalchemy", "sqlmodel"}
WITHOUT_CENTRAL = ("agent", "drivers", "modules", "sync.edge", "sync.envelope")
WHOLE_ROAD = "agent.cli.demo"  # runs the office too, on a developer's machine; only `kiosk demo` imports it


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name. `at_start` is false inside functions and under TYPE_CHECKING."""

    target: str
    line: int
    at_start: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """A row of MAY_IMPORT; `sister` tells protocols, and modules, apart."""

    row: str
    sister: str = ""

    def may_import(self, other: "Layer | None") -> bool:
        return other is not None and (other == self or other.row in MAY_IMPORT[self.row])


class Tree:
    """The project's Python files by dotted name, below any root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.files = {self._name(path): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}

    def findings(self) -> list[str]:
        return [f"{self.files[name].relative_to(self._root)}{text}" for name in self.files for text in self._file(name)]

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self._root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _file(self, name: str) -> Iterator[str]:
        layer = self.layer(name)
        if layer is None and name not in BARE:
            yield ": falls under no layer"
            return
        syntax = ast.parse(self.files[name].read_text("utf-8"))
        is_package = self.files[name].name == "__init__.py"
        for each in imports(syntax, package=name if is_package else name.rpartition(".")[0], known=self.files):
            for problem in self._problems(name, layer, each):
                yield f":{each.line}: {problem}"
        if layer == Layer("agent.domain"):
            yield from (f":{line}: agent.domain is pure, yet it calls {call}" for line, call in impure_calls(syntax))

    def _problems(self, name: str, layer: Layer | None, each: Import) -> Iterator[str]:
        top = each.target.partition(".")[0]
        if top in PACKAGES:
            if layer is None or not layer.may_import(self.layer(each.target)):
                yield f"{layer.row if layer else name} may not import {each.target}"
        elif layer == Layer("agent.domain") and (top in NOT_PURE or top not in sys.stdlib_module_names):
            yield f"agent.domain is pure, yet it imports {each.target}"
        elif top == "sqlite3":
            yield "sqlite3 beside apsw: one SQLite library per file and process"
        elif each.at_start and top in CENTRAL_ONLY and self.without_central(name):
            yield f"{each.target} is for the centre only, yet it is imported at start"

    @staticmethod
    def without_central(name: str) -> bool:
        return any(within(name, part) for part in WITHOUT_CENTRAL) and not within(name, WHOLE_ROAD)

    def layer(self, name: str) -> Layer | None:
        match name.split("."):
            case ["modules", sister, *_]:
                return Layer("modules.<name>", sister)
            case ["drivers", sister, *rest] if sister not in NOT_PROTOCOLS and (rest or self._is_folder(name)):
                return Layer("drivers.<protocol>", sister)
            case ["drivers", plain] if f"drivers.{plain}" not in MAY_IMPORT:
                return Layer("drivers.*")
        row = max((row for row in MAY_IMPORT if within(name, row)), key=len, default=None)
        return Layer(row) if row else None

    def _is_folder(self, name: str) -> bool:
        return self._root.joinpath(*name.split(".")).is_dir()


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def imports(syntax: ast.AST, package: str, known: Iterable[str], at_start: bool = True) -> Iterator[Import]:
    """Every import below a node. `from a import b` means `a.b` where that is a file of ours, else `a`."""
    for node in ast.iter_child_nodes(syntax):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_start) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in known else base, node.lineno, at_start)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for part, running in ((node.body, False), (node.orelse, at_start)):
                yield from imports(ast.Module(part, []), package, known, running)
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, package, known, at_start and not is_function)


def impure_calls(syntax: ast.AST) -> Iterator[tuple[int, str]]:
    """Clock, randomness and I/O that need no import of a forbidden module."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.Call):
            call = ".".join(ast.unparse(node.func).split(".")[-2:])
            if call in IMPURE_CALLS:
                yield node.lineno, call


def test_imports_go_where_the_table_points() -> None:
    tree = Tree(ROOT)
    assert "agent.domain.money" in tree.files, "looked in the wrong place"
    assert tree.findings() == []


GOOD = {
    "agent/__init__.py": "",
    "agent/domain/__init__.py": "",
    "agent/domain/money.py": "import json\nfrom uuid import UUID\nfrom . import events\n",
    "agent/domain/events.py": "from dataclasses import dataclass\n",
    "agent/store/writer.py": "import apsw, os\nfrom agent.domain import money\n",
    "agent/api/module.py": "from agent.store import writer\nfrom fastapi import APIRouter\n",
    "agent/api/app.py": "from agent.api.module import Module\nimport drivers.registry\n",
    "agent/runtime/clock.py": "import time\nfrom config import settings\n",
    "agent/cli/main.py": "from sync.central.main import app\nfrom modules.cash import module\n",
    "agent/main.py": "import drivers.ccnet.driver\nfrom modules.cash.module import MODULE\n",
    "drivers/ports.py": "from agent.domain.money import Money\n",
    "drivers/registry.py": "import importlib\nimportlib.import_module('drivers.ccnet.driver')\n",
    "drivers/trace.py": "",
    "drivers/links/serial.py": "import serial\nfrom drivers.ports import Link\n",
    "drivers/ccnet/__init__.py": "",
    "drivers/ccnet/codec.py": "from drivers.trace import Noise\nfrom ..links import serial\nfrom .driver import X\n",
    "drivers/ccnet/driver.py": "",
    "drivers/id003/driver.py": "",
    "modules/cash/module.py": "from agent.api.module import Module\nfrom modules.cash.service import S\n",
    "modules/cash/service.py": "def query():\n    import sqlmodel\n",
    "modules/hotel/module.py": "",
    "sync/envelope.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import redis\n",
    "sync/edge/uplink.py": "import httpx\nfrom sync import envelope\n",
    "sync/central/main.py": "import sqlmodel\nimport config.settings\nfrom sync.central import ingest\n",
    "sync/central/ingest.py": "import psycopg\nimport sync.envelope\n",
    "sync/central/restore.py": "from agent.store import writer\n",
    "config/settings.py": "import tomllib\n",
}
BAD = [  # (file, a line of it, what is said)
    ("agent/domain/money.py", "import time", "pure, yet it imports time"),
    ("agent/domain/money.py", "import msgspec", "pure, yet it imports msgspec"),
    ("agent/domain/money.py", "def f():\n    import random", "pure, yet it imports random"),
    ("agent/domain/money.py", "x = datetime.datetime.now()", "calls datetime.now"),
    ("agent/domain/money.py", "from agent import store", "may not import agent"),
    ("agent/domain/money.py", "from ..store import writer", "may not import agent.store.writer"),
    ("agent/store/writer.py", "import sqlite3", "one SQLite library"),
    ("agent/store/writer.py", "import drivers.ports", "may not import drivers.ports"),
    ("agent/api/app.py", "from drivers import ccnet", "may not import drivers.ccnet"),
    ("agent/api/app.py", "def f():\n    from modules.cash import service", "may not import modules.cash.service"),
    ("agent/api/app.py", "import sync.central.ingest", "may not import sync.central.ingest"),
    ("agent/runtime/clock.py", "import agent.main", "may not import agent.main"),
    ("agent/runtime/clock.py", "import redis", "for the centre only"),
    ("agent/runtime/clock.py", "try:\n    from minio import Minio\nexcept ImportError: pass", "for the centre only"),
    ("agent/cli/main.py", "import drivers.ccnet.simulator", "may not import drivers.ccnet.simulator"),
    ("agent/new.py", "", "no layer"),
    ("agent/__init__.py", "import agent.domain", "may not import agent.domain"),
    ("drivers/registry.py", "from drivers.ccnet import driver", "may not import drivers.ccnet.driver"),
    ("drivers/ccnet/codec.py", "from drivers.id003 import driver", "may not import drivers.id003.driver"),
    ("drivers/ccnet/codec.py", "from ..id003.driver import X", "may not import drivers.id003.driver"),
    ("drivers/ccnet/codec.py", "import drivers.registry", "may not import drivers.registry"),
    ("drivers/links/serial.py", "import agent.store.writer", "may not import agent.store.writer"),
    ("modules/cash/service.py", "from modules.hotel import module", "may not import modules.hotel.module"),
    ("modules/cash/service.py", "import agent.api.app", "may not import agent.api.app"),
    ("modules/cash/service.py", "import sqlmodel", "for the centre only"),
    ("sync/edge/uplink.py", "import sync.central.ingest", "may not import sync.central.ingest"),
    ("sync/envelope.py", "import sync.edge.uplink", "may not import sync.edge.uplink"),
    ("sync/central/ingest.py", "import agent.store.writer", "may not import agent.store.writer"),
    ("sync/central/ingest.py", "if TYPE_CHECKING:\n    import config.settings", "may not import config.settings"),
    ("config/settings.py", "from agent.store import writer", "may not import agent.store.writer"),
]


def plant(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


def test_the_check_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    assert plant(tmp_path, GOOD).findings() == []


@pytest.mark.parametrize("file, line, said", BAD)
def test_the_check_finds_what_is_planted(tmp_path: Path, file: str, line: str, said: str) -> None:
    """A check that cannot fail proves nothing: each kind of violation is planted and must be named, and no more."""
    [finding] = plant(tmp_path, {**GOOD, file: f"{GOOD.get(file, '')}{line}\n"}).findings()
    assert finding.startswith(file)
    assert said in finding
