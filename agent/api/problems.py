"""RFC 9457 problem documents: every error of the API is mapped to HTTP here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.api.trace import trace_id
from agent.domain.errors import KioskError

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """One field of a request that did not pass; `at` is a path such as `body.amount_minor`."""

    at: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable and what programs look at; `detail` is for people. Further members may follow."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:kiosk:problem:illegal_transition"])
    title: str = Field(examples=["Conflict"])
    status: int = Field(examples=[409])
    code: str = Field(examples=["illegal_transition"])
    detail: str = Field(examples=["The payment is completed and cannot be cancelled."])
    trace_id: str = Field(examples=["0199c1d2e3f47a5b8c6d7e8f90a1b2c3"])
    retryable: bool = False
    errors: list[FieldProblem] | None = None


class NotAuthenticated(KioskError):
    code: ClassVar[str] = "not_authenticated"
    http_status: ClassVar[int] = 401


class RoleNotAllowed(KioskError):
    code: ClassVar[str] = "role_not_allowed"
    http_status: ClassVar[int] = 403


_CODES = {
    400: "malformed_request",
    401: NotAuthenticated.code,
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    503: "unavailable",
}


def document(status: int, code: str, detail: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a problem answer. Our own members win over `members` of the same name."""
    own = {
        "type": f"urn:kiosk:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "trace_id": trace_id(),
    }
    return {"retryable": False, **members, **own}


def response(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> JSONResponse:
    body = document(status, code, detail, members or {})
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def from_error(error: KioskError) -> JSONResponse:
    """5xx of our own making keep their message for the log: it may name files and devices, never secrets."""
    if error.http_status >= 500:
        logger.warning("{code}: {message}", code=error.code, message=error.message)
    members: dict[str, Any] = {**error.details, "retryable": error.retryable}
    headers: dict[str, str] = {}
    if (wait := members.get("retry_after_s")) is not None:
        headers["Retry-After"] = str(wait)
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return response(error.http_status, error.code, error.message, headers, members)


async def _kiosk_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, KioskError)  # noqa: S101 - registered for this class only
    return from_error(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    fields = [
        FieldProblem(at=".".join(map(str, each["loc"])), message=str(each["msg"])).model_dump()
        for each in error.errors()[:50]
    ]
    return response(
        422, _CODES[422], "The request does not have the form that this route takes.", members={"errors": fields}
    )


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    return response(error.status_code, _CODES.get(error.status_code, "http_error"), str(error.detail), error.headers)


class UnexpectedErrors:
    """The last edge: what nobody expected is logged once with its traceback and answered 500 without internals."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = scope["type"] != "http"

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            logger.opt(exception=error).error("unexpected error while answering a request")
            if started:
                raise
            answer = response(500, "internal_error", "Something went wrong here; the log names it under this trace_id.")
            await answer(scope, receive, send)


def install(app: FastAPI) -> None:
    app.add_exception_handler(KioskError, _kiosk_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)


_ANSWERS = {
    400: "The request is malformed (`malformed_request`).",
    401: "No session, or it has ended (`not_authenticated`).",
    403: "This role, Host or Origin may not (`role_not_allowed`, `host_not_allowed`, `origin_not_allowed`).",
    404: "There is no such thing (`not_found`).",
    409: "It is not in a state in which this can happen, or the same key is being worked on.",
    413: "The body is too large (`body_too_large`).",
    415: "The body is not JSON (`unsupported_media_type`).",
    422: "The input does not have the form that this route takes (`invalid_request`, with `errors`).",
    429: "Too many attempts (`locked_out`); Retry-After says when.",
    503: "The kiosk's store cannot be written at the moment, or a part is not ready.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: which problems it may answer with, for OpenAPI.

    Without `model`, from which FastAPI would build a validator for each route and status at every start (half the time
    of `create_app`); `agent.api.openapi` adds the schema.
    """
    return {
        status: {
            "description": _ANSWERS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
