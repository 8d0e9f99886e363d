"""Who this kiosk is to its office: an Ed25519 key made here, the office's address, and the age keys it pinned.

`identity.json` in the state directory, readable by the agent alone. It is no part of the database, so a snapshot of the
journal never holds the key. The key never leaves the kiosk; the office knows its public half.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agent.domain.errors import SyncError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_NAME = "identity.json"
PENDING_NAME = "identity.pending.json"  # a key whose enrolment has not been answered yet
VERSION = 1
KEY_BYTES = 32
FILE_BYTES_MAX = 64 << 10


class IdentityInvalid(SyncError):
    """`identity.json` cannot be used as it is; the message says what to do."""

    code = "identity_invalid"
    http_status = 500
    retryable = False


class InsecureAddress(SyncError):
    """Rows and tokens do not travel in the clear: the office's address must be https, or on this very machine."""

    code = "central_url_insecure"
    http_status = 422
    retryable = False


class AlreadyEnrolled(SyncError):
    code = "already_enrolled"
    http_status = 409
    retryable = False


class NotEnrolled(SyncError):
    """This kiosk has no office yet."""

    code = "not_enrolled"
    http_status = 409
    retryable = False


@dataclass(frozen=True)
class Identity:
    """`private_key` is the 32-byte Ed25519 seed. `recipients` are age public keys of the office and its recovery."""

    kiosk_id: str
    name: str
    central_url: str
    private_key: bytes = field(repr=False)
    recipients: tuple[str, ...]

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private_key)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    @property
    def public_key(self) -> str:
        """32 bytes, base64url without padding."""
        return unpadded(self._key.public_key().public_bytes_raw())

    def assertion(self, nonce: str) -> str:
        """The compact JWS (RFC 7515, EdDSA as in RFC 8037) that trades the office's nonce for a token.

        Written out instead of taken from a library: three base64 parts, and the kiosk keeps the memory.
        """
        header = _part({"alg": "EdDSA", "typ": "JWT"})
        signed = f"{header}.{_part({'nonce': nonce, 'sub': self.kiosk_id})}"
        return f"{signed}.{unpadded(self.sign(signed.encode()))}"


def unpadded(data: bytes) -> str:
    """base64url without padding, as the wire contract has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _part(claims: dict[str, str]) -> str:
    return unpadded(json.dumps(claims, separators=(",", ":")).encode())


def checked_url(url: str) -> str:
    """`url` without a trailing slash. Raises `InsecureAddress` unless it is https or plain http to this machine."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InsecureAddress(f"{url!r} is no address of an office; write https://office.example")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InsecureAddress(f"{parts.scheme}://{parts.hostname}: no credentials, query or fragment belong there")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InsecureAddress(
            f"http://{parts.hostname} would send takings and tokens in the clear; use https:// (plain http is for "
            "an office on this machine)"
        )
    return parts.geturl().rstrip("/")


def is_loopback(host: str) -> bool:
    """True for `localhost` and literal loopback addresses; a name that merely resolves to one is not believed."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_private_key() -> bytes:
    """A fresh Ed25519 seed from the library's own system randomness."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes_raw()


def load(state_dir: Path) -> Identity | None:
    """The kiosk's identity; None when it is not enrolled. Raises `IdentityInvalid` when the file cannot be used."""
    path = state_dir / FILE_NAME
    raw = _read_private(path)
    if raw is None:
        return None
    try:
        plain = json.loads(raw)
        if plain["version"] != VERSION:
            raise IdentityInvalid(
                f"{path} has version {plain['version']}, this agent reads {VERSION}; update the agent"
            )
        return _identity(plain)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise IdentityInvalid(
            f"{path} is damaged ({type(error).__name__}: {error}); put it back from a copy or enrol this kiosk again "
            "with `kiosk enroll --replace`"
        ) from error


def save(identity: Identity, state_dir: Path, *, replace: bool = False) -> Path:
    """Write `identity.json` whole or not at all, fsynced with its folder. Raises `AlreadyEnrolled`."""
    path = state_dir / FILE_NAME
    if path.exists() and not replace:
        raise AlreadyEnrolled(f"{path} exists: this kiosk is enrolled; add --replace to enrol it anew")
    plain = {"version": VERSION, **asdict(identity), "private_key": unpadded(identity.private_key)}
    write_private(path, plain)
    return path


def load_pending(state_dir: Path) -> dict[str, Any] | None:
    """The unanswered enrolment; None when there is none or it cannot be read (then a new key is made)."""
    with contextlib.suppress(ValueError, IdentityInvalid):
        raw = _read_private(state_dir / PENDING_NAME)
        plain = json.loads(raw) if raw else None
        return plain if isinstance(plain, dict) else None
    return None


def write_private(path: Path, plain: dict[str, Any]) -> None:
    """JSON that only the owner of the folder may read, replaced atomically: old or new, never half. A state directory
    that no agent has made yet is made (0700): enrolling may come first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(plain, file, indent=2)
            file.write("\n")
            _give_to_owner_of(path.parent, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names created or removed in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _give_to_owner_of(folder: Path, handle: int) -> None:
    """Root may enrol a kiosk whose agent runs as another user: the file belongs to whoever owns the folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


def _read_private(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityInvalid(
            f"{path} cannot be opened ({error.strerror}); it must be a file of the agent's"
        ) from error
    try:
        _check_private(path, os.fstat(handle).st_mode)
        return os.read(handle, FILE_BYTES_MAX)
    finally:
        os.close(handle)


def _check_private(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise IdentityInvalid(f"{path} is not a regular file")
    if mode & 0o077:
        raise IdentityInvalid(
            f"{path} is open to other users (mode {stat.S_IMODE(mode):o}): its key may be known; enrol this kiosk "
            "again with `kiosk enroll --replace`, or `chmod 600` it if you know that nobody read it"
        )


def _identity(plain: dict[str, Any]) -> Identity:
    text = plain["private_key"]
    key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if len(key) != KEY_BYTES:
        raise ValueError(f"the private key has {len(key)} bytes, not {KEY_BYTES}")
    recipients = plain["recipients"]
    if not isinstance(recipients, list) or not all(isinstance(each, str) and each for each in recipients):
        raise ValueError("recipients must be a list of age keys")
    return Identity(
        str(plain["kiosk_id"]), str(plain["name"]), checked_url(plain["central_url"]), key, tuple(recipients)
    )
