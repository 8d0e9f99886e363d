"""How commands reach the kiosk: through the running daemon's control socket, or, when it is stopped, its store itself.

with daemon(settings) as kiosk:            # raises `DaemonStopped` when nobody answers
    print(kiosk.get("/devices"))

with offline_store(settings) as store:     # raises `StoreLocked` while the daemon runs
    ...
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.domain.errors import KioskError
from agent.settings import AgentSettings, load

if TYPE_CHECKING:
    import httpx

    from agent.store.journal import SqliteStore

SOCKET_NAME = "agent.sock"
API = "/api/v1"
TIMEOUT_S = 30.0


class DaemonStopped(KioskError):
    """Nobody answers on the control socket."""

    code = "daemon_stopped"
    http_status = 503
    retryable = True


class Refused(KioskError):
    """The daemon answered with a problem document; `details` holds it whole, `code` on the instance is the daemon's."""

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        text = str(problem.get("detail") or problem.get("title") or f"the daemon answered {status}")
        super().__init__(text, **{**problem, "status": status})
        self.code = str(problem.get("code", "refused"))  # type: ignore[misc] # the daemon's code, not this class's


def settings() -> AgentSettings:
    """This machine's settings, as the daemon reads them. Raises `ConfigError`."""
    return load(os.environ)


class Daemon:
    """The daemon's API, from this machine. Paths are below `/api/v1`; answers are JSON already decoded."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, key: str | None = None) -> Any:
        """`key`: the Idempotency-Key; one is made up when none is given (a command is typed once)."""
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._call("POST", path, json=dict(body or {}), headers=headers)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Any other method (PUT, PATCH, DELETE)."""
        return self._call(method, path, json=None if body is None else dict(body))

    def log_in(self, token: str) -> None:
        """Send this bearer token from now on: what moves money wants a person behind it."""
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        import httpx

        try:
            answer = self._http.request(method, API + path, **arguments)
        except httpx.TransportError as error:
            raise DaemonStopped(f"the daemon does not answer: {error}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        raise Refused(problem if isinstance(problem, dict) else {}, answer.status_code)


@contextmanager
def daemon(config: AgentSettings, timeout_s: float = TIMEOUT_S) -> Iterator[Daemon]:
    """The running daemon. Raises `DaemonStopped` when there is none, `KioskError` when this account may not ask it."""
    path = socket_path(config)
    if not is_running(config):
        raise DaemonStopped(f"the daemon is not running (nobody listens on {path}); start it with: kiosk agent")
    import httpx

    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{config.api.port}", timeout=timeout_s) as http:
        yield Daemon(http)


def is_running(config: AgentSettings) -> bool:
    """Whether somebody listens on the control socket. Raises `KioskError` when this account may not connect."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(socket_path(config)))
        except PermissionError as error:
            raise KioskError(f"{socket_path(config)} is for the agent's account and root: use sudo") from error
        except OSError:
            return False
    return True


def socket_path(config: AgentSettings) -> Path:
    return config.store.directory / SOCKET_NAME


@contextmanager
def offline_store(config: AgentSettings) -> Iterator[SqliteStore]:
    """The store with all projections, under its lock, while the daemon is stopped. Use its `*_now` verbs.

    Raises `StoreLocked`, which names the daemon's pid, and what opening the store raises.
    """
    from agent.main import open_store

    store = open_store(config)
    try:
        yield store
    finally:
        store.close_now()
