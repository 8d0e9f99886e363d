"""`uvicorn sync.central.main:app`: the office. Settings, pools and background work open in the lifespan, not here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sync.central.settings import CONFIG_NAME, CONFIG_VARIABLE, ENV_PREFIX, CentralSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def load_settings() -> CentralSettings:
    """From the file that `CENTRAL_CONFIG` names (or the usual places) and the environment. Raises `ConfigError`."""
    from config.loader import find, load

    return load(CentralSettings, find(os.environ, CONFIG_VARIABLE, CONFIG_NAME), os.environ, ENV_PREFIX)


def __getattr__(name: str) -> ASGIApp:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sync.central.app import create_app

    app = globals()["app"] = create_app(load_settings)
    return app
