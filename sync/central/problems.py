"""Refusals as RFC 9457 problem documents: one shape for kiosks and for the office's pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from sync.envelope import REFUSAL_STATUS, Refusal, Watermark

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """A journal's watermark as the office holds it."""

    journal_id: UUID
    seq: int
    hash: bytes

    def wire(self) -> Watermark:
        return Watermark(str(self.journal_id), self.seq, self.hash.hex())


class Refused(Exception):
    """The office says no to a kiosk, and why. `alarm` tells a person too."""

    def __init__(self, refusal: Refusal, message: str, *, mark: Mark | None = None, alarm: Alarm | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
        self.mark = mark
        self.alarm = alarm

    @property
    def status(self) -> int:
        return REFUSAL_STATUS[self.refusal]

    def document(self) -> dict[str, Any]:
        extra = {} if self.mark is None else {"watermark": self.mark.wire()}
        return problem(self.refusal, self.status, self.message, **extra)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a person must know. The same (`code`, `key`) of a kiosk again only counts up. `facts` must be JSON-able."""

    code: str
    key: str
    detail: str
    facts: dict[str, Any]
    severity: str = "warning"


def problem(code: str, status: int, detail: str, **extra: Any) -> dict[str, Any]:
    """`code` is stable; `title` is the same in words; `detail` is about this case."""
    title = str(code).replace("_", " ").capitalize()
    return {
        "type": f"urn:kiosk:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }


def encoded(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document)
