"""Settings of the store: section `store` of agent.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StoreSettings(BaseModel):
    """Where the kiosk keeps its facts, and when it stops taking money because the disk fills up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    directory: Path = Field(default=Path("/var/lib/kiosk"), description="State directory; one agent per directory.")
    wal_size_mib: float = Field(default=8, gt=0, le=1024, description="Size at which the write-ahead log is kept.")
    group_max: int = Field(default=512, ge=1, le=10_000, description="At most so many works share one commit.")
    reserve_mib: float = Field(default=16, ge=0, le=4096, description="File given up so that facts still fit.")
    disk_low_mib: float = Field(default=256, gt=0, description="Below this much free space no money is taken.")
    disk_resume_mib: float = Field(default=320, gt=0, description="At this much free space money is taken again.")
    disk_critical_mib: float = Field(default=32, ge=0, description="Below this the reserve file is given up.")

    @model_validator(mode="after")
    def _marks_in_order(self) -> Self:
        if not self.disk_critical_mib < self.disk_low_mib < self.disk_resume_mib:
            raise ValueError("disk_critical_mib < disk_low_mib < disk_resume_mib is what makes sense")
        return self
