"""Log pipelines as data: reads Alloy's configuration language, and applies Alloy's or Promtail's stages to one line.

Source: Grafana Alloy 1.21, "Configuration syntax" and `loki.process`; Promtail 3.6, "Pipeline stages". Only what the
files in config/ use; anything else raises `ValueError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_TOKENS = re.compile(
    r"""\s+ | //[^\n]* | (?P<string>"(?:[^"\\]|\\.)*") | (?P<raw>`[^`]*`) | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<name>[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*) | (?P<sign>[{}\[\](),=+])""",
    re.X,
)


@dataclass(slots=True)
class Block:
    """`name "label" { attributes, blocks }`; references and calls are kept as their text."""

    name: str
    label: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = list(self._split(text))
        self._place = 0

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(text):
            match = _TOKENS.match(text, place)
            if match is None:
                raise ValueError(f"not understood: {text[place : place + 40]!r}")
            place = match.end()
            if match.lastgroup:
                yield match.lastgroup, match[match.lastgroup]

    def _next(self) -> tuple[str, str]:
        if self._place == len(self._tokens):
            raise ValueError("the file ends in the middle")
        self._place += 1
        return self._tokens[self._place - 1]

    def _sees(self, sign: str) -> bool:
        return self._place < len(self._tokens) and self._tokens[self._place] == ("sign", sign)

    def _take(self, sign: str) -> None:
        if (found := self._next()) != ("sign", sign):
            raise ValueError(f"{sign} expected, not {found[1]}")

    def body(self, into: Block, closing: bool) -> Block:
        while self._place < len(self._tokens) and not (closing and self._sees("}")):
            kind, name = self._next()
            if kind != "name":
                raise ValueError(f"a name expected, not {name}")
            if self._sees("="):
                self._take("=")
                into.attributes[name] = self._sum()
                continue
            block = Block(name)
            if not self._sees("{"):
                block.label = json.loads(self._next()[1])
            self._take("{")
            into.blocks.append(self.body(block, closing=True))
            self._take("}")
        return into

    def _sum(self) -> Any:
        value = self._value()
        while self._sees("+"):
            self._take("+")
            value = f"{value}{self._value()}"
        return value

    def _value(self) -> Any:
        kind, text = self._next()
        match kind, text:
            case "string", _:
                return json.loads(text)
            case "raw", _:
                return text[1:-1]
            case "number", _:
                return float(text) if "." in text else int(text)
            case "name", "true" | "false":
                return text == "true"
            case "name", _:
                return f"<{text}{self._list('(', ')')}>" if self._sees("(") else f"<{text}>"
            case "sign", "[":
                self._place -= 1
                return self._list("[", "]")
            case "sign", "{":
                return self._object()
        raise ValueError(f"a value expected, not {text}")

    def _list(self, opening: str, closing: str) -> list[Any]:
        self._take(opening)
        found = []
        while not self._sees(closing):
            found.append(self._sum())
            if not self._sees(closing):
                self._take(",")
        self._take(closing)
        return found

    def _object(self) -> dict[str, Any]:
        found = {}
        while not self._sees("}"):
            kind, text = self._next()
            key = json.loads(text) if kind == "string" else text
            self._take("=")
            found[key] = self._sum()
            if not self._sees("}"):
                self._take(",")
        self._take("}")
        return found


def alloy(text: str) -> Block:
    """The whole file as a nameless block."""
    return _Reader(text).body(Block(""), closing=False)


def stages(process: Block) -> list[dict[str, Any]]:
    """Alloy's `stage.*` blocks in Promtail's shape, so that one reader below serves both."""
    found: list[dict[str, Any]] = []
    for block in process.blocks:
        kind = block.name.removeprefix("stage.")
        if kind == "match":
            body: Any = {**block.attributes, "stages": stages(block)} if block.blocks else dict(block.attributes)
        elif kind in {"labels", "structured_metadata", "static_labels", "label_drop", "label_keep"}:
            body = block.attributes["values"]
        else:
            body = dict(block.attributes)
        found.append({{"label_drop": "labeldrop", "label_keep": "labelallow"}.get(kind, kind): body})
    return found


@dataclass(slots=True)
class Entry:
    """A line on its way; None as `line`: dropped."""

    line: str | None
    labels: dict[str, str]
    at: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    extracted: dict[str, str] = field(default_factory=dict)


def run(pipeline: list[dict[str, Any]], entry: Entry) -> Entry:
    for stage in pipeline:
        ((kind, body),) = stage.items()
        if entry.line is not None:
            _apply(kind, body, entry)
    return entry


def _apply(kind: str, body: Any, entry: Entry) -> None:  # noqa: PLR0912 # one arm a stage
    match kind:
        case "json":
            for name, path in body["expressions"].items():
                if (value := _found(entry.line or "", path)) is not None:
                    entry.extracted[name] = value
        case "timestamp":
            if body["format"] not in {"RFC3339", "RFC3339Nano"}:
                raise ValueError(f"format {body['format']}")
            entry.at = entry.extracted.get(body["source"], entry.at)
        case "template":
            if body["template"] != "{{ ToLower .Value }}":
                raise ValueError(body["template"])
            if body["source"] in entry.extracted:
                entry.extracted[body["source"]] = entry.extracted[body["source"]].lower()
        case "labels":
            entry.labels |= _named(body, entry)
        case "structured_metadata":
            entry.metadata |= _named(body, entry)
        case "static_labels":
            entry.labels |= body
        case "labeldrop":
            entry.labels = {name: value for name, value in entry.labels.items() if name not in body}
        case "labelallow":
            entry.labels = {name: value for name, value in entry.labels.items() if name in body}
        case "output":
            entry.line = entry.extracted.get(body["source"], entry.line)
        case "match":
            if _selected(body["selector"], entry.labels):
                if body.get("action") == "drop":
                    entry.line = None
                else:
                    run(body["stages"], entry)
        case _:
            raise ValueError(f"no such stage here: {kind}")


def _named(body: dict[str, str], entry: Entry) -> dict[str, str]:
    found = {name: entry.extracted.get(source or name) for name, source in body.items()}
    return {name: value for name, value in found.items() if value is not None}


def _found(line: str, path: str) -> str | None:
    """JMESPath, dotted names only, the quoted ones with dots inside."""
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    for name in re.findall(r'"([^"]+)"|([^."]+)', path):
        value = value.get(name[0] or name[1]) if isinstance(value, dict) else None
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _selected(selector: str, labels: dict[str, str]) -> bool:
    """LogQL stream selectors; one that fits the empty set is refused as Loki does."""
    matchers = re.findall(r'(\w+)\s*(=~|=)\s*"([^"]*)"', selector)
    if not any(value for _, _, value in matchers):
        raise ValueError(f"{selector} would fit everything")
    return all(
        re.fullmatch(value, labels.get(name, "")) is not None if how == "=~" else labels.get(name, "") == value
        for name, how, value in matchers
    )
