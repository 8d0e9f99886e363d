"""Settings of one CCNET device, as they stand in `[devices.<name>.settings]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from drivers.links.settings import SerialSettings


class CcnetSettings(BaseModel):
    """Defaults follow the manual, or the field where the manual cannot be kept by a general-purpose OS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    serial: SerialSettings = Field(
        default=SerialSettings(baud=9600),
        description="Line: 9600 or 19200 bit/s by the device's switch; RTS and DTR off (a GX on USB wants rts = true).",
    )
    address: int = Field(
        default=0x03, ge=0x03, le=0x0F, description="3: bill validator. A Bill-to-Bill (1) needs a driver of its own."
    )
    poll_interval_ms: int = Field(
        default=200, ge=10, le=1_000, description="Between polls while enabled; the manual wants at least 100."
    )
    poll_idle_ms: int = Field(default=400, ge=10, le=2_000, description="Between polls while disabled.")
    bus_free_ms: int = Field(default=20, ge=0, le=200, description="Silence after an answer before the next command.")
    reply_timeout_ms: int = Field(default=250, ge=10, le=2_000, description="Answer to POLL and to settings.")
    long_reply_timeout_ms: int = Field(
        default=1_500, ge=10, le=10_000, description="Answer to IDENTIFICATION, GET BILL TABLE and GET CRC32."
    )
    gap_ms: int = Field(
        default=50, ge=1, le=500, description="A gap inside a frame that ends it: 5 on a native port, 20-50 behind USB."
    )
    reset_at_start: bool = Field(
        default=False,
        description="RESET also a device that is found initialised. Off: a GX on USB drops its port at every RESET.",
    )
    reset_timeout_s: float = Field(
        default=40.0, gt=0, le=120, description="How long a device may take, or be silent, after RESET."
    )
    absent_reset_s: float = Field(
        default=8.0, gt=0, le=10, description="RESET this often to a silent device, when no note is in progress."
    )
    fault_resets_max: int = Field(
        default=10, ge=0, le=100, description="RESETs against jams and failures within ten minutes; saves the motors."
    )
    fault_reset_polls: int = Field(default=20, ge=1, le=1_000, description="Polls between two such RESETs.")
    hold_interval_s: float = Field(
        default=5.0, gt=0, le=9, description="HOLD this often while a note waits; the device keeps it for 10 s."
    )
    hold_limit_s: float = Field(
        default=60.0, gt=0, le=600, description="A note that nobody decides on within this time goes back."
    )
    stack_timeout_s: float = Field(
        default=30.0, gt=0, le=300, description="Alarm when STACK or RETURN has had no outcome for this long."
    )
    reject_jam_s: float = Field(
        default=120.0, gt=0, le=3_600, description="Rejecting for longer than this is a stuck note: jam alarm."
    )
    ticket_digits: int | None = Field(
        default=None,
        description="Take interleaved 2-of-5 tickets with this many digits (6..18); none: no tickets.",
        ge=6,
        le=18,
    )
    high_security_types: tuple[Annotated[int, Field(ge=0, le=23)], ...] = Field(
        default=(), description="Bill types (0..23) to check with high security; empty: SET SECURITY is not sent."
    )
