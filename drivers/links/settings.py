"""How a serial line is driven. Each protocol brings its own defaults; the configuration may override them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SerialSettings(BaseModel):
    """Line settings of a serial port; a TCP or memory link ignores them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    baud: int = Field(default=9600, ge=300, le=921_600, description="Bits per second.")
    data_bits: Literal[7, 8] = Field(default=8, description="Data bits of a character.")
    parity: Literal["none", "even", "odd"] = Field(default="none", description="Parity bit.")
    stop_bits: Literal[1, 2] = Field(default=1, description="Stop bits.")
    rts: bool = Field(default=False, description="Level of RTS while the port is open.")
    dtr: bool = Field(default=False, description="Level of DTR while the port is open.")
