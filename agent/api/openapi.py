"""The OpenAPI document: what FastAPI generates, with problem documents as the only shape of an error."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from agent.api.problems import MEDIA_TYPE, Problem

TAGS = [
    {"name": "auth", "description": "Logging in and out; users, managed by admins."},
    {"name": "devices", "description": "What hangs on this kiosk: state, identity, counters, frames."},
    {"name": "events", "description": "The journal as it grows, as CloudEvents over SSE and WebSocket."},
    {"name": "system", "description": "Health, readiness, versions, metrics."},
    {"name": "cash", "description": "Payments in cash, claims, what lies where."},
]
DESCRIPTION = """The local API of a kiosk, on 127.0.0.1 only.

Every error is an RFC 9457 problem document with a stable `code`. POSTs that move money need an `Idempotency-Key`: the
same key and body get the same answer, however often they are sent. Every answer carries `X-Trace-Id`, which is in the
journal rows and log lines that belong to it. A client on TCP names its Origin on all methods but GET and HEAD (browsers
do by themselves), or sends a bearer token and no cookie."""
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_ANY = {"description": "A problem document; `code` says which.", "content": _PROBLEM}


def operation_id(route: APIRoute) -> str:
    """Names of methods in generated clients: `cash_create_payment`."""
    return "_".join([*map(str, route.tags[:1]), route.name])


def install(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=DESCRIPTION,
                    routes=app.routes,
                    tags=TAGS,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


def _with_problems(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    for path in document["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            for status, answer in responses.items():
                if status == "422" or MEDIA_TYPE in answer.get("content", {}):
                    answer["content"] = _PROBLEM
            responses["default"] = _ANY
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document
