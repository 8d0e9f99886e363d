"""One settings tree from a TOML file, overridden by the environment (`KIOSK_SECTION__KEY`, lists as JSON).

Root models are plain pydantic models with `extra="forbid"`: an unknown key or an impossible value stops the start, and
every problem becomes one line that names where it stands, what was given and what is allowed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from agent.domain.errors import ConfigError

Root = TypeVar("Root", bound=BaseModel)
DELIMITER = "__"
_SECRET = re.compile(r"secret|password|token|private|pin$", re.IGNORECASE)
_SHOWN_MAX = 60  # characters of a given value that a message repeats


class _Environment(EnvSettingsSource):
    """Reads the given mapping instead of the process's own."""

    def __init__(self, model: type[BaseModel], environ: Mapping[str, str], prefix: str) -> None:
        self._given = {name.lower(): value for name, value in environ.items()}
        super().__init__(
            model,  # type: ignore[arg-type] # any model will do: only its fields and model_config are read
            env_prefix=prefix,
            env_nested_delimiter=DELIMITER,
            env_ignore_empty=False,
        )

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._given)


def find(environ: Mapping[str, str], variable: str, name: str) -> Path:
    """The file to read: what `variable` names, else `/etc/kiosk/<name>`, else `config/<name>` below the working folder.

    Raises `ConfigError` when there is none of them, or when this account may not look.
    """
    if given := environ.get(variable):
        return Path(given)
    places = (Path("/etc/kiosk") / name, Path("config") / name)
    for place in places:
        try:
            if place.is_file():
                return place
        except PermissionError as error:
            raise ConfigError(f"{place} may not be looked at by this account: use sudo") from error
    looked = " and ".join(str(place) for place in places)
    raise ConfigError(f"no configuration: {looked} do not exist; set {variable} to the path of a file")


def load(model: type[Root], path: Path, environ: Mapping[str, str], prefix: str = "KIOSK_") -> Root:
    """The settings in `path`, with what `environ` overrides. Raises `ConfigError`, one line a problem."""
    from_file = _read(path)
    from_environment = _environment(model, environ, prefix)
    try:
        return model.model_validate(_merged(from_file, from_environment))
    except ValidationError as error:
        names = {name.upper() for name in environ}
        problems = [_line(model, each, path, names, prefix) for each in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems), problems=problems) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def _environment(model: type[BaseModel], environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    for name in environ:
        section, delimiter, _ = name.upper().removeprefix(prefix).partition(DELIMITER)
        if name.upper().startswith(prefix) and delimiter and section.lower() not in model.model_fields:
            allowed = ", ".join(f"{prefix}{each.upper()}{DELIMITER}…" for each in model.model_fields)
            raise ConfigError(f"environment: {name}: unknown section; allowed are {allowed}")
    try:
        return _Environment(model, environ, prefix)()
    except SettingsError as error:
        raise ConfigError(f"environment: {error}; lists and tables are written as JSON") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _line(model: type[BaseModel], error: ErrorDetails, path: Path, names: set[str], prefix: str) -> str:
    keys = [str(part) for part in error["loc"] if part != "[key]"]
    variable = prefix + DELIMITER.join(keys).upper()
    where = f"environment: {variable}" if variable in names else f"{path}: {'.'.join(keys)}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key (given {_shown(keys, error['input'])}); {_known(model, keys)}"
    if error["type"] == "missing":
        return f"{where}: missing; {_allowed(error)}"
    return f"{where}: {_shown(keys, error['input'])} is not possible: {_allowed(error)}"


def _allowed(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]


def _shown(keys: list[str], value: object) -> str:
    if any(_SECRET.search(key) for key in keys):
        return "***"
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _known(model: type[BaseModel], keys: list[str]) -> str:
    """What could have been meant, for a key that no field has."""
    fields = sorted(_fields_at(model, keys[:-1]))
    near = difflib.get_close_matches(keys[-1], fields, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed here: {', '.join(fields)}"


def _fields_at(model: type[BaseModel], keys: list[str]) -> Iterator[str]:
    """Names of the fields of the table that `keys` lead to; a key of a mapping (a device's name) is any name."""
    here: Any = model
    for key in keys:
        if isinstance(here, type) and issubclass(here, BaseModel):
            found = here.model_fields.get(key)
            here = found.annotation if found else None
        else:
            here = get_args(here)[-1] if get_args(here) else None
    if isinstance(here, type) and issubclass(here, BaseModel):
        yield from here.model_fields
