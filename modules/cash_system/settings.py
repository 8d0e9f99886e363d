"""Section `[modules.cash_system]` of the agent's configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CashSettings(BaseModel):
    """Times are seconds on the monotonic clock; amounts are minor units of the payment's own currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout_s: int = Field(180, ge=5, le=3600, description="Time to pay when the request names none.")
    timeout_max_s: int = Field(900, ge=5, le=7200, description="Longest time to pay that a request may name.")
    warn_s: int = Field(30, ge=0, le=600, description="The page offers more time when this much is left.")
    extensions_max: int = Field(5, ge=0, le=100, description="How often one payment may be extended.")
    restart_grace_s: int = Field(
        30, ge=0, le=600, description="After a restart an open payment has at least this long, whatever the clock says."
    )
    settle_wait_s: int = Field(
        45,
        ge=1,
        le=600,
        description="A payment that ends waits this long for a note on its way into the box; "
        "one that arrives later becomes a claim.",
    )
    device_lost_s: int = Field(
        60, ge=1, le=3600, description="A payment fails when no acceptor has worked for this long while it collects."
    )
    amount_max_minor: int = Field(100_000_00, ge=1, description="Largest amount of one payment.")

    @model_validator(mode="after")
    def _default_within_limit(self) -> CashSettings:
        if self.timeout_s > self.timeout_max_s:
            raise ValueError(f"timeout_s ({self.timeout_s}) must not exceed timeout_max_s ({self.timeout_max_s})")
        return self
