"""Finds the modules under `modules/`, reads their settings, and builds them. Any failure stops the start.

Two phases, since a module's tables must be known before the store opens and its services need the open store:

    factory = RouterFactory(Path(modules.__file__).parent)
    found = factory.discover(["cash_system"], {"cash_system": {...}})     # before: Projections, settings
    store = open_store(projections=projections(found))
    mounted = factory.build(found, context)                               # after: routers, handlers, start/stop
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from agent.api.auth.caller import guards
from agent.api.module import Context, Module, Parts
from agent.domain.errors import ConfigError
from agent.store.ports import Projection

RESERVED = frozenset({"auth", "devices", "events", "system", "sync", "ws", "docs", "journal"})
_PREFIX = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """A module and its settings, validated; nothing is built yet."""

    module: Module
    settings: BaseModel


@dataclass(frozen=True, slots=True)
class Mounted:
    """A built module. `prefix` is the path below `/api/v1/`."""

    name: str
    prefix: str
    parts: Parts


def projections(found: Iterable[Found]) -> list[Projection]:
    """All modules' projections, for the store to open with."""
    return [projection for each in found for projection in each.module.projections]


class RouterFactory:
    """`folder` is the package's directory, `package` its import name; each module is a folder with `module.py`."""

    def __init__(self, folder: Path, package: str = "modules") -> None:
        self._folder = folder
        self._package = package

    def available(self) -> list[str]:
        """Names of the module folders that exist, enabled or not."""
        return sorted(path.parent.name for path in self._folder.glob("*/module.py"))

    def discover(self, enabled: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Found]:
        """Import every enabled module and validate its settings. Raises `ConfigError` naming module and reason."""
        twice = {name for name in enabled if enabled.count(name) > 1}
        if twice:
            raise ConfigError(f"module {min(twice)} is enabled twice")
        unused = sorted(set(settings) - set(self.available()))
        if unused:
            raise ConfigError(f"settings for module {unused[0]}, which does not exist; there are: {self._names()}")
        found = [self._find(name, settings.get(name, {})) for name in enabled]
        self._check_prefixes(found)
        return found

    def build(self, found: Iterable[Found], context: Context) -> list[Mounted]:
        return [self._build(each, context) for each in found]

    def _names(self) -> str:
        return ", ".join(self.available()) or "none"

    def _find(self, name: str, settings: Mapping[str, Any]) -> Found:
        if name not in self.available():
            raise ConfigError(f"module {name} does not exist; there are: {self._names()}")
        module = getattr(self._import(name), "MODULE", None)
        if not isinstance(module, Module):
            raise ConfigError(f"module {name}: {self._package}/{name}/module.py has no MODULE")
        if module.name != name:
            raise ConfigError(f"module {name}: its MODULE calls itself {module.name}")
        try:
            return Found(module, module.settings.model_validate(settings))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["modules", name, *map(str, first["loc"])])
            raise ConfigError(f"module {name}: {key} = {first['input']!r}: {first['msg']}") from error

    def _import(self, name: str) -> ModuleType:
        try:
            return importlib.import_module(f"{self._package}.{name}.module")
        except Exception as error:
            raise ConfigError(f"module {name} cannot be imported: {type(error).__name__}: {error}") from error

    def _check_prefixes(self, found: Iterable[Found]) -> None:
        owners: dict[str, str] = {}
        for each in found:
            name, prefix = each.module.name, each.module.prefix
            if not _PREFIX.fullmatch(prefix) or prefix in RESERVED:
                raise ConfigError(f"module {name}: prefix {prefix!r} is not allowed")
            if prefix in owners:
                raise ConfigError(f"module {name}: prefix {prefix!r} is already taken by module {owners[prefix]}")
            owners[prefix] = name

    def _build(self, found: Found, context: Context) -> Mounted:
        name = found.module.name
        try:
            parts: object = found.module.build(context, found.settings)
        except Exception as error:
            raise ConfigError(f"module {name} cannot be built: {type(error).__name__}: {error}") from error
        if not isinstance(parts, Parts):
            raise ConfigError(f"module {name}: build gives no Parts")
        for route in _unguarded(parts.router.routes):
            raise ConfigError(
                f"module {name}: {route} lets everybody in. Give it a role with context.require, either as"
                f" dependencies=[Depends(...)] or as a default value (actor: str = Depends(...)): FastAPI cannot read"
                f" local names out of text annotations"
            )
        return Mounted(name, found.module.prefix, parts)


def _unguarded(routes: Iterable[Any]) -> Iterator[str]:
    """Routes without `require`: a forgotten one, or one that FastAPI took for a query parameter."""
    for route in routes:
        if isinstance(route, APIRoute):
            if not any(guards(each.call) for each in route.dependant.dependencies):
                yield f"{', '.join(sorted(route.methods or ()))} {route.path}"
        elif hasattr(route, "original_router"):  # a router that was included into this one
            yield from _unguarded(route.original_router.routes)
        else:
            yield f"{type(route).__name__} {getattr(route, 'path', '')}".strip()
