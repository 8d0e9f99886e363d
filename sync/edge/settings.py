"""Settings of the kiosk's side of the road: section `sync` of agent.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SyncSettings(BaseModel):
    """How the kiosk talks to its office. Where the office is and who we are stands in `identity.json` (enrolment)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="False: nothing leaves this kiosk, whether or not it is enrolled.")
    ca_file: Path | None = Field(
        default=None, description="PEM file with the only authorities to trust for the office and its object store."
    )
    proxy: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="HTTP proxy between kiosk and office; the environment's proxy variables are not read.",
    )
    connect_timeout_s: float = Field(default=10, gt=0, le=120, description="For TCP and TLS together.")
    request_timeout_s: float = Field(default=30, gt=0, le=600, description="For one whole request and its answer.")
    heartbeat_interval_s: float = Field(
        default=30,
        ge=5,
        le=3600,
        description="How often the office hears from an idle kiosk, unless it asks otherwise.",
    )
    batch_rows: int = Field(default=1_000, ge=1, le=2_000, description="At most so many rows travel together.")
    batch_kib: int = Field(default=2_048, ge=16, le=8_192, description="At most so many KiB of rows, uncompressed.")
    retry_min_s: float = Field(default=0.5, gt=0, le=60, description="Shortest wait after the office did not answer.")
    retry_max_s: float = Field(default=60, gt=0, le=3600, description="Longest wait after the office did not answer.")
    refused_retry_min_s: float = Field(default=5, gt=0, le=600, description="Shortest wait after a refusal.")
    refused_retry_max_s: float = Field(default=900, gt=0, le=86_400, description="Longest wait after a refusal.")
    upload_kib_per_s: int = Field(
        default=1_024, ge=0, description="Bandwidth that sealed files may take; 0: all there is. Rows are not limited."
    )
    snapshot_at: str = Field(
        default="03:30",
        pattern=r"^$|^([01]\d|2[0-3]):[0-5]\d$",
        description="Local time from which the nightly snapshot is made (spread over an hour); empty: never.",
    )
    snapshot_kib_per_s: int = Field(default=8_192, ge=64, description="How fast a snapshot reads the journal's file.")
    snapshots_kept: int = Field(
        default=2, ge=1, le=30, description="Sealed snapshots kept while they cannot be uploaded; older ones give way."
    )

    @model_validator(mode="after")
    def _waits_in_order(self) -> Self:
        if self.retry_min_s > self.retry_max_s or self.refused_retry_min_s > self.refused_retry_max_s:
            raise ValueError("the shortest wait (…_min_s) must not be longer than the longest (…_max_s)")
        return self
