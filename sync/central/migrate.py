"""Brings the database to this version's schema. Several processes may ask at once: an advisory lock lets one work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from sync.central.schema import Keyed

_LOCK = 0x6B696F736B  # "kiosk"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    return config


@contextmanager
def _locked(dsn: str) -> Iterator[Connection]:
    scheme, _, rest = dsn.partition("://")
    engine = create_engine(f"{scheme.partition('+')[0]}+psycopg://{rest}", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()


def migrate(dsn: str) -> tuple[str | None, str]:
    """Run what is missing; returns (revision before, revision now)."""
    config = _config()
    with _locked(dsn) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        after = MigrationContext.configure(connection).get_current_revision()
    return before, str(after)


def back(dsn: str, revision: str = "base") -> str | None:
    """Undo migrations down to `revision`, with what only the newer schema can hold. For tests and disasters."""
    config = _config()
    with _locked(dsn) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The revision that this version's code needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current(dsn: str) -> str | None:
    """The revision of the database; None when it is empty."""
    with _locked(dsn) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def differences(dsn: str) -> list[object]:
    """What the models say and the database does not; empty when migrations and models agree."""
    with _locked(dsn) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Keyed.metadata))
