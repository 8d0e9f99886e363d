"""Settings of the local API: section `[api]` of agent.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from agent.domain.errors import ConfigError

UI_TOKEN_MIN = 32


def _exact_origin(value: str) -> str:
    parts = urlsplit(value)
    exact = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in {"http", "https"} or not parts.hostname or value != exact or "*" in value or "@" in value:
        raise ValueError("an origin is exactly scheme://host[:port], such as http://127.0.0.1:3000")
    return value


Origin = Annotated[str, AfterValidator(_exact_origin)]


class ApiSettings(BaseModel):
    """`host` and `port` are used by `kiosk agent`; with `uvicorn agent.main:app` its own options win. The Host check
    follows the port that the server really listens on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; only loopback clients are ever answered.")
    port: int = Field(8005, ge=1, le=65535)
    extra_hosts: tuple[str, ...] = Field(
        (), description="Host headers allowed besides 127.0.0.1:<port> and localhost:<port>, for example of a tunnel."
    )
    ui_origins: tuple[Origin, ...] = Field(
        (),
        description="Exact origins of UIs served elsewhere; on the agent's host, else no cookie.",
    )
    ui_token: SecretStr | None = Field(None, description="What POST /auth/ui trades for a session. Better: a file.")
    ui_token_file: Path | None = Field(None, description="File that holds the UI token; re-read at every start.")
    launch_file: Path | None = Field(None, description="HTML file that opens the kiosk page; <state dir>/launch.html.")
    launch_group: str | None = Field(None, description="Group that may read the launch file: the browser's user.")
    session_ttl_s: int = Field(900, ge=60, le=86_400, description="Life of a session cookie before /auth/refresh.")
    refresh_ttl_s: int = Field(43_200, ge=300, le=2_592_000, description="Life of a refresh cookie, staff and UI.")
    body_limit_bytes: int = Field(65_536, ge=1024, le=16_777_216)
    body_timeout_s: float = Field(10.0, gt=0, le=120)
    heartbeat_s: float = Field(15.0, gt=0, le=300, description="Comment sent on an idle event stream.")
    stream_buffer_messages: int = Field(1000, ge=10, le=100_000, description="A slower client is sent away.")
    stream_stall_s: float = Field(10.0, gt=0, le=300, description="A write that waits longer ends the stream.")
    streams_max: int = Field(64, ge=1, le=1000, description="Event streams and WebSockets at the same time.")
    resume_rows_max: int = Field(10_000, ge=1, le=1_000_000, description="Further behind: a new snapshot instead.")

    def read_ui_token(self) -> str | None:
        """The UI token, from the file when one is named. Raises `ConfigError`."""
        if self.ui_token_file is None:
            return _strong(self.ui_token.get_secret_value(), "ui_token") if self.ui_token else None
        try:
            text = self.ui_token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"api.ui_token_file: cannot read {self.ui_token_file}: {error}") from error
        return _strong(text, "ui_token_file")


def _strong(token: str, key: str) -> str:
    if len(token) < UI_TOKEN_MIN:
        raise ConfigError(f"api.{key}: a UI token has at least {UI_TOKEN_MIN} characters: openssl rand -hex 24")
    return token
