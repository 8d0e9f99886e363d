"""Events to journal bodies and back: JSON with sorted keys, no spaces, UTF-8; the bytes are written once and kept.

A reader accepts what it does not know: extra keys are ignored, missing ones take their default, an unknown type
becomes `Unreadable`, so that an older agent or a newer centre never stops at a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from json.encoder import encode_basestring
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from agent.domain import events
from agent.domain.chain import JournalRow
from agent.domain.errors import DomainError
from agent.domain.events import Event
from agent.domain.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable(Event):
    """A row whose type or body this version cannot read; kept, counted and shown, never dropped."""

    TYPE: ClassVar[str] = "journal.row_unreadable"
    type: str
    reason: str


class MalformedEvent(DomainError):
    code = "malformed_event"
    http_status = 422


def _subclasses(cls: type[Event]) -> Iterator[type[Event]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


EVENT_TYPES: dict[str, type[Event]] = {
    cls.__dict__["TYPE"]: cls
    for cls in _subclasses(Event)
    if "TYPE" in cls.__dict__ and cls.__module__ == events.__name__
}
_KEYS = {
    cls: tuple((f'"{name}":', name) for name in sorted(field.name for field in fields(cls)))
    for cls in EVENT_TYPES.values()
}
_HINTS: dict[type[Any], dict[str, Any]] = {}
_to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _money_text(value: Money) -> str:
    return f'{{"amount_minor":{value.minor},"currency":"{value.currency}"}}'  # a currency is three capital letters


# What nearly every field is. Encoding is on the writer thread's path: this is a third of json.dumps's time.
_TEXTS: dict[type[Any], Callable[[Any], str]] = {
    str: encode_basestring,
    int: int.__repr__,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _none: "null",
    Money: _money_text,
}


def _text(value: object) -> str:
    write = _TEXTS.get(type(value))
    return _to_json(_plain(value)) if write is None else write(value)


def _plain(value: object) -> Any:
    if isinstance(value, Money):
        return {"amount_minor": value.minor, "currency": value.currency}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def encode(event: Event) -> bytes:
    """The body of the event's journal row."""
    return ("{" + ",".join([key + _text(getattr(event, name)) for key, name in _KEYS[type(event)]]) + "}").encode()


def decode(type_: str, body: bytes) -> Event:
    """The event of a journal row; `Unreadable` when this version does not know the type or cannot read the body."""
    cls = EVENT_TYPES.get(type_)
    if cls is None:
        return Unreadable(type=type_, reason="unknown type")
    try:
        plain = json.loads(body)
        if not isinstance(plain, dict):
            raise MalformedEvent("the body is not a JSON object")
        event = _build(cls, plain)
    except (ValueError, TypeError, KeyError, RecursionError, DomainError) as error:
        return Unreadable(type=type_, reason=str(error))
    assert isinstance(event, Event)  # noqa: S101 - narrows for the type checker; _build returns cls
    return event


def event_of(row: JournalRow) -> Event:
    return decode(row.type, row.body)


def _build(cls: type[Any], plain: dict[str, Any]) -> Any:
    hints = _HINTS.get(cls)
    if hints is None:
        hints = _HINTS[cls] = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in fields(cls):
        if field.name in plain:
            values[field.name] = _value(hints[field.name], plain[field.name], field.name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise MalformedEvent(f"field {field.name} is missing")
    return cls(**values)


def _value(hint: Any, raw: Any, name: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        options = get_args(hint)
        if raw is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), raw, name)
    if origin is tuple:
        if not isinstance(raw, list):
            raise MalformedEvent(f"field {name} must be a list")
        return tuple(_value(get_args(hint)[0], item, name) for item in raw)
    if hint is Money:
        if not isinstance(raw, dict):
            raise MalformedEvent(f"field {name} must be an amount with its currency")
        return Money(raw["amount_minor"], raw["currency"])
    if is_dataclass(hint):
        if not isinstance(raw, dict):
            raise MalformedEvent(f"field {name} must be an object")
        return _build(hint, raw)  # type: ignore[arg-type]
    if type(raw) is not hint:
        raise MalformedEvent(f"field {name} must be of type {hint.__name__}")
    return raw
