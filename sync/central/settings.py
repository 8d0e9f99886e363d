"""What the office can be told: `config/central.toml`, which explains each key, overridden by `CENTRAL_SECTION__KEY`.

Secrets come from the environment or from files: a key `x` that is secret has a twin `x_file` naming a file whose first
line is the value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from agent.domain.errors import ConfigError

ENV_PREFIX = "CENTRAL_"
CONFIG_VARIABLE = "CENTRAL_CONFIG"
CONFIG_NAME = "central.toml"
SECRET_BYTES_MIN = 32
STATE = Path("/var/lib/kiosk-central")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _secret(name: str, value: SecretStr | None, path: Path | None) -> str:
    if value is not None:
        return value.get_secret_value()
    if path is None:
        raise ConfigError(f"{name}: missing; set {ENV_PREFIX}{name.upper().replace('.', '__')} or {name}_file")
    try:
        return path.read_text("utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise ConfigError(f"{name}_file: {path} cannot be read: {error.strerror}") from error


class DatabaseSettings(Section):
    dsn: SecretStr | None = None
    dsn_file: Path | None = None
    pool_min: Annotated[int, Field(ge=1, le=100)] = 2
    pool_max: Annotated[int, Field(ge=1, le=500)] = 10
    connect_timeout_s: Seconds = 5
    statement_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] = 20_000
    migrate_at_start: bool = False

    def url(self) -> str:
        return _secret("database.dsn", self.dsn, self.dsn_file)

    @model_validator(mode="after")
    def _pool(self) -> Self:
        if self.pool_max < self.pool_min:
            raise ValueError(f"pool_max ({self.pool_max}) must not be less than pool_min ({self.pool_min})")
        return self


class RedisSettings(Section):
    url: SecretStr | None = None
    url_file: Path | None = None
    timeout_ms: Annotated[int, Field(ge=10, le=10_000)] = 250

    def address(self) -> str | None:
        """None: the office works without Redis (presence from Postgres, live views by polling)."""
        return None if self.url is None and self.url_file is None else _secret("redis.url", self.url, self.url_file)


class S3Settings(Section):
    endpoint: str = "http://127.0.0.1:9000"
    public_endpoint: str = "http://127.0.0.1:9000"
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = "kiosk"
    region: str = "us-east-1"
    access_key: SecretStr | None = None
    access_key_file: Path | None = None
    secret_key: SecretStr | None = None
    secret_key_file: Path | None = None
    grant_ttl_s: Annotated[int, Field(ge=10, le=300)] = 300
    timeout_s: Seconds = 30
    object_bytes_max: Annotated[int, Field(ge=1)] = 2 << 30
    verify_interval_s: Seconds = 1
    create_bucket: bool = False

    def keys(self) -> tuple[str, str]:
        access = _secret("s3.access_key", self.access_key, self.access_key_file)
        return access, _secret("s3.secret_key", self.secret_key, self.secret_key_file)


class AuthSettings(Section):
    secret: SecretStr | None = None
    secret_file: Path | None = STATE / "secret"
    token_ttl_s: Annotated[int, Field(ge=30, le=3_600)] = 600
    nonce_ttl_s: Annotated[int, Field(ge=5, le=300)] = 60
    code_ttl_h: Annotated[float, Field(gt=0, le=720)] = 24

    def key(self) -> bytes:
        key = _secret("auth.secret", self.secret, self.secret_file).encode()
        if len(key) < SECRET_BYTES_MIN:
            raise ConfigError(f"auth.secret: must have at least {SECRET_BYTES_MIN} characters; make one with `init`")
        return key


class KeysSettings(Section):
    """age keys. The office hands the two recipients to each kiosk at enrolment; the identities open snapshots."""

    recipients: list[Annotated[str, Field(pattern=r"^age1[a-z0-9]{58}$")]] = []
    recipients_file: Path | None = STATE / "recipients.txt"
    office_identity_file: Path = STATE / "office.key"
    recovery_identity_file: Path = STATE / "recovery.key"

    def public(self) -> list[str]:
        """The office's recipient and the recovery one."""
        found = self.recipients
        if not found and self.recipients_file is not None and self.recipients_file.exists():
            found = [line for line in self.recipients_file.read_text("utf-8").split() if line.startswith("age1")]
        if len(found) != 2:
            raise ConfigError(
                f"keys.recipients: two are needed, the office's and the recovery key's, found {len(found)}; "
                "make them with `kiosk central keys`"
            )
        return found


class PresenceSettings(Section):
    heartbeat_s: Seconds = 15
    ttl_s: Seconds = 45


class OfficeSettings(Section):
    origins: list[str] = []
    session_h: Annotated[float, Field(gt=0, le=168)] = 12
    cookie_secure: bool = True
    lockout_after: Annotated[int, Field(ge=2, le=100)] = 5
    lockout_s: Seconds = 300
    live_poll_s: Seconds = 1
    languages: list[Literal["en", "de", "fr", "ru"]] = ["en", "de", "fr", "ru"]


class LoggingSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_lines: bool = True


class CentralSettings(Section):
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    s3: S3Settings = S3Settings()
    auth: AuthSettings = AuthSettings()
    keys: KeysSettings = KeysSettings()
    presence: PresenceSettings = PresenceSettings()
    office: OfficeSettings = OfficeSettings()
    logging: LoggingSettings = LoggingSettings()

    def check_secrets(self) -> None:
        """Raises `ConfigError` for the first secret or key that the office needs and that is not there."""
        self.database.url()
        self.redis.address()
        self.s3.keys()
        self.auth.key()
        self.keys.public()
