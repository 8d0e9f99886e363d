"""Settings of the device manager, the bus, the acceptance guard and the stop."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

DeviceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_PORT = re.compile(r"/\S+|usb:[0-9a-fA-F]{4}:[0-9a-fA-F]{4}(:\S+)?|tcp:\S+:\d{1,5}|pty:/\S+")


def _port(value: str) -> str:
    if not _PORT.fullmatch(value):
        raise ValueError(
            "a port is a path or glob (/dev/serial/by-id/*CashCode*), usb:VID:PID[:SERIAL], or tcp:HOST:PORT"
        )
    return value


class DeviceSettings(BaseModel):
    """One device: table `[devices.<name>]`. The name is stable across ports and replacements."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = Field(min_length=1, description="What it speaks, such as ccnet; `kiosk decode --help` lists all.")
    port: Annotated[str, AfterValidator(_port)] = Field(
        description="Where it hangs: a path or glob below /dev/serial/by-id, usb:VID:PID[:SERIAL], or tcp:HOST:PORT."
    )
    enabled: bool = Field(default=True, description="False: not opened, as if it were not configured.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the protocol, see its folder.")


class RuntimeSettings(BaseModel):
    """Bounds of waiting and retrying, and the mark at which commits are too slow to take money."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reopen_first_ms: int = Field(
        default=200, ge=10, le=60_000, description="Wait before a lost device is opened again; doubles each time."
    )
    reopen_max_ms: int = Field(default=10_000, ge=10, le=600_000, description="Longest such wait.")
    trace_frames: int = Field(default=500, ge=10, le=10_000, description="Decoded frames kept for each device.")
    handler_retry_max_ms: int = Field(
        default=30_000, ge=10, le=600_000, description="Longest wait before a failed handler is tried again."
    )
    commit_slow_ms: int = Field(
        default=2_000, ge=10, le=60_000, description="Commits that take longer, twice in a row, inhibit the acceptors."
    )
    check_interval_ms: int = Field(
        default=2_000, ge=50, le=60_000, description="Clock, store and device loops are looked at this often."
    )
    loop_stall_ms: int = Field(
        default=30_000,
        ge=1_000,
        le=600_000,
        description="A device loop that did not turn for so long starves the watchdog.",
    )
    settle_timeout_ms: int = Field(
        default=8_000, ge=0, le=60_000, description="A stop waits this long for notes that are on their way."
    )

    @model_validator(mode="after")
    def _ordered(self) -> RuntimeSettings:
        if self.reopen_max_ms < self.reopen_first_ms:
            raise ValueError("reopen_max_ms must not be below reopen_first_ms")
        return self
