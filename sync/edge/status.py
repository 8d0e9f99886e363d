"""What the kiosk knows about its road to the office: for `/system`, metrics and `kiosk sync status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EdgeStatus:
    """One moment. Counts and ages are the kiosk's own; `watermark_seq` is what the office said it has, whole.

    `alarm` is the refusal that a person must look at (a `Refusal` or `row_too_large`, `journal_damaged`), with its text
    in `error_text`; None while rows flow or the office is merely away. `lag_rows` and `oldest_unsent_age_s` are None as
    long as the office's watermark is not known since the start.
    """

    enrolled: bool
    online: bool
    kiosk_id: str | None
    central_url: str | None
    journal_id: str
    head_seq: int
    watermark_seq: int | None
    lag_rows: int | None
    oldest_unsent_age_s: float | None
    error_code: str | None
    error_text: str | None
    alarm: str | None
    forked_from: str | None
    last_contact_age_s: float | None
    retry_in_s: float | None
    blobs_pending: int
    blobs_pending_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Progress:
    """The mutable half behind `EdgeStatus`, written by the uplink alone. Times are `clock.monotonic()`."""

    online: bool = False
    watermark_seq: int | None = None
    error_code: str | None = None
    error_text: str | None = None
    alarm: str | None = None
    forked_from: str | None = None
    last_contact: float | None = None
    retry_at: float | None = None

    def contact(self, now: float) -> None:
        """The office answered, if only to refuse."""
        self.online = True
        self.last_contact = now

    def failed(self, code: str, text: str, *, alarm: bool) -> None:
        self.error_code, self.error_text = code, text
        self.alarm = code if alarm else None

    def recovered(self) -> None:
        self.error_code = self.error_text = self.alarm = self.retry_at = None
