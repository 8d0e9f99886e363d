"""Pairing: a one-time code from the office is traded for an identity; the private key is made here and stays here.

An answer that gets lost costs nothing: the key is on disk before the code is used, and the office gives the same answer
to the same code and key again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.domain.clock import Clock
from agent.domain.errors import BatchRefused, CentreUnavailable, SyncError
from sync.edge import identity as files
from sync.edge.identity import AlreadyEnrolled, Identity
from sync.edge.settings import SyncSettings

if TYPE_CHECKING:
    import httpx

    from sync.edge.client import Http


class EnrolmentRefused(SyncError):
    """The office did not take the code: mistyped, used by another kiosk, or expired. Ask it for a new one."""

    code = "enrolment_refused"
    http_status = 403
    retryable = False


async def enrol(
    central_url: str,
    code: str,
    *,
    state_dir: Path,
    settings: SyncSettings,
    clock: Clock,
    agent_version: str,
    replace: bool = False,
    new_key: Callable[[], bytes] = files.new_private_key,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Identity:
    """Enrol this kiosk and write `identity.json`; a running agent finds it there by itself.

    Raises `InsecureAddress`, `AlreadyEnrolled`, `EnrolmentRefused`, `CentreUnavailable`.
    """
    url = files.checked_url(central_url)
    if (state_dir / files.FILE_NAME).exists() and not replace:
        raise AlreadyEnrolled(
            f"{state_dir / files.FILE_NAME} exists: this kiosk is enrolled; add --replace to enrol it anew"
        )
    key = _pending_key(state_dir, url, code, new_key)
    http = _http(url, settings, clock, agent_version=agent_version, transport=transport)
    try:
        identity = await _ask(http, Identity("", "", url, key, ()), code, agent_version)
    finally:
        await http.close()
    files.save(identity, state_dir, replace=replace)
    (state_dir / files.PENDING_NAME).unlink(missing_ok=True)
    return identity


def _pending_key(state_dir: Path, url: str, code: str, new_key: Callable[[], bytes]) -> bytes:
    """The key that was made for this code, if an earlier try got no answer; else a new one, on disk before its use."""
    pending = files.load_pending(state_dir) or {}
    if pending.get("central_url") == url and pending.get("code") == code:
        return base64.urlsafe_b64decode(str(pending["private_key"]) + "=")
    key = new_key()
    plain = {"central_url": url, "code": code, "private_key": files.unpadded(key)}
    files.write_private(state_dir / files.PENDING_NAME, plain)
    return key


def _http(
    url: str, settings: SyncSettings, clock: Clock, *, agent_version: str, transport: httpx.AsyncBaseTransport | None
) -> Http:
    from sync.edge.client import Http

    return Http(url, settings, clock, agent_version=agent_version, transport=transport)


async def _ask(http: Http, draft: Identity, code: str, agent_version: str) -> Identity:
    """`draft` with what the office gives it."""
    import msgspec

    from sync import envelope as wire

    url = draft.central_url
    try:
        answer = await http.call(
            "POST",
            wire.PATH_ENROLL,
            wire.EnrollAnswer,
            content=msgspec.json.encode(wire.EnrollRequest(code, draft.public_key, agent_version)),
            headers={"Content-Type": "application/json"},
        )
    except BatchRefused as error:
        raise EnrolmentRefused(f"{url} refused the code: {error.message}", reason=error.details["reason"]) from error
    if not answer.kiosk_id or not answer.recipients or not all(each.startswith("age1") for each in answer.recipients):
        raise CentreUnavailable(f"{url} answered without a kiosk id or without age keys; it is no office of ours")
    return Identity(answer.kiosk_id, answer.name, url, draft.private_key, tuple(answer.recipients))
