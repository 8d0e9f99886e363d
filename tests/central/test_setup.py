"""What is done once: settings that explain themselves, migrations, keys, first admin, and a snapshot that opens."""

import asyncio
import base64
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pyrage
import pytest
import zstandard
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner

from agent.cli.central import app as cli
from agent.domain.errors import ConfigError, KioskError
from config.loader import load
from sync.central import embedded, main, migrate, restore, setup
from sync.central.embedded import EmbeddedServerFailed, EmbeddedServers, Stranger
from sync.central.settings import ENV_PREFIX, AuthSettings, CentralSettings, KeysSettings
from tests.central.kiosks import Journal, Kiosk
from tests.central.stores import journal_file
from tests.central.test_blobs import capture, grant, state_becomes, stored, upload
from tests.servers import OFFICE_KEY, RECOVERY_KEY, Centre, central_settings

CONFIG = Path(__file__).parents[2] / "config" / "central.toml"
CLI = CliRunner()


def leaves(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.default
    return found


def test_the_file_explains_every_key_and_names_the_defaults() -> None:
    text = CONFIG.read_text("utf-8")
    file = tomllib.loads(text)
    given = {f"{section}.{key}": value for section, keys in file.items() for key, value in keys.items()}
    model = leaves(CentralSettings)
    section, commented = "", set()
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line.startswith("#") and "=" in line and " " not in line[1:].partition("=")[0].strip():
            commented.add(f"{section}.{line[1:].partition('=')[0].strip()}")
    assert given.keys() | commented == model.keys()
    for key, value in given.items():
        default = model[key]
        assert value == (str(default) if isinstance(default, Path) else default), key
    for line, before in zip(text.splitlines()[1:], text.splitlines(), strict=False):
        key_line = "=" in line and not line.startswith("#")
        if key_line:
            assert before.startswith("#") or "=" in before, f"unexplained: {line}"


def test_settings_from_file_and_environment_and_what_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://somewhere\nignored\n")
    environ = {"CENTRAL_DATABASE__DSN_FILE": str(secret), "CENTRAL_OFFICE__ORIGINS": '["https://a"]'}
    settings = load(CentralSettings, CONFIG, environ, ENV_PREFIX)
    assert settings.database.url() == "postgresql://somewhere"
    assert settings.office.origins == ["https://a"]
    assert settings.redis.address() is None
    for name, value, said in (
        ("CENTRAL_DATABASE__POOL_MAX", "1", "pool_max"),
        ("CENTRAL_S3__GRANT_TTL_S", "301", "300"),
        ("CENTRAL_OFFICE__COLOUR", "blue", "unknown key"),
        ("CENTRAL_KEYS__RECIPIENTS", '["age1short"]', "match"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(CentralSettings, CONFIG, {name: value}, ENV_PREFIX)
    monkeypatch.setenv("CENTRAL_CONFIG", str(CONFIG))
    assert main.load_settings().s3.bucket == "kiosk"
    with pytest.raises(AttributeError):
        _ = main.nothing


def test_secrets_that_are_missing_or_weak_are_said(tmp_path: Path) -> None:
    nowhere = tmp_path / "no such file"
    with pytest.raises(ConfigError, match="CENTRAL_DATABASE__DSN"):
        CentralSettings().check_secrets()
    with pytest.raises(ConfigError, match="cannot be read"):
        AuthSettings(secret_file=nowhere).key()
    with pytest.raises(ConfigError, match="at least 32"):
        AuthSettings(secret=SecretStr("short")).key()
    with pytest.raises(ConfigError, match="found 0"):
        KeysSettings(recipients_file=nowhere).public()
    assert "postgresql" not in repr(CentralSettings(database={"dsn": "postgresql://secret"}))  # type: ignore[arg-type]


def test_the_migrations_make_what_the_models_say(servers: EmbeddedServers) -> None:
    dsn = servers.postgres.create_database("migrations")
    try:
        assert migrate.current(dsn) is None
        assert migrate.migrate(dsn) == (None, migrate.newest())
        assert migrate.migrate(dsn) == (migrate.newest(), migrate.newest())
        assert migrate.differences(dsn) == []
        assert migrate.back(dsn) is None
        assert migrate.migrate(dsn) == (None, migrate.newest())
        with psycopg.connect(dsn) as connection:
            keys = connection.execute(
                "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE contype = 'p' AND connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT IN "
                "('alembic_version', 'office_users', 'office_sessions')"
            ).fetchall()
        assert len(keys) >= 13
        assert [table for table, key in keys if not key.startswith("PRIMARY KEY (kiosk_id")] == []
    finally:
        servers.postgres.drop_database("migrations")


async def test_processes_that_start_together_migrate_once(servers: EmbeddedServers) -> None:
    dsn = servers.postgres.create_database("together")
    try:
        answers = await asyncio.gather(*(asyncio.to_thread(migrate.migrate, dsn) for _ in range(4)))
        assert sorted(before or "" for before, _ in answers) == ["", *[migrate.newest()] * 3]
    finally:
        servers.postgres.drop_database("together")


def environment(servers: EmbeddedServers, dsn: str, state: Path) -> dict[str, str]:
    return {
        **servers.environment(),
        "CENTRAL_CONFIG": str(CONFIG),
        "CENTRAL_DATABASE__DSN": dsn,
        "CENTRAL_AUTH__SECRET_FILE": str(state / "secret"),
        "CENTRAL_KEYS__RECIPIENTS_FILE": str(state / "recipients.txt"),
        "CENTRAL_KEYS__OFFICE_IDENTITY_FILE": str(state / "office.key"),
        "CENTRAL_KEYS__RECOVERY_IDENTITY_FILE": str(state / "recovery.key"),
        "CENTRAL_S3__BUCKET": "made-by-init",
    }


def test_the_command_line_sets_an_office_up(
    servers: EmbeddedServers, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    for name, value in environment(servers, database, state).items():
        monkeypatch.setenv(name, value)
    before = CLI.invoke(cli, ["doctor", "--json"])
    assert before.exit_code == 1
    assert {check["what"] for check in json.loads(before.stdout) if check["state"] == "fail"} >= {"bucket", "secret"}
    made = json.loads(CLI.invoke(cli, ["init", "--name", "ada", "--json"], catch_exceptions=False).stdout)
    assert made["admin"] == "ada"
    assert len(made["password"]) >= 12
    assert {(state / name).stat().st_mode & 0o777 for name in ("secret", "office.key", "recovery.key")} == {0o600}
    again = CLI.invoke(cli, ["init", "--password-stdin"], input="another long password\n")
    assert "there is one already" in again.stdout
    assert again.stdout.count("there already") == 3
    code = json.loads(CLI.invoke(cli, ["enroll-code", "--name", "Lobby", "--json"]).stdout)
    assert str(UUID(code["kiosk_id"])) == code["kiosk_id"]
    renewed = CLI.invoke(cli, ["enroll-code", "--kiosk", code["kiosk_id"]])
    assert code["kiosk_id"] in renewed.stdout
    assert migrate.newest() in CLI.invoke(cli, ["migrate"]).stdout
    assert json.loads(CLI.invoke(cli, ["migrate", "--json"]).stdout)["after"] == migrate.newest()
    assert "there already" in CLI.invoke(cli, ["keys"]).stdout
    assert json.loads(CLI.invoke(cli, ["keys", "--json"]).stdout)["made"] is False
    assert (state / "recipients.txt").read_text().split() == made["recipients"]
    after = CLI.invoke(cli, ["doctor"])
    assert after.exit_code == 0, after.stdout
    (state / "office.key").chmod(0o644)
    (state / "recovery.key").unlink()
    monkeypatch.setenv("CENTRAL_REDIS__URL", "redis://127.0.0.1:1/0")
    later = json.loads(CLI.invoke(cli, ["doctor", "--json"]).stdout)
    assert [check["state"] for check in later] == ["ok", "warn", "ok", "ok", "ok", "fail", "warn"]
    monkeypatch.delenv("CENTRAL_REDIS__URL")
    monkeypatch.setenv("CENTRAL_DATABASE__DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("CENTRAL_S3__ENDPOINT", "http://127.0.0.1:1")
    gone = json.loads(CLI.invoke(cli, ["doctor", "--json"]).stdout)
    assert [check["state"] for check in gone][:3] == ["fail", "warn", "fail"]
    refused = CLI.invoke(cli, ["enroll-code", "--kiosk", "nonsense"])
    assert isinstance(refused.exception, KioskError)


def test_keys_are_made_once_and_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeysSettings(
        recipients_file=tmp_path / "r.txt",
        office_identity_file=tmp_path / "office.key",
        recovery_identity_file=tmp_path / "recovery.key",
    )
    settings = CentralSettings(keys=keys)
    made = setup.make_keys(settings)
    assert made == keys.public()
    assert str(restore.read_identity(tmp_path / "office.key").to_public()) == made[0]
    assert setup.make_keys(settings) is None
    with pytest.raises(setup.SetupFailed, match="left as it is"):
        setup.write_private(tmp_path / "office.key", "other")
    with pytest.raises(setup.SetupFailed, match="cannot be written"):
        setup.write_private(Path("/proc/none/x"), "other")
    monkeypatch.setenv("CENTRAL_CONFIG", str(CONFIG))
    monkeypatch.setenv("CENTRAL_KEYS__OFFICE_IDENTITY_FILE", str(tmp_path / "new" / "office.key"))
    monkeypatch.setenv("CENTRAL_KEYS__RECOVERY_IDENTITY_FILE", str(tmp_path / "new" / "recovery.key"))
    monkeypatch.setenv("CENTRAL_KEYS__RECIPIENTS_FILE", str(tmp_path / "new" / "r.txt"))
    assert "take it off this machine" in CLI.invoke(cli, ["keys"], catch_exceptions=False).stdout


def test_the_daemon_says_plainly_what_is_wrong_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("uvicorn.run", lambda *arguments, **options: started.append((arguments, options)))
    monkeypatch.setenv("CENTRAL_CONFIG", str(CONFIG))
    stopped = CLI.invoke(cli, [])
    assert isinstance(stopped.exception, ConfigError), "the DSN is missing"
    recipients = [str(key.to_public()) for key in (OFFICE_KEY, RECOVERY_KEY)]
    secrets = {"DATABASE__DSN": "postgresql://nobody@127.0.0.1:1/none", "S3__ACCESS_KEY": "A", "S3__SECRET_KEY": "B"}
    secrets |= {"AUTH__SECRET": "s" * 40, "KEYS__RECIPIENTS": json.dumps(recipients)}
    for name, value in secrets.items():
        monkeypatch.setenv(f"CENTRAL_{name}", value)
    assert CLI.invoke(cli, ["--port", "1234", "--workers", "3"]).exit_code == 0
    ((target, options),) = started
    assert (target, options["port"], options["workers"]) == (("sync.central.main:app",), 1234, 3)
    monkeypatch.setenv("CENTRAL_CONFIG", "/nowhere")
    stopped = CLI.invoke(cli, [])
    assert isinstance(stopped.exception, ConfigError)
    assert "Traceback" not in CLI.invoke(cli, ["--config", str(CONFIG), "doctor", "--help"]).stdout


# --- restore ---------------------------------------------------------------------------------------------------------


async def snapshot(tmp_path: Path) -> tuple[bytes, int, str]:
    """A real kiosk's journal, copied, squeezed and sealed as the kiosk does it; with its head."""

    path, seq, hash_ = await journal_file(tmp_path)
    squeezed = zstandard.ZstdCompressor().compress(path.read_bytes())
    return pyrage.encrypt(squeezed, [OFFICE_KEY.to_public(), RECOVERY_KEY.to_public()]), seq, hash_


async def bring(centre: Centre, kiosk: Kiosk, data: bytes, client: httpx.AsyncClient) -> str:
    """Upload as the newest snapshot of this kiosk; gives its object's key."""
    journal = Journal.opened()
    captured = capture(journal, data)
    await kiosk.send(journal)
    answer = await grant(kiosk, captured.blob_id)
    assert await upload(client, answer, data) == 200
    stored(journal, captured, answer.json()["object_key"])
    await kiosk.send(journal, 3)
    await state_becomes(centre, captured.blob_id, "stored")
    return str(answer.json()["object_key"])


async def test_a_stored_snapshot_opens_with_either_key(
    servers: EmbeddedServers, centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk, tmp_path: Path
) -> None:
    data, seq, hash_ = await snapshot(tmp_path)
    kiosk_id = UUID(kiosk.kiosk_id)
    with pytest.raises(restore.RestoreFailed, match="no snapshot"):
        await restore.newest(centre.settings, kiosk_id)
    key = await bring(centre, kiosk, data, client)
    for name, identity in (("office", OFFICE_KEY), ("recovery", RECOVERY_KEY)):
        file, out = tmp_path / f"{name}.key", tmp_path / f"{name}.sqlite"
        file.write_text(f"# a comment\n{identity}\n")
        done = await restore.restore(centre.settings, kiosk_id, file, out)
        assert (done.seq, done.hash.hex(), done.verdict.damages) == (seq, hash_, ())
        assert out.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path, "office") == ["office.key", "office.sqlite"]
    with pytest.raises(restore.RestoreFailed, match="cannot be made"):
        await restore.restore(centre.settings, kiosk_id, tmp_path / "office.key", tmp_path / "missing" / "x")
    other = tmp_path / "other.key"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    with pytest.raises(restore.RestoreFailed, match="does not open with this key"):
        await restore.restore(centre.settings, kiosk_id, other, tmp_path / "x.sqlite")
    for text, said in (("nothing", "no age identity"), ("AGE-SECRET-KEY-NONSENSE", "no age identity")):
        other.write_text(text)
        with pytest.raises(restore.RestoreFailed, match=said):
            restore.read_identity(other)
    with pytest.raises(restore.RestoreFailed, match="cannot be read"):
        restore.read_identity(tmp_path / "none")
    (servers.s3.folder / key).write_bytes(bytes(len(data)))
    with pytest.raises(restore.RestoreFailed, match="changed in the store"):
        await restore.restore(centre.settings, kiosk_id, tmp_path / "office.key", tmp_path / "x.sqlite")
    assert names(tmp_path, "x.sqlite") == []


def names(folder: Path, start: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{start}*"))


async def test_what_is_no_journal_is_not_taken_for_one(
    centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk, tmp_path: Path
) -> None:
    squeezed = zstandard.ZstdCompressor().compress(b"no database" * 1000)
    data = pyrage.encrypt(squeezed, [OFFICE_KEY.to_public()])
    await bring(centre, kiosk, data, client)
    file = tmp_path / "office.key"
    file.write_text(str(OFFICE_KEY))
    with pytest.raises(restore.RestoreFailed):
        await restore.restore(centre.settings, UUID(kiosk.kiosk_id), file, tmp_path / "x.sqlite")


async def test_the_command_restores_and_prints_the_head(  # noqa: PLR0917 - fixtures
    servers: EmbeddedServers,
    centre: Centre,
    client: httpx.AsyncClient,
    kiosk: Kiosk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, seq, hash_ = await snapshot(tmp_path)
    await bring(centre, kiosk, data, client)
    (tmp_path / "office.key").write_text(str(OFFICE_KEY))
    dsn = centre.settings.database.url()
    for name, value in environment(servers, dsn, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CENTRAL_S3__BUCKET", embedded.BUCKET)
    arguments = ["restore", kiosk.kiosk_id, "--out", str(tmp_path / "one.sqlite")]
    words = await asyncio.to_thread(CLI.invoke, cli, arguments, catch_exceptions=False)
    assert f"head {seq} {hash_}" in words.stdout
    assert "chain and ledger verified" in words.stdout
    arguments = ["restore", kiosk.kiosk_id, "--out", str(tmp_path / "two.sqlite"), "--json"]
    answer = await asyncio.to_thread(CLI.invoke, cli, arguments, catch_exceptions=False)
    assert json.loads(answer.stdout)["hash"] == hash_


# --- embedded servers ------------------------------------------------------------------------------------------------


async def test_embedded_servers_keep_their_data_and_ports_and_survive_kill(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    async with EmbeddedServers(folder) as servers:
        port = servers.postgres.port
        with psycopg.connect(servers.postgres.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        servers.postgres.kill()
        servers.postgres.start()
        servers.postgres.start()  # at work already: nothing happens
        assert servers.postgres.port == port
        pids = [server.pid for server in servers]
        environ = servers.environment()
    assert None not in pids
    assert [server.running for server in servers] == [False] * 3
    assert (folder / "credentials.json").stat().st_mode & 0o777 == 0o600
    with EmbeddedServers(folder) as again:
        with psycopg.connect(again.postgres.dsn()) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
        assert again.environment()["CENTRAL_S3__SECRET_KEY"] == environ["CENTRAL_S3__SECRET_KEY"]
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(again.postgres.dsn().replace("kiosk:", "kiosk:wrong"))


def test_what_a_killed_owner_left_running_is_ended(tmp_path: Path) -> None:
    """A demo that was killed: the next one in the same directory must start, and nothing may pile up."""
    owner = f"""
import os, pathlib, signal
from sync.central.embedded import EmbeddedServers
servers = EmbeddedServers(pathlib.Path({str(tmp_path)!r}))
servers.start()
print(*(server.pid for server in servers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", owner], capture_output=True, text=True, check=False, timeout=120)
    left = [int(pid) for pid in done.stdout.split()]
    assert len(left) == 3, done.stderr
    with EmbeddedServers(tmp_path) as servers:
        assert not [pid for pid in left if embedded._started(pid)]
        (tmp_path / "redis.pid").write_text(f"{servers.postgres.pid} 1")  # the number of somebody else by now
        servers.redis.restart()
        assert servers.postgres.running


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = EmbeddedServers(tmp_path)
    monkeypatch.setattr(servers.redis, "_command", lambda: [sys.executable, "-c", "raise SystemExit('no such luck')"])
    with pytest.raises(EmbeddedServerFailed, match="no such luck"):
        servers.redis.start()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedServerFailed, match="not installed"):
        EmbeddedServers(tmp_path / "other")


def test_root_runs_postgres_as_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces first, an unprivileged account where they are forbidden; nobody else needs anything."""
    program = Path("/bin/true")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert embedded.stranger.__wrapped__(program) == Stranger()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    allowed: list[bool] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0 if allowed.pop(0) else 1)

    monkeypatch.setattr("subprocess.run", run)
    allowed[:] = [True]
    assert embedded.stranger.__wrapped__(program).prefix[0] == "unshare"
    allowed[:] = [False, True]
    assert embedded.stranger.__wrapped__(program).user is not None
    allowed[:] = [False, False]
    with pytest.raises(EmbeddedServerFailed, match="do not be root"):
        embedded.stranger.__wrapped__(program)


def test_test_settings_differ_from_production_only_where_they_must(servers: EmbeddedServers) -> None:
    settings = central_settings(servers, "postgresql://x")
    assert base64.b64decode(settings.auth.key())
    assert settings.keys.public() == [str(OFFICE_KEY.to_public()), str(RECOVERY_KEY.to_public())]
