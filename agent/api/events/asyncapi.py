"""The AsyncAPI 3.0 document of the event stream, made from the events themselves (`agent.domain.events`)."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from inspect import getdoc
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from agent.api.auth.caller import Role
from agent.api.events.messages import SNAPSHOT, STREAM_ENDED, hidden_fields, visible
from agent.domain.events import Event
from agent.domain.money import Money
from agent.domain.wire import EVENT_TYPES

_MONEY = {
    "type": "object",
    "required": ["amount_minor", "currency"],
    "properties": {"amount_minor": {"type": "integer"}, "currency": {"type": "string", "pattern": "^[A-Z]{3}$"}},
}
_PLAIN = {str: "string", int: "integer", bool: "boolean"}
_ENDED = {
    "type": "object",
    "required": ["reason", "resume_from"],
    "properties": {
        "reason": {"enum": ["too_slow", "shutdown", "journal_changed", "session_ended", "client_talked"]},
        "resume_from": {"type": "string", "description": "What to send as Last-Event-ID."},
    },
}
_SNAPSHOT = {
    "type": "object",
    "required": ["journal_id", "seq", "devices", "acceptance", "modules"],
    "properties": {
        "journal_id": {"type": "string", "format": "uuid"},
        "seq": {"type": "integer", "description": "The next message is the first row after this one."},
        "devices": {"type": "array", "items": {"type": "object"}},
        "acceptance": {
            "type": "object",
            "properties": {"allowed": {"type": "boolean"}, "reasons": {"type": "array", "items": {"type": "string"}}},
        },
        "modules": {"type": "object", "description": "By prefix, what each module tells of itself."},
    },
}


@cache
def document() -> dict[str, Any]:
    messages = {
        SNAPSHOT: _message(SNAPSHOT, "Everything as it is now; replaces what the client knew.", _SNAPSHOT, Role),
        STREAM_ENDED: _message(STREAM_ENDED, "The last message of a stream that the kiosk ends.", _ENDED, Role),
        **{type_: _of_event(type_, cls) for type_, cls in sorted(EVENT_TYPES.items())},
    }
    shown = {_key(type_): {"$ref": f"#/components/messages/{_key(type_)}"} for type_ in messages}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Kiosk events",
            "version": "1.0.0",
            "description": "The journal as it grows, over SSE and WebSocket: CloudEvents 1.0 in JSON. `id` is "
            "`<journal_id>:<seq>`; send the last one you saw as Last-Event-ID to go on after it.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "events": {"address": "/api/v1/events", "description": "Server-sent events.", "messages": shown},
            "ws": {
                "address": "/api/v1/ws",
                "description": "WebSocket; takes nothing from the client.",
                "bindings": {"ws": {"query": {"type": "object", "properties": {"last_event_id": {"type": "string"}}}}},
                "messages": shown,
            },
        },
        "operations": {
            f"receive_{name}": {"action": "send", "channel": {"$ref": f"#/channels/{name}"}}
            for name in ("events", "ws")
        },
        "components": {"messages": {_key(type_): message for type_, message in messages.items()}},
    }


def _key(type_: str) -> str:
    return type_.replace(".", "_")


def _message(type_: str, text: str, data: dict[str, Any], roles: Any) -> dict[str, Any]:
    names = [role.value for role in roles]
    return {
        "name": type_,
        "title": type_,
        "summary": " ".join(text.split()),
        "description": f"Sent to: {', '.join(names)}.",
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "time", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {"type": "string"},
                "source": {"type": "string", "format": "uri"},
                "type": {"const": type_},
                "subject": {"type": "string"},
                "time": {"type": "string", "format": "date-time"},
                "seq": {"type": "integer"},
                "data": data,
            },
        },
    }


def _of_event(type_: str, cls: type[Event]) -> dict[str, Any]:
    text = getdoc(cls) or type_
    roles = [role for role in Role if visible(type_, role)]
    message = _message(type_, text if text != getdoc(Event) else type_, _object(cls), roles)
    for role in roles:
        if absent := sorted(hidden_fields(type_, role) & {field.name for field in fields(cls)}):
            message["description"] += f" Without {', '.join(absent)} for {role.value}."
    return message


def _object(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    required = [each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING]
    return {
        "type": "object",
        "required": required,
        "properties": {each.name: _schema(hints[each.name]) for each in fields(cls)},
    }


def _schema(hint: Any) -> dict[str, Any]:
    if get_origin(hint) in (Union, UnionType):
        return {"oneOf": [{"type": "null"} if each is type(None) else _schema(each) for each in get_args(hint)]}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _schema(get_args(hint)[0])}
    if hint is Money:
        return _MONEY
    if is_dataclass(hint):
        return _object(hint)
    return {"type": _PLAIN[hint]}
