"""Settings of the device manager, the bus, the acceptance guard and the stop."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

DeviceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
PORT_PATTERN = r"^(/dev/\S+|usb:[0-9a-fA-F]{4}:[0-9a-fA-F]{4}(:\S+)?|tcp:\S+:\d+|pty:/\S+)$"


class DeviceSettings(BaseModel):
    """One device. `settings` is checked by the protocol's own model when the device is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = Field(min_length=1)
    port: str = Field(pattern=PORT_PATTERN)
    enabled: bool = True
    settings: dict[str, Any] = Field(default_factory=dict)


class RuntimeSettings(BaseModel):
    """Bounds of waiting and retrying, and the marks at which the kiosk stops taking money."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reopen_first_ms: int = Field(default=200, ge=10, le=60_000)
    reopen_max_ms: int = Field(default=10_000, ge=100, le=600_000)
    trace_frames: int = Field(default=500, ge=10, le=10_000)
    handler_retry_max_ms: int = Field(default=30_000, ge=100, le=600_000)
    commit_slow_ms: int = Field(default=2_000, ge=50, le=60_000)
    check_interval_ms: int = Field(default=2_000, ge=100, le=60_000)
    loop_stall_ms: int = Field(default=30_000, ge=1_000, le=600_000)
    settle_timeout_ms: int = Field(default=8_000, ge=0, le=60_000)

    @model_validator(mode="after")
    def _ordered(self) -> RuntimeSettings:
        if self.reopen_max_ms < self.reopen_first_ms:
            raise ValueError("reopen_max_ms must not be below reopen_first_ms")
        return self
