"""The compose file as Docker would see it: variables filled in, anchors and merges resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^{}]*))?\}|(?P<bare>\w+))")


class Unset(KeyError):
    """A variable that must be given; the message is the file's own."""


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """`${A}`, `${A:-default}`, `${A:?message}` and `$$`, as the Compose Specification has them."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, kind = match["name"] or match["bare"], match["kind"]
        if value := values.get(name, ""):
            return value
        if kind == ":?":
            raise Unset(f"{name}: {match['rest']}")
        return match["rest"] if kind == ":-" else ""

    return _VARIABLE.sub(fill, text)


def variables(text: str) -> dict[str, tuple[str, str]]:
    """Name → (kind, default or message) of every variable in the file."""
    found = {}
    for match in _VARIABLE.finditer(text):
        if match[0] != "$$":
            found[match["name"] or match["bare"]] = (match["kind"] or "", match["rest"] or "")
    return found


def read(values: Mapping[str, str]) -> dict[str, Any]:
    """The stack with `values` filled in. Raises `Unset`."""

    def fill(node: Any) -> Any:
        if isinstance(node, str):
            return interpolated(node, values)
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        return [fill(each) for each in node] if isinstance(node, list) else node

    stack: dict[str, Any] = fill(yaml.safe_load(COMPOSE.read_text("utf-8")))
    return stack


def example() -> tuple[dict[str, str], dict[str, str]]:
    """(variables that must be filled in, optional ones with their default) of `.env.example`."""
    must: dict[str, str] = {}
    may: dict[str, str] = {}
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if match := re.fullmatch(r"(#?)([A-Z0-9_]+)=(.*)", line):
            (may if match[1] else must)[match[2]] = match[3]
    return must, may


FILLED = {
    "KIOSK_VERSION": "0.1.0",
    "SECRETS_DIR": "/etc/kiosk-central/secrets",
    "CENTRAL_HOST": "office.example",
    "S3_HOST": "objects.example",
    "GRAFANA_HOST": "grafana.example",
    "CADDY_TLS": "internal",
    "OFFICE_RECIPIENT": "age1" + "q" * 58,
    "RECOVERY_RECIPIENT": "age1" + "p" * 58,
}


def sources(service: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(source, target, mode) of each volume of a service, short form."""
    return [(source, target, mode) for source, target, mode in (_parts(each) for each in service.get("volumes", []))]


def _parts(volume: str) -> tuple[str, str, str]:
    source, target, *mode = volume.split(":")
    return source, target, mode[0] if mode else "rw"
