"""The agent's settings as one tree; each part owns the model of its section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agent.api.settings import ApiSettings
from agent.logs import LoggingSettings
from agent.runtime.settings import DeviceName, DeviceSettings, RuntimeSettings
from agent.store.settings import StoreSettings
from config import loader
from sync.edge.settings import SyncSettings

VARIABLE = "KIOSK_CONFIG"
FILE_NAME = "agent.toml"


class ModulesSettings(BaseModel):
    """Which modules run; a table `[modules.<name>]` holds the settings of one and is checked by its own model."""

    model_config = ConfigDict(extra="allow", frozen=True)

    enabled: tuple[str, ...] = Field(default=("cash_system",), description="Folders below modules/ that are started.")

    def tables(self) -> dict[str, Any]:
        """Module name → its own settings, as they stand in the file."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _only_tables(self) -> ModulesSettings:
        for name, table in self.tables().items():
            if not isinstance(table, dict):
                raise ValueError(f"{name} is neither the key enabled nor a table [modules.{name}]")
        return self


class AgentSettings(BaseModel):
    """Root of `agent.toml`; environment variables `KIOSK_SECTION__KEY` win over the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: StoreSettings = Field(default_factory=StoreSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    sync: SyncSettings = Field(default_factory=SyncSettings)
    modules: ModulesSettings = Field(default_factory=ModulesSettings)
    devices: dict[DeviceName, DeviceSettings] = Field(default_factory=dict)


def load(environ: Mapping[str, str], path: Path | None = None) -> AgentSettings:
    """From `path`, else from where `KIOSK_CONFIG` says or the usual places. Raises `ConfigError`."""
    return loader.load(AgentSettings, path or loader.find(environ, VARIABLE, FILE_NAME), environ)
